//! What logical decoding hands to an output plugin. The catalog that callbacks see is the one of the moment that is
//! decoded; no locks are taken on users' tables and no queries run.

use std::ffi::CStr;

use pgrx::{PgMemoryContexts, pg_sys};
use syncline_delta::snapshot::Xid;
use syncline_delta::stream::net::Cell;

use super::image::{self, Storage};
use super::memory::Area;
use super::{relation, snapshot, version};

/// The decoding in progress.
#[derive(Clone, Copy)]
pub struct Context(*mut pg_sys::LogicalDecodingContext);

impl Context {
    /// # Safety
    ///
    /// `context` is what Postgres passed to the callback that is running.
    pub unsafe fn new(context: *mut pg_sys::LogicalDecodingContext) -> Self {
        Self(context)
    }

    /// The client's options.
    pub fn options(&self) -> Vec<(String, Option<String>)> {
        // SAFETY: the list has DefElem nodes; defGetString returns a C string where there is an argument.
        unsafe {
            let list = (*self.0).output_plugin_options;
            if list.is_null() {
                return Vec::new();
            }
            let length = usize::try_from((*list).length).unwrap_or(0);
            let string = |pointer| CStr::from_ptr(pointer).to_string_lossy().into_owned();
            std::slice::from_raw_parts((*list).elements, length)
                .iter()
                .map(|cell| {
                    let option = cell.ptr_value.cast::<pg_sys::DefElem>();
                    let value = (!(*option).arg.is_null()).then(|| string(pg_sys::defGetString(option)));
                    (string((*option).defname), value)
                })
                .collect()
        }
    }

    /// Says that all output is text, and keeps `state` until decoding ends, whatever ends it.
    pub fn begin<T>(&self, state: T) {
        // SAFETY: the context outlives all callbacks; the state is dropped with it.
        unsafe {
            (*self.0).output_plugin_private =
                PgMemoryContexts::For((*self.0).context).leak_and_drop_on_delete(state).cast();
            // `begin` is called by the startup callback, where this can still be said.
            (*self.0).options.output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_TEXTUAL_OUTPUT;
            (*self.0).options.receive_rewrites = false;
        }
    }

    /// The state that [`Context::begin`] kept.
    ///
    /// # Safety
    ///
    /// It is of type `T`, and nobody else borrows it.
    pub unsafe fn state<'a, T>(&self) -> &'a mut T {
        // SAFETY: the caller's promise; Postgres calls no callback within another.
        unsafe { &mut *(*self.0).output_plugin_private.cast::<T>() }
    }

    /// An empty memory area that lives as long as the decoding.
    pub fn area(&self, name: &'static CStr) -> Area {
        // SAFETY: the context is that of the decoding.
        unsafe { Area::under((*self.0).context, name) }
    }

    /// Up to where the client has acknowledged.
    pub fn confirmed(&self) -> u64 {
        // SAFETY: decoding holds its slot.
        unsafe { (*(*self.0).slot).data.confirmed_flush }
    }

    /// Sends texts, each as one message; `ends` if nothing more comes of the same transaction.
    pub fn write(&self, texts: &[Vec<u8>], ends: bool) {
        for (i, text) in texts.iter().enumerate() {
            let is_last = ends && i + 1 == texts.len();
            // SAFETY: called from a callback that may write; the bytes are appended with their length.
            unsafe {
                pg_sys::OutputPluginPrepareWrite(self.0, is_last);
                let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
                pg_sys::appendBinaryStringInfo((*self.0).out, text.as_ptr().cast(), length);
                pg_sys::OutputPluginWrite(self.0, is_last);
            }
        }
    }

    /// Tells the client that decoding goes on, though there is nothing to send.
    pub fn progress(&self, skipped: bool) {
        // SAFETY: may be called from any callback of a transaction.
        unsafe { pg_sys::OutputPluginUpdateProgress(self.0, skipped) }
    }
}

/// The transaction that is decoded.
pub struct Transaction<'a>(&'a pg_sys::ReorderBufferTXN);

impl Transaction<'_> {
    /// # Safety
    ///
    /// `transaction` is what Postgres passed to the callback that is running.
    pub unsafe fn new(transaction: *mut pg_sys::ReorderBufferTXN) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { &*transaction })
    }

    /// The top-level id.
    pub fn xid(&self) -> Xid {
        snapshot::whole(self.0.xid)
    }

    /// Transactions below it had ended, and if they committed were decoded, before this one.
    pub fn floor(&self) -> Option<Xid> {
        // SAFETY: a base snapshot lives as long as its transaction.
        (!self.0.base_snapshot.is_null()).then(|| snapshot::whole(unsafe { (*self.0.base_snapshot).xmin }))
    }

    /// Where it ends in the log.
    pub fn end(&self) -> u64 {
        self.0.end_lsn
    }

    /// When it was committed, in microseconds since the beginning of 2000.
    pub fn time(&self) -> i64 {
        // SAFETY: all members of the union are timestamps.
        unsafe { self.0.xact_time.commit_time }
    }

    /// The name of the origin that it was replicated from.
    pub fn origin(&self) -> Option<String> {
        const NONE: pg_sys::RepOriginId = 0;
        let mut name = std::ptr::null_mut();
        // SAFETY: a syscache look-up inside the transaction that decoding runs in; the name is a palloc'd C string.
        unsafe {
            if self.0.origin_id == NONE || !pg_sys::replorigin_by_oid(self.0.origin_id, true, &mut name) {
                return None;
            }
            Some(CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }
}

/// What happened to a row.
pub enum RowChange<'a> {
    /// It came.
    Insert(Tuple<'a>),
    /// It changed; the old version is there if the key changed or is large, or if the table logs all old rows.
    Update(Option<Tuple<'a>>, Tuple<'a>),
    /// It went; the old version has the columns that the table logs.
    Delete(Option<Tuple<'a>>),
}

/// A row version out of the log.
#[derive(Clone, Copy)]
pub struct Tuple<'a> {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    lives: std::marker::PhantomData<&'a ()>,
}

/// An open relation that a callback was given.
#[derive(Clone, Copy)]
pub struct Opened(pg_sys::Relation);

impl Opened {
    /// # Safety
    ///
    /// `relation` is open during the callback that is running.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self(relation)
    }

    /// Its OID.
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.0).rd_id }
    }

    /// The change of one of its rows; nothing for what is no change of rows.
    ///
    /// # Safety
    ///
    /// `change` is the change that Postgres passed with this relation, and outlives the result.
    pub unsafe fn change<'a>(&self, change: *mut pg_sys::ReorderBufferChange) -> Option<RowChange<'a>> {
        // SAFETY: the caller's promise; a change of rows has this member of the union.
        let (action, old, new) = unsafe {
            let tuples = &(*change).data.tp;
            let tuple = |tuple| Tuple { tuple, descriptor: (*self.0).rd_att, lives: std::marker::PhantomData };
            let (old, new) = (version::decoded(tuples.oldtuple), version::decoded(tuples.newtuple));
            ((*change).action, old.map(tuple), new.map(tuple))
        };
        use pg_sys::ReorderBufferChangeType as Type;
        match action {
            Type::REORDER_BUFFER_CHANGE_INSERT => new.map(RowChange::Insert),
            Type::REORDER_BUFFER_CHANGE_UPDATE => new.map(|new| RowChange::Update(old, new)),
            Type::REORDER_BUFFER_CHANGE_DELETE => Some(RowChange::Delete(old)),
            _ => None,
        }
    }
}

/// Whether a value is a pointer to a large value that lies elsewhere; `Some(true)` if that is on disk and must not be followed.
fn external(datum: pg_sys::Datum) -> Option<bool> {
    // SAFETY: the datum is a live varlena; an external one has a tag behind its first byte.
    unsafe {
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        pgrx::varlena::varatt_is_1b_e(pointer).then(|| {
            u32::from((*pointer.cast::<pg_sys::varattrib_1b_e>()).va_tag) == pg_sys::vartag_external::VARTAG_ONDISK
        })
    }
}

impl Tuple<'_> {
    /// Whether a value of it lies elsewhere.
    pub fn has_external(&self) -> bool {
        // SAFETY: the tuple is live.
        unsafe { u32::from((*(*self.tuple).t_data).t_infomask) & pg_sys::HEAP_HASEXTERNAL != 0 }
    }

    /// A column; it lives as long as the tuple.
    pub fn cell(&self, number: i16, storage: Storage) -> Cell<pg_sys::Datum> {
        let mut null = false;
        // SAFETY: the tuple is of the relation with this descriptor, and the number one of its columns.
        let datum = unsafe { pg_sys::heap_getattr(self.tuple, i32::from(number), self.descriptor, &mut null) };
        match null {
            true => Cell::Null,
            false if storage.length == -1 && external(datum) == Some(true) => Cell::Unlogged,
            false => Cell::Value(datum),
        }
    }

    /// A column of a type of fixed length, if it is not NULL.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        let mut null = false;
        // SAFETY: see `cell`.
        let datum = unsafe { pg_sys::heap_getattr(self.tuple, i32::from(number), self.descriptor, &mut null) };
        (!null).then_some(datum)
    }

    /// A column of a type of any length, if it is not NULL and in the log.
    pub fn large(&self, number: i16) -> Option<pg_sys::Datum> {
        self.value(number).filter(|&datum| external(datum) != Some(true))
    }
}

/// The columns of a tuple, read in one go. It is kept for the next tuple of the relation.
#[derive(Default)]
pub struct Deformed {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Deformed {
    /// Reads a tuple; what was read before is gone.
    pub fn read(&mut self, tuple: Tuple<'_>) {
        // SAFETY: the tuple is of the relation with this descriptor, whose columns both arrays have room for.
        unsafe {
            let width = usize::try_from((*tuple.descriptor).natts).unwrap_or(0);
            self.values.resize(width, pg_sys::Datum::from(0usize));
            self.nulls.resize(width, true);
            let (values, nulls) = (self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
            pg_sys::heap_deform_tuple(tuple.tuple, tuple.descriptor, values, nulls);
        }
    }

    /// A column of the tuple that was read, which must still be there.
    pub fn cell(&self, number: i16, storage: Storage) -> Cell<pg_sys::Datum> {
        match self.value(number) {
            Some(datum) if storage.length == -1 && external(datum) == Some(true) => Cell::Unlogged,
            Some(datum) => Cell::Value(datum),
            None => Cell::Null,
        }
    }

    /// The same of a type of fixed length, if it is not NULL.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        let place = usize::try_from(number - 1).unwrap_or(usize::MAX);
        self.values.get(place).copied().filter(|_| !self.nulls[place])
    }

    /// The same of a type of any length, if it is not NULL and in the log.
    pub fn large(&self, number: i16) -> Option<pg_sys::Datum> {
        self.value(number).filter(|&datum| external(datum) != Some(true))
    }
}

/// What copies take.
pub struct Copied {
    /// Their bytes.
    pub bytes: usize,
    /// Whether none of them is compressed or was put together from parts.
    pub is_plain: bool,
}

/// Whether a value is where it stands, as it is: reading it cannot fail.
pub fn is_plain(datum: pg_sys::Datum, storage: Storage) -> bool {
    storage.length != -1 || image::is_inline(datum)
}

/// Replaces values by copies in the current memory context.
pub fn copy<'a>(cells: impl Iterator<Item = (&'a mut Cell<pg_sys::Datum>, Storage)>) -> Copied {
    let mut copied = Copied { bytes: 0, is_plain: true };
    for (cell, storage) in cells {
        let Cell::Value(datum) = cell else { continue };
        if storage.by_value {
            continue;
        }
        copied.is_plain &= is_plain(*datum, storage);
        // SAFETY: the datum is a live value of a type stored so. A large value that decoding has put together lies in memory
        // that is freed behind the callback.
        unsafe {
            if storage.length == -1 && external(*datum).is_some() {
                let copy = pg_sys::detoast_external_attr(datum.cast_mut_ptr());
                copied.bytes += pgrx::varlena::varsize_any(copy);
                *datum = pg_sys::Datum::from(copy);
                continue;
            }
            let from = datum.cast_mut_ptr::<u8>();
            let size = match storage.length {
                -1 => pgrx::varlena::varsize_any(from.cast()),
                -2 => CStr::from_ptr(from.cast()).to_bytes_with_nul().len(),
                fixed => usize::try_from(fixed).unwrap_or(0),
            };
            let copy = pg_sys::palloc(size.max(1)).cast::<u8>();
            std::ptr::copy_nonoverlapping(from, copy, size);
            copied.bytes += size;
            *datum = pg_sys::Datum::from(copy);
        }
    }
    copied
}

/// The generation of cursors, as the catalog of the moment has it; nothing if the extension is not there.
///
/// Its table is a `user_catalog_table`: what such tables held is known at each point of the log.
pub fn epoch() -> Option<u64> {
    let table = relation::find(relation::schema("syncline")?, "state").filter(|&table| relation::is_own(table))?;
    let number = relation::peek(table)?.attribute("epoch")?.number;
    let mut epoch = None;
    // SAFETY: the table is open while its rows are read; without a snapshot the scan takes that of the moment.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let rel = pg_sys::table_open(table, lock);
        let scan =
            pg_sys::systable_beginscan(rel, pg_sys::InvalidOid, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        let tuple = pg_sys::systable_getnext(scan);
        if !tuple.is_null() {
            let mut null = false;
            let datum = pg_sys::heap_getattr(tuple, i32::from(number), (*rel).rd_att, &mut null);
            epoch = (!null).then(|| datum.value() as u64);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(rel, lock);
    }
    epoch
}
