//! Who waits for a commit: a flag in shared memory for each process slot, and the latch of that process.
//!
//! Whoever waits raises its flag and looks once more; whoever has committed takes all flags that it finds raised and sets
//! their latches. So one commit out of many pays for a wake, and others read a few words that nobody changes. The flags
//! fit into what a server has left over of the memory that it shares: no library need be loaded at its start.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use pgrx::{PgTryBuilder, pg_guard, pg_sys};

/// Flags, as bits by process slot.
type Flags = &'static [AtomicU64];

thread_local! {
    /// Nothing: not looked for yet; nothing inside: there was no room.
    static FLAGS: Cell<Option<Option<Flags>>> = const { Cell::new(None) };
}

/// From now on commits of this backend wake who waits.
pub fn watch_commits() {
    #[pg_guard]
    unsafe extern "C-unwind" fn ended(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
        // SAFETY: reads this backend's state; a transaction forgets its id behind its callbacks.
        if unsafe { pg_sys::GetTopTransactionIdIfAny() } == pg_sys::InvalidTransactionId {
            return;
        }
        match event {
            // Behind the commit no error may be raised.
            pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => drop(flags()),
            // Other snapshots see it by now.
            pg_sys::XactEvent::XACT_EVENT_COMMIT => wake(),
            _ => {}
        }
    }
    // SAFETY: the callback stays valid as long as the library is loaded, which is for ever.
    unsafe { pg_sys::RegisterXactCallback(Some(ended), std::ptr::null_mut()) };
}

/// Has the next commit set this backend's latch. One that is raised for nothing costs a wake.
pub fn raise() {
    if let Some(flags) = flags() {
        // SAFETY: this backend's slot is one of the array, which is as long as the server's life.
        let slot = unsafe { pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs) };
        let slot = usize::try_from(slot).unwrap_or(0);
        flags[slot / 64].fetch_or(1 << (slot % 64), Ordering::SeqCst);
    }
    // Whoever then reads what commits change, and finds nothing, is seen by the next one.
    fence(Ordering::SeqCst);
}

fn wake() {
    let Some(Some(flags)) = FLAGS.get() else { return };
    fence(Ordering::SeqCst);
    for (place, word) in flags.iter().enumerate().filter(|(_, word)| word.load(Ordering::Relaxed) != 0) {
        let mut raised = word.swap(0, Ordering::SeqCst);
        while raised != 0 {
            let slot = 64 * place + raised.trailing_zeros() as usize;
            raised &= raised - 1;
            // SAFETY: flags are raised for slots of the array; a latch that nobody owns any more may be set.
            unsafe { pg_sys::SetLatch(&raw mut (*(*pg_sys::ProcGlobal).allProcs.add(slot)).procLatch) };
        }
    }
}

/// The flags, made by whoever comes first.
fn flags() -> Option<Flags> {
    if let Some(flags) = FLAGS.get() {
        return flags;
    }
    let flags = PgTryBuilder::new(|| {
        let mut found = false;
        // SAFETY: the memory is zero when it is first given out, is never freed, and everybody asks for the same size; a word of
        // zeros is one without flags.
        let memory = unsafe {
            let count = (*pg_sys::ProcGlobal).allProcCount.div_ceil(64) as usize;
            let memory = pg_sys::ShmemInitStruct(c"syncline waiters".as_ptr(), 8 * count, &mut found);
            std::slice::from_raw_parts(memory.cast::<AtomicU64>(), count)
        };
        Some(memory)
    })
    // Without room for them waits end by the clock.
    .catch_others(|_| None)
    .execute();
    FLAGS.set(Some(flags));
    flags
}
