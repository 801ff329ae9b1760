//! The rows of a shape for pages rendered by the transaction that writes them.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::change::Op;

use crate::error::unwrap_or_raise;
use crate::pg::function::{Call, entry_point};
use crate::pg::tuplestore::Tuplestore;
use crate::plan::{self, Changes};

entry_point!(
    /// `sync_preview(jsonb)`
    syncline_sync_preview,
    pg_finfo_syncline_sync_preview,
    |call: &mut Call| {
        let mut result = Changes::new(Tuplestore::result(call));
        let shape = unwrap_or_raise(call.jsonb(0).ok_or_else(|| Error::rule("22004", "shape is NULL")));
        unwrap_or_raise(plan::scan(&shape, &mut |relation, key, value| {
            result.put(Op::Upsert, relation, key, value, "");
        }));
        result.put(Op::Commit, "", b"", b"{\"up_to_date\": true}", "");
        pg_sys::Datum::from(0usize)
    }
);
