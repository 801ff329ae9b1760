//! Waiting for a change without holding a snapshot.

use std::time::{Duration, Instant};

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::{Cursor, Position};

use crate::changes;
use crate::error::{Result, unwrap_or_raise};
use crate::pg::function::{Call, entry_point};
use crate::pg::{transaction, tuplestore};

entry_point!(
    /// `sync_wait(text, jsonb, interval, INOUT boolean)`
    syncline_sync_wait,
    pg_finfo_syncline_sync_wait,
    |call: &mut Call| {
        let changed = unwrap_or_raise(wait(call));
        tuplestore::record(call, [pg_sys::Datum::from(changed)])
    }
);

/// How long a commit may go unnoticed. A tick reads one counter in shared memory.
const TICK: Duration = Duration::from_millis(2);

fn wait(call: &Call) -> Result<bool> {
    let since = call.text(0);
    // NULL: any tracked table.
    let shape = call.jsonb(1);
    let timeout = call.arg(2).map_or(Duration::ZERO, transaction::interval);
    match (&since, &shape) {
        (Some(since), Some(_)) => drop(since.parse::<Cursor>()?),
        (Some(since), None) => drop(Position::of(since)?),
        (None, _) => {}
    }
    if transaction::is_atomic(call) {
        return Err(Error::rule("25001", "cannot wait inside a transaction block").with_hint(
            "Use CALL sync_wait(…) as a statement of its own: it ends the transaction, so as to hold no snapshot.",
        ));
    }
    let deadline = Instant::now() + timeout;
    loop {
        // Read before the check: what commits during it moves the counter again.
        let counter = transaction::completion_count();
        if transaction::fresh(|| changes::would_change(since.as_deref(), shape.as_deref()))? {
            return Ok(true);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            transaction::sleep(TICK.min(left));
            if transaction::completion_count() != counter {
                break;
            }
        }
    }
}
