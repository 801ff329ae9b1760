//! Errors that do not leave: what runs inside is undone, and the caller goes on.

use std::panic::AssertUnwindSafe;

use pgrx::prelude::*;
use pgrx::{PgTryBuilder, pg_sys};

/// Runs `work` in a subtransaction; nothing if it ended in an error. A cancelled query is cancelled all the same.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: begun inside a transaction, and ended below in either way; the memory context and the resource owner of
    // the caller are set again.
    unsafe {
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let result = PgTryBuilder::new(AssertUnwindSafe(|| Some(work())))
            .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| error.rethrow())
            .catch_others(|_| None)
            .execute();
        if result.is_some() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}
