//! Waiting for a change without holding a snapshot.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::{Cursor, Position};

use crate::changes;
use crate::error::{Result, unwrap_or_raise};
use crate::pg::function::{Call, entry_point};
use crate::pg::{transaction, tuplestore, waiters};

entry_point!(
    /// `sync_wait(text, jsonb, interval, INOUT boolean)`
    syncline_sync_wait,
    pg_finfo_syncline_sync_wait,
    |call: &mut Call| {
        let changed = unwrap_or_raise(wait(call));
        tuplestore::record(call, [pg_sys::Datum::from(changed)])
    }
);

/// How long a change may go unnoticed that wakes nobody: one that a standby replays, or that was prepared. A tick reads
/// one counter in shared memory.
const TICK: Duration = Duration::from_millis(5);

/// From one look to the next: where somebody commits all the time, one waiter's looks must not take the writers' place.
const REST: Duration = Duration::from_millis(2);

thread_local! {
    static LAST_LOOK: Cell<Option<Instant>> = const { Cell::new(None) };
}

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
        sleep_until(deadline.min(LAST_LOOK.get().map_or(Instant::now(), |last| last + REST)));
        // Read before the look: what commits during it moves the counter again.
        let counter = transaction::completion_count();
        if transaction::fresh(|| changes::would_change(since.as_deref(), shape.as_ref()))? {
            LAST_LOOK.set(Some(Instant::now()));
            return Ok(true);
        }
        LAST_LOOK.set(Some(Instant::now()));
        if !moves_on(counter, deadline) {
            return Ok(false);
        }
    }
}

/// Waits until the counter of commits is another one: whether that was before the deadline.
fn moves_on(counter: u64, deadline: Instant) -> bool {
    loop {
        // Before the counter is read: whoever moves it from then on finds the flag.
        waiters::raise();
        if transaction::completion_count() != counter {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        transaction::sleep(TICK.min(left));
    }
}

/// A latch that is set meanwhile does not end it.
fn sleep_until(moment: Instant) {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        transaction::sleep(left);
    }
}
