//! The rows of a shape for pages rendered by the transaction that writes them.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::change::Op;

use crate::error::unwrap_or_raise;
use crate::output::{Rows, Sink};
use crate::pg::function::{Call, entry_point};
use crate::pg::tuplestore::Tuplestore;
use crate::plan;

entry_point!(
    /// `sync_preview(jsonb)`
    syncline_sync_preview,
    pg_finfo_syncline_sync_preview,
    |call: &mut Call| {
        let mut result = Rows::new(Tuplestore::result(call));
        let shape = unwrap_or_raise(call.jsonb(0).ok_or_else(|| Error::rule("22004", "shape is NULL")));
        unwrap_or_raise(plan::scan(&shape, &mut |relation, key, value| {
            result.row(Op::Upsert, relation, key, value, "");
        }));
        result.commit("", true);
        pg_sys::Datum::from(0usize)
    }
);
