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

/// How long a session rests from one look to the next for each transaction that ended meanwhile, and at most: where somebody commits
/// all the time, one waiter's looks must not take the writers' place, and where commits are few none has to wait.
const REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(10);

thread_local! {
    /// When the last look was, and what the counter of transactions was then.
    static LAST_LOOK: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// Waits until there may be a look, or until the deadline. The counter as it is then.
fn rest(deadline: Instant) -> u64 {
    loop {
        let (now, counter) = (Instant::now(), transaction::completion_count());
        let moment = LAST_LOOK.get().map_or(now, |(last, before)| {
            let ended = u32::try_from(counter.wrapping_sub(before)).unwrap_or(u32::MAX);
            last + LONGEST_REST.min(REST.saturating_mul(ended))
        });
        let left = deadline.min(moment).saturating_duration_since(now);
        if left.is_zero() {
            LAST_LOOK.set(Some((now, counter)));
            return counter;
        }
        transaction::sleep(left);
    }
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
        // The counter from before the look: what commits during it moves it again.
        let counter = rest(deadline);
        if transaction::fresh(|| changes::would_change(since.as_deref(), shape.as_ref()))? {
            return Ok(true);
        }
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
