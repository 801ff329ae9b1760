//! Definitions of relations, read from the relation cache.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use syncline_delta::Error;

use super::definitions::Remembered;
use super::image::Storage;
use super::{list_members, rights, version};
use crate::error::unwrap_or_raise;

/// A column as the catalog has it.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// Its number.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub storage: Storage,
    /// Type modifier.
    pub typmod: i32,
    /// Collation.
    pub collation: pg_sys::Oid,
    /// `attgenerated`: 0, `s` or `v`.
    pub generated: u8,
    /// Declared NOT NULL.
    pub not_null: bool,
}

/// One of our triggers.
#[derive(Debug, Clone)]
pub struct OwnTrigger {
    /// The trigger's name.
    pub name: String,
    /// `tgenabled`, `A` for always.
    pub enabled: u8,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Whether it fires on INSERT.
    pub on_insert: bool,
}

/// A relation's definition.
#[derive(Debug, Clone)]
pub struct Relation {
    /// OID.
    pub oid: pg_sys::Oid,
    /// Schema and name.
    pub name: (String, String),
    /// Live columns.
    pub attributes: Vec<Attribute>,
    /// Attribute numbers of the primary key, else of the replica identity index; in key order.
    pub key: Vec<i16>,
    /// Triggers named as ours are.
    pub triggers: Vec<OwnTrigger>,
    /// Whether a partition is being detached.
    pub detaching: bool,
    /// Whether it is itself a partition.
    pub is_partition: bool,
    /// Whether it has partitions.
    pub is_partitioned: bool,
    /// Whether it has a parent of plain inheritance.
    pub inherits: bool,
    /// Whether a crash leaves it as it is: neither unlogged nor temporary.
    pub is_permanent: bool,
    /// The columns whose old values the write-ahead log has when they change; nothing if it has all, always.
    pub identity: Option<Vec<i16>>,
}

/// Names of our triggers. `~` sorts behind all letters: BEFORE triggers fire in this order.
pub const STAMP: &str = "~syncline_stamp";
/// See [`STAMP`].
pub const LOG: &str = "syncline_log";
/// Name of the statement trigger for TRUNCATE.
pub const TRUNCATE: &str = "syncline_truncate";

/// The column that the trigger stamps.
pub const VERSION: &str = "_sync_version";

/// Quotes an identifier always, so that keywords are no case of their own.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Relation {
    /// Schema and name as SQL takes them.
    pub fn full_name(&self) -> String {
        format!("{}.{}", quoted(&self.name.0), quoted(&self.name.1))
    }

    /// The columns of the key, in its order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Attribute> {
        self.key.iter().filter_map(|&number| self.numbered(number))
    }

    /// A column by name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// A column by number.
    pub fn numbered(&self, number: i16) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.number == number)
    }

    /// The column that the trigger stamps, if it is of the type that is stamped.
    pub fn version(&self) -> Option<&Attribute> {
        self.attribute(VERSION).filter(|attribute| attribute.storage.typid == pg_sys::INT8OID)
    }

    /// A trigger of ours by name.
    pub fn trigger(&self, name: &str) -> Option<&OwnTrigger> {
        self.triggers.iter().find(|trigger| trigger.name == name)
    }
}

/// # Safety
///
/// `pointer` is a zero-terminated string.
unsafe fn string(pointer: *const std::ffi::c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// A name as Postgres takes it; names with a zero byte exist nowhere.
fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

/// A schema's OID.
pub fn schema(name: &str) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up with a live C string.
    let oid = unsafe { pg_sys::get_namespace_oid(c_name(name).as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// A relation's OID.
pub fn find(schema: pg_sys::Oid, name: &str) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up with a live C string.
    let oid = unsafe { pg_sys::get_relname_relid(c_name(name).as_ptr(), schema) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The schemas of the search path, without temporary ones.
pub fn search_path() -> Vec<pg_sys::Oid> {
    // SAFETY: fetch_search_path returns a list of OIDs in the current context.
    unsafe {
        let list = pg_sys::fetch_search_path(true);
        oids(list).into_iter().filter(|&schema| !pg_sys::isAnyTempNamespace(schema)).collect()
    }
}

/// # Safety
///
/// `list` is null or a list of OIDs.
unsafe fn oids(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller's promise.
    unsafe { list_members(list).iter().map(|cell| cell.oid_value).collect() }
}

/// Whether a relation belongs to the extension.
pub fn is_own(relation: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups, which logical decoding may do.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"syncline".as_ptr(), true);
        extension != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) == extension
    }
}

/// A table of the extension's own; an error ends the call where the extension is not installed.
pub fn internal(name: &'static str) -> pg_sys::Oid {
    thread_local! {
        static TABLES: Remembered<&'static str, Option<pg_sys::Oid>> = Remembered::new();
    }
    let read = |name: &&str| schema("syncline").and_then(|schema| find(schema, name));
    let found = TABLES.with(|tables| tables.get(name, read));
    unwrap_or_raise(found.ok_or_else(|| Error::rule("55000", "extension syncline is not installed")))
}

/// A column's number.
pub fn column_number(relation: pg_sys::Oid, name: &str) -> Option<i16> {
    // SAFETY: a syscache look-up with a live C string.
    let number = unsafe { pg_sys::get_attnum(relation, c_name(name).as_ptr()) };
    (number > 0).then_some(number)
}

/// The relations that hold a table's rows: itself, or its partitions, which are locked until the end of the transaction.
pub fn leaves(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: a syscache look-up.
    let kind = |relation| unsafe { pg_sys::get_rel_relkind(relation) } as u8;
    if kind(table) != pg_sys::RELKIND_PARTITIONED_TABLE {
        return vec![table];
    }
    tree(table).into_iter().filter(|&member| kind(member) == pg_sys::RELKIND_RELATION).collect()
}

/// A btree of an open table, over all its rows, that begins with these columns in this order. Places that are not taken
/// are zero.
///
/// # Safety
///
/// `rel` is open, and locked.
pub unsafe fn index_on(rel: pg_sys::Relation, columns: [i16; MAX_COLUMNS]) -> Option<pg_sys::Oid> {
    thread_local! {
        static INDEXES: Remembered<(pg_sys::Oid, [i16; MAX_COLUMNS]), Option<pg_sys::Oid>> = Remembered::new();
    }
    // SAFETY: the caller's promise.
    let (oid, find) = unsafe { ((*rel).rd_id, |_: &_| find_index(rel, &columns)) };
    INDEXES.with(|indexes| indexes.get((oid, columns), find))
}

/// How many columns an index is looked for by.
pub const MAX_COLUMNS: usize = 4;

/// # Safety
///
/// `rel` is open.
unsafe fn find_index(rel: pg_sys::Relation, columns: &[i16]) -> Option<pg_sys::Oid> {
    let columns: Vec<i16> = columns.iter().copied().filter(|&column| column != 0).collect();
    // SAFETY: the caller's promise; an index is open while it is looked at.
    unsafe {
        oids(pg_sys::RelationGetIndexList(rel)).into_iter().find(|&oid| {
            let index = pg_sys::RelationIdGetRelation(oid);
            if index.is_null() {
                return false;
            }
            let form = &*(*index).rd_index;
            let numbers = form.indkey.values.as_slice(usize::try_from(form.indnkeyatts).unwrap_or(0));
            let is_whole = pg_sys::heap_attisnull(
                (*index).rd_indextuple,
                pg_sys::Anum_pg_index_indpred as i32,
                std::ptr::null_mut(),
            );
            let is_btree = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID;
            let serves = is_btree && form.indisvalid && is_whole && numbers.starts_with(&columns);
            pg_sys::RelationClose(index);
            serves
        })
    }
}

/// A relation, locked until the end of the transaction, and all its partitions, it first. What is read of them now is what
/// they are.
pub fn tree(root: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    unsafe extern "C-unwind" {
        fn find_all_inheritors(
            parent: pg_sys::Oid,
            lock: pg_sys::LOCKMODE,
            parents: *mut *mut pg_sys::List,
        ) -> *mut pg_sys::List;
    }
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    lock_now(root);
    // SAFETY: locks and lists; errors unwind through the boundary guard.
    unsafe { oids(pg_sys::ffi::pg_guard_ffi_boundary(|| find_all_inheritors(root, lock, std::ptr::null_mut()))) }
}

/// Locks a relation as [`tree`] does, for who knows whether it has partitions.
pub fn lock(relation: pg_sys::Oid, is_partitioned: bool) {
    if is_partitioned {
        tree(relation);
    } else {
        lock_now(relation);
    }
}

/// Locks a relation, whether or not it is still there, and takes in what others have altered. A lock that the statement has
/// from its planning is taken without a look at that; partitions come and go under it.
fn lock_now(relation: pg_sys::Oid) {
    // SAFETY: a call from SQL is in a transaction; errors unwind through the guard of what is called.
    unsafe {
        pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        pg_sys::AcceptInvalidationMessages();
    }
}

/// The tracked table that a partition belongs to; a table that is no partition is its own.
pub fn root(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up.
    let is_partition = unsafe { pg_sys::get_rel_relispartition(relation) };
    // A parent of plain inheritance is an ancestor too.
    if is_partition { ancestors(relation).last().copied().unwrap_or(relation) } else { relation }
}

/// What a relation inherits from, the topmost last.
fn ancestors(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    unsafe extern "C-unwind" {
        fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
    }
    // SAFETY: reads pg_inherits; returns a list of OIDs.
    unsafe { oids(pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(relation))) }
}

/// Reads a relation's definition; nothing if it does not exist or is no table.
pub fn read(oid: pg_sys::Oid) -> Option<Relation> {
    // SAFETY: the relation is open, and with it its descriptor, triggers and index lists, until it is
    // closed below; the lock is kept until the end of the transaction.
    unsafe {
        let rel = pg_sys::try_relation_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if rel.is_null() {
            return None;
        }
        let relation = describe(rel).map(|mut relation| {
            relation.detaching =
                relation.is_partitioned && (*pg_sys::RelationGetPartitionDesc(rel, true)).detached_exist;
            relation
        });
        pg_sys::relation_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
        relation
    }
}

/// Reads a relation's definition as [`read`] does, but without a lock: for decoding, where the catalog stands still and whoever
/// holds the lock may be waiting for what is decoded.
pub fn peek(oid: pg_sys::Oid) -> Option<Relation> {
    // SAFETY: the relation is open until it is closed below.
    unsafe {
        let rel = pg_sys::RelationIdGetRelation(oid);
        if rel.is_null() {
            return None;
        }
        let relation = describe(rel);
        pg_sys::RelationClose(rel);
        relation
    }
}

/// The definition of an open relation; nothing if it is no table.
///
/// # Safety
///
/// `rel` is open.
unsafe fn describe(rel: pg_sys::Relation) -> Option<Relation> {
    // SAFETY: with the relation its descriptor, triggers and index lists are open.
    unsafe {
        let form = &*(*rel).rd_rel;
        let oid = (*rel).rd_id;
        let is_partitioned = form.relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
        if form.relkind as u8 != pg_sys::RELKIND_RELATION && !is_partitioned {
            return None;
        }
        let schema = pg_sys::get_namespace_name(form.relnamespace);
        let name = (if schema.is_null() { String::new() } else { string(schema) }, string(form.relname.data.as_ptr()));
        let key = key(rel);
        let logs_all = form.relreplident as u8 == pg_sys::REPLICA_IDENTITY_FULL;
        Some(Relation {
            oid,
            name,
            attributes: attributes((*rel).rd_att),
            key,
            triggers: triggers((*rel).trigdesc),
            detaching: false,
            is_partition: form.relispartition,
            is_partitioned,
            inherits: !form.relispartition && !ancestors(oid).is_empty(),
            is_permanent: form.relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT,
            identity: (!logs_all).then(|| index_columns(pg_sys::RelationGetReplicaIndex(rel))),
        })
    }
}

/// The live columns of a row type.
///
/// # Safety
///
/// `descriptor` is live.
pub unsafe fn attributes(descriptor: pg_sys::TupleDesc) -> Vec<Attribute> {
    // SAFETY: the caller's promise; names are C strings.
    unsafe {
        version::columns(descriptor)
            .iter()
            .filter(|a| !a.attisdropped)
            .map(|a| Attribute {
                number: a.attnum,
                name: string(a.attname.data.as_ptr()),
                storage: Storage { typid: a.atttypid, length: a.attlen, by_value: a.attbyval },
                typmod: a.atttypmod,
                collation: a.attcollation,
                generated: a.attgenerated as u8,
                not_null: a.attnotnull,
            })
            .collect()
    }
}

/// # Safety
///
/// `rel` is open.
unsafe fn key(rel: pg_sys::Relation) -> Vec<i16> {
    // SAFETY: the two look-ups fill the list of indexes.
    unsafe {
        let primary = version::primary_key_index(rel);
        index_columns(if primary != pg_sys::InvalidOid { primary } else { pg_sys::RelationGetReplicaIndex(rel) })
    }
}

/// The columns of an index of an open relation; none of no index.
fn index_columns(index: pg_sys::Oid) -> Vec<i16> {
    if index == pg_sys::InvalidOid {
        return Vec::new();
    }
    // SAFETY: the index exists while its table is open; an index's key numbers are `indnkeyatts`.
    unsafe {
        let index = pg_sys::RelationIdGetRelation(index);
        if index.is_null() {
            return Vec::new();
        }
        let form = (*index).rd_index;
        let count = usize::try_from((*form).indnkeyatts).unwrap_or(0);
        let numbers = (*form).indkey.values.as_slice(count).to_vec();
        pg_sys::RelationClose(index);
        numbers
    }
}

/// # Safety
///
/// `list` is null or the trigger list of an open relation.
unsafe fn triggers(list: *mut pg_sys::TriggerDesc) -> Vec<OwnTrigger> {
    if list.is_null() {
        return Vec::new();
    }
    let ours = |name: &str| [(STAMP, "stamp"), (LOG, "log"), (TRUNCATE, "truncated")].into_iter().find(|o| o.0 == name);
    // SAFETY: the list has `numtriggers` triggers, each with `tgnargs` arguments.
    let named: Vec<_> = unsafe {
        let count = usize::try_from((*list).numtriggers).unwrap_or(0);
        let argument = |trigger: &pg_sys::Trigger, i| string(*trigger.tgargs.add(i));
        std::slice::from_raw_parts((*list).triggers, count)
            .iter()
            .filter_map(|trigger| {
                let (name, function) = ours(&string(trigger.tgname))?;
                let count = usize::try_from(trigger.tgnargs).unwrap_or(0);
                let own = OwnTrigger {
                    name: name.to_owned(),
                    enabled: trigger.tgenabled as u8,
                    arguments: (0..count).map(|i| argument(trigger, i)).collect(),
                    on_insert: (trigger.tgtype as u32 & pg_sys::TRIGGER_TYPE_INSERT) != 0,
                };
                Some((own, trigger.tgfoid, function))
            })
            .collect()
    };
    // A look-up takes in what others have altered meanwhile, which frees the list even of an open relation.
    named.into_iter().filter(|(_, found, function)| is_ours(*found, function)).map(|(own, ..)| own).collect()
}

/// Whether a function is `syncline.name`.
fn is_ours(function: pg_sys::Oid, name: &str) -> bool {
    // SAFETY: syscache look-ups; the name is a palloc'd C string or null.
    unsafe {
        let found = pg_sys::get_func_name(function);
        !found.is_null() && string(found) == name && schema("syncline") == Some(pg_sys::get_func_namespace(function))
    }
}

/// The columns of `wanted` that the caller may not read.
pub fn unreadable<'a>(relation: &Relation, wanted: impl Iterator<Item = &'a Attribute>) -> Vec<String> {
    // SAFETY: access checks by syscache look-ups.
    unsafe {
        let user = rights::user();
        let select = pg_sys::ACL_SELECT as pg_sys::AclMode;
        if pg_sys::pg_class_aclcheck(relation.oid, user, select) == pg_sys::AclResult::ACLCHECK_OK {
            return Vec::new();
        }
        wanted
            .filter(|a| {
                pg_sys::pg_attribute_aclcheck(relation.oid, a.number, user, select) != pg_sys::AclResult::ACLCHECK_OK
            })
            .map(|a| a.name.clone())
            .collect()
    }
}

/// Whether row security restricts what the caller sees of this relation. An error if it does, and the setting
/// `row_security` says that it may not.
pub fn row_security(relation: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog; InvalidOid means the current user.
    unsafe {
        pg_sys::check_enable_rls(relation, pg_sys::InvalidOid, false)
            == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
    }
}
