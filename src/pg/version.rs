//! All that differs between the PostgreSQL majors that this builds for.

use std::ffi::{CStr, c_void};

use pgrx::pg_sys;

/// What a tree walker calls for each node.
pub type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

// Not among the generated bindings of 15, where newer ones have them under other names.
#[cfg(feature = "pg15")]
unsafe extern "C-unwind" {
    fn query_tree_walker(query: *mut pg_sys::Query, walker: Walker, context: *mut c_void, flags: i32) -> bool;
    fn expression_tree_walker(node: *mut pg_sys::Node, walker: Walker, context: *mut c_void) -> bool;
}

/// Passes the parts of an expression to `walker`.
///
/// # Safety
///
/// `node` is valid; `walker` and `context` go together.
pub unsafe fn walk_expression(node: *mut pg_sys::Node, walker: Walker, context: *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        return expression_tree_walker(node, walker, context);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::expression_tree_walker_impl(node, Some(walker), context);
    }
}

/// Passes the parts of a query to `walker`.
///
/// # Safety
///
/// `query` is valid; `walker` and `context` go together.
pub unsafe fn walk_query(query: *mut pg_sys::Query, walker: Walker, context: *mut c_void) -> bool {
    // SAFETY: the caller's promise; no flags: all parts.
    unsafe {
        #[cfg(feature = "pg15")]
        return query_tree_walker(query, walker, context, 0);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::query_tree_walker_impl(query, Some(walker), context, 0);
    }
}

/// Has the tables that an analysed query names read as somebody else reads them.
///
/// # Safety
///
/// `query` is valid and analysed, not rewritten yet.
pub unsafe fn check_tables_as(query: *mut pg_sys::Query, user: pg_sys::Oid) {
    // SAFETY: the caller's promise; up to 15 a table's entry says it, later ones have a list beside them.
    unsafe {
        #[cfg(feature = "pg15")]
        for cell in super::list_members((*query).rtable) {
            let table = cell.ptr_value.cast::<pg_sys::RangeTblEntry>();
            if (*table).rtekind == pg_sys::RTEKind::RTE_RELATION {
                (*table).checkAsUser = user;
            }
        }
        #[cfg(not(feature = "pg15"))]
        for cell in super::list_members((*query).rteperminfos) {
            (*cell.ptr_value.cast::<pg_sys::RTEPermissionInfo>()).checkAsUser = user;
        }
    }
}

/// Where shared memory counts the transactions that wrote and ended.
pub fn completion_count() -> *const u64 {
    // SAFETY: the struct lives in shared memory as long as the server; nothing is read but its address.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return &raw const (*pg_sys::ShmemVariableCache).xactCompletionCount;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return &raw const (*pg_sys::TransamVariables).xactCompletionCount;
    }
}

/// The index of the primary key, unless that is deferrable; from 17 on the relation has those too.
///
/// # Safety
///
/// `rel` is open.
pub unsafe fn primary_key_index(rel: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::RelationGetPrimaryKeyIndex(rel);
        #[cfg(feature = "pg18")]
        return pg_sys::RelationGetPrimaryKeyIndex(rel, false);
    }
}

/// The columns of a row type, dropped ones among them.
///
/// # Safety
///
/// `descriptor` is live, and as long as what is returned.
pub unsafe fn columns<'a>(descriptor: pg_sys::TupleDesc) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: a descriptor has `natts` attributes in a row; in 18 behind an array of shorter ones.
    unsafe {
        let count = usize::try_from((*descriptor).natts).unwrap_or(0);
        #[cfg(not(feature = "pg18"))]
        return (*descriptor).attrs.as_slice(count);
        #[cfg(feature = "pg18")]
        return std::slice::from_raw_parts(pg_sys::TupleDescAttr(descriptor, 0), count);
    }
}

/// Whether this transaction has written a whole relation anew.
///
/// # Safety
///
/// `rel` is open.
pub unsafe fn is_rewritten(rel: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; 0 is InvalidSubTransactionId.
    unsafe {
        #[cfg(feature = "pg15")]
        return (*rel).rd_firstRelfilenodeSubid != 0;
        #[cfg(not(feature = "pg15"))]
        return (*rel).rd_firstRelfilelocatorSubid != 0;
    }
}

/// Whether a sub-command of ALTER TABLE gives a generated column another expression: from 17 on.
pub fn sets_expression(subtype: pg_sys::AlterTableType::Type) -> bool {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    let found = None;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    let found = Some(pg_sys::AlterTableType::AT_SetExpression);
    found == Some(subtype)
}

/// A type and its modifier by name; an unknown name raises 42704.
pub fn parse_type(name: &CStr) -> (pg_sys::Oid, i32) {
    let (mut typid, mut typmod) = (pg_sys::InvalidOid, 0);
    // SAFETY: the parser of type names with a live C string; no context for soft errors: they are raised.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::parseTypeString(name.as_ptr(), &mut typid, &mut typmod, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::parseTypeString(name.as_ptr(), &mut typid, &mut typmod, std::ptr::null_mut());
    }
    (typid, typmod)
}

/// A tuple out of the reorder buffer: up to 16 they stand in buffers of its own.
#[cfg(any(feature = "pg15", feature = "pg16"))]
type Buffered = *mut pg_sys::ReorderBufferTupleBuf;
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
type Buffered = pg_sys::HeapTuple;

/// A decoded tuple, if there is one.
///
/// # Safety
///
/// `buffered` is null or live.
pub unsafe fn decoded(buffered: Buffered) -> Option<pg_sys::HeapTuple> {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: the caller's promise.
    return (!buffered.is_null()).then(|| unsafe { &raw mut (*buffered).tuple });
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    return (!buffered.is_null()).then_some(buffered);
}
