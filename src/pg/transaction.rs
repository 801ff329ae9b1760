//! Procedures that end their transaction, and what moves in shared memory when others end theirs.

use std::ffi::c_void;
use std::time::Duration;

use pgrx::{pg_guard, pg_sys};

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

/// What becomes of this backend's transactions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// All that its statements and deferred triggers do is done, and rows may still be written.
    Ending,
    /// It is over.
    Over,
    /// What a subtransaction did is its parent's now.
    Merged(u32, u32),
    /// What a subtransaction did is undone.
    Undone(u32),
}

/// The number of the subtransaction under way.
pub fn subtransaction() -> u32 {
    // SAFETY: reads this backend's state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// Tells `each` from now on.
pub fn watch(each: fn(Event)) {
    #[pg_guard]
    unsafe extern "C-unwind" fn of_all(event: pg_sys::XactEvent::Type, each: *mut c_void) {
        use pg_sys::XactEvent as X;
        // SAFETY: it is the function that was registered.
        let each = unsafe { std::mem::transmute::<*mut c_void, fn(Event)>(each) };
        match event {
            X::XACT_EVENT_PRE_COMMIT | X::XACT_EVENT_PRE_PREPARE => each(Event::Ending),
            X::XACT_EVENT_COMMIT | X::XACT_EVENT_ABORT | X::XACT_EVENT_PREPARE => each(Event::Over),
            _ => {}
        }
    }
    #[pg_guard]
    unsafe extern "C-unwind" fn of_part(
        event: pg_sys::SubXactEvent::Type,
        own: pg_sys::SubTransactionId,
        parent: pg_sys::SubTransactionId,
        each: *mut c_void,
    ) {
        use pg_sys::SubXactEvent as X;
        // SAFETY: it is the function that was registered.
        let each = unsafe { std::mem::transmute::<*mut c_void, fn(Event)>(each) };
        match event {
            X::SUBXACT_EVENT_COMMIT_SUB => each(Event::Merged(own, parent)),
            X::SUBXACT_EVENT_ABORT_SUB => each(Event::Undone(own)),
            _ => {}
        }
    }
    // SAFETY: the callbacks, and the function, stay valid as long as the library is loaded, which is for ever.
    unsafe {
        pg_sys::RegisterXactCallback(Some(of_all), each as *mut c_void);
        pg_sys::RegisterSubXactCallback(Some(of_part), each as *mut c_void);
    }
}
