//! Procedures that end their transaction, and what moves in shared memory when others end theirs.

use std::time::Duration;

use pgrx::pg_sys;

use super::function::Call;
use super::version;

/// Whether a CALL stands inside a transaction block or a function.
pub fn is_atomic(call: &Call) -> bool {
    // SAFETY: CALL passes a CallContext, if anything, in the frame's context.
    unsafe {
        let context = (*call.raw()).context;
        context.is_null()
            || (*context).type_ != pg_sys::NodeTag::T_CallContext
            || (*context.cast::<pg_sys::CallContext>()).atomic
    }
}

/// Runs `work` under a snapshot of its own in a new transaction, which ends with it.
pub fn fresh<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: SPI_commit ends the transaction, drops the CALL's snapshot and starts a new transaction; pushed
    // snapshots are popped in pairs, and an error unwinds them with the transaction.
    unsafe {
        pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        pg_sys::SPI_commit();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        pg_sys::SPI_commit();
        pg_sys::SPI_finish();
        result
    }
}

/// Rises with every transaction that wrote and ended, on a standby with every one replayed.
pub fn completion_count() -> u64 {
    // SAFETY: it lives in shared memory; an aligned 64-bit read does not tear.
    unsafe { version::completion_count().read_volatile() }
}

/// Sleeps on this backend's latch; a cancel or shutdown ends it with an error.
pub fn sleep(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch is set up for every backend.
    unsafe {
        let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1);
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, millis, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// An `interval`, months as 30 days; negative ones are zero.
pub fn interval(datum: pg_sys::Datum) -> Duration {
    const DAY: i64 = 86_400_000_000;
    // SAFETY: the datum is a non-null interval.
    let value = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
    let days = i64::from(value.day) + 30 * i64::from(value.month);
    let micros = days.saturating_mul(DAY).saturating_add(value.time);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
