//! Safe wrappers around what Postgres offers. Beside the entry points, all unsafe code lives here.

pub mod buffer;
pub mod condition;
pub mod decoding;
pub mod definitions;
pub mod ephemeral;
pub mod function;
pub mod guard;
pub mod image;
pub mod lookup;
pub mod memory;
pub mod relation;
pub mod rights;
pub mod settings;
pub mod snapshot;
pub mod spi;
pub mod transaction;
pub mod trigger;
pub mod tuplestore;
pub mod types;
pub mod version;
pub mod waiters;

use pgrx::pg_sys;

/// The members of a list.
///
/// # Safety
///
/// `list` is null, or valid as long as what is returned.
pub unsafe fn list_members<'a>(list: *mut pg_sys::List) -> &'a [pg_sys::ListCell] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise; `elements` has `length` members.
    unsafe { std::slice::from_raw_parts((*list).elements, usize::try_from((*list).length).unwrap_or(0)) }
}
