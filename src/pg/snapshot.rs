//! The snapshot of this statement, natively and whole.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::Position;
use syncline_delta::snapshot::{Snapshot, Xid};

use crate::error::Result;
use crate::mutant::{self, Mutant};

/// Ids in a snapshot have 32 bits; they lie less than 2^31 before the next one.
fn widen(xid: pg_sys::TransactionId, next: u64) -> Xid {
    let low = u32::from(xid);
    let epoch = next >> 32;
    let epoch = if u64::from(low) > next & 0xffff_ffff { epoch - 1 } else { epoch };
    (epoch << 32) | u64::from(low)
}

/// An id of the write-ahead log, widened.
pub fn whole(xid: pg_sys::TransactionId) -> Xid {
    // SAFETY: reads shared memory.
    widen(xid, unsafe { pg_sys::ReadNextFullTransactionId().value })
}

/// The active snapshot with its in-progress transactions and subtransactions.
///
/// On a standby the list of subtransactions holds all; `pg_current_snapshot()` shows none of them.
/// Subtransactions are taken on the primary too, so that cursors of both compare exactly.
pub fn active() -> Snapshot {
    // SAFETY: an entry point called from SQL runs under an active snapshot, which GetActiveSnapshot returns;
    // its arrays have the lengths beside them.
    unsafe {
        let snapshot = &*pg_sys::GetActiveSnapshot();
        let next = pg_sys::ReadNextFullTransactionId().value;
        let mut ids: Vec<Xid> = Vec::with_capacity(snapshot.xcnt as usize + snapshot.subxcnt.max(0) as usize);
        let lists = [(snapshot.xip, snapshot.xcnt as usize), (snapshot.subxip, snapshot.subxcnt.max(0) as usize)];
        for (i, (list, length)) in lists.into_iter().enumerate() {
            if i == 1 && snapshot.takenDuringRecovery && mutant::is(Mutant::StandbyCurrentSnapshot) {
                continue;
            }
            if length > 0 {
                ids.extend(std::slice::from_raw_parts(list, length).iter().map(|&xid| widen(xid, next)));
            }
        }
        Snapshot::new(widen(snapshot.xmax, next), ids)
    }
}

/// Refuses a cursor to a transaction that has written, and so sees what no other snapshot can contain.
pub fn refuse_writer() -> Result<()> {
    // SAFETY: reads this backend's transaction state.
    if unsafe { pg_sys::GetTopTransactionIdIfAny() } == pg_sys::InvalidTransactionId {
        return Ok(());
    }
    Err(Error::rule("25001", "cannot pull in a transaction that has written")
        .with_detail("Its own changes are visible to no other transaction yet, so no cursor can tell them.")
        .with_hint("Pull in a transaction of its own, or use sync_preview."))
}

/// The top-level transaction id; assigns one if there is none.
pub fn own_xid() -> Xid {
    // SAFETY: called from triggers, which run in a transaction that may write.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// Whether this server replays a primary's log.
pub fn standby() -> bool {
    // SAFETY: reads a flag in shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Where the next log record will be written.
pub fn insert_lsn() -> u64 {
    // SAFETY: reads shared memory; called on a primary only.
    unsafe { pg_sys::GetXLogInsertRecPtr() }
}

/// This moment as a cursor's position. The log position is read after the snapshot was taken.
pub fn position(epoch: u64, snapshot: Snapshot) -> Position {
    let mut timeline: pg_sys::TimeLineID = 0;
    // SAFETY: plain reads of shared memory and of this backend's globals.
    let (lsn, system, database) = unsafe {
        let lsn = if standby() {
            pg_sys::GetXLogReplayRecPtr(&mut timeline)
        } else {
            timeline = pg_sys::GetWALInsertionTimeLine();
            pg_sys::GetXLogInsertRecPtr()
        };
        (lsn, pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32())
    };
    Position { system, database, timeline, lsn, epoch, snapshot }
}

/// A secret of the cluster: its standbys have it too, no SQL function shows it, and another cluster has another one.
pub fn secret() -> &'static [u8] {
    // SAFETY: MOCK_AUTH_NONCE_LEN bytes of the control file in shared memory, made by initdb and never changed.
    unsafe {
        let nonce = pg_sys::GetMockAuthenticationNonce().cast::<u8>();
        std::slice::from_raw_parts(nonce, pg_sys::MOCK_AUTH_NONCE_LEN as usize)
    }
}

/// Makes everything that was inserted into the log up to `lsn` durable.
///
/// An aborted or asynchronously committed transaction that a crash forgets would have its id used again,
/// below a cursor that has seen it. Right after a page boundary the insert position lies behind a header
/// that is written only with the next record: a flush up to there would fail on an idle server.
pub fn make_durable(lsn: u64) {
    // Sizes of XLogLongPageHeaderData and XLogPageHeaderData, maximally aligned, since 9.3.
    const LONG_HEADER: u64 = 40;
    const SHORT_HEADER: u64 = 24;
    // SAFETY: wal_segment_size is set at start; XLogFlush may be called by any backend of a primary.
    unsafe {
        let segment = u64::from(pg_sys::wal_segment_size as u32);
        let lsn = if lsn % segment == LONG_HEADER {
            lsn - LONG_HEADER
        } else if lsn % u64::from(pg_sys::XLOG_BLCKSZ) == SHORT_HEADER {
            lsn - SHORT_HEADER
        } else {
            lsn
        };
        pg_sys::XLogFlush(lsn);
    }
}

/// At which log position this server's history left an older timeline.
pub fn switch_point(timeline: u32) -> Option<u64> {
    // Not among the generated bindings; the signatures have been these since 9.3.
    unsafe extern "C-unwind" {
        fn readTimeLineHistory(target: pg_sys::TimeLineID) -> *mut pg_sys::List;
        fn tliInHistory(tli: pg_sys::TimeLineID, history: *mut pg_sys::List) -> bool;
        fn tliSwitchPoint(
            tli: pg_sys::TimeLineID,
            history: *mut pg_sys::List,
            next: *mut pg_sys::TimeLineID,
        ) -> pg_sys::XLogRecPtr;
    }
    // SAFETY: the functions read the history file of the current timeline; errors unwind through the guard.
    unsafe {
        let mut current: pg_sys::TimeLineID = 0;
        if standby() {
            pg_sys::GetXLogReplayRecPtr(&mut current);
        } else {
            current = pg_sys::GetWALInsertionTimeLine();
        }
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let history = readTimeLineHistory(current);
            tliInHistory(timeline, history).then(|| tliSwitchPoint(timeline, history, std::ptr::null_mut()))
        })
    }
}

/// Runs `work` under a snapshot taken now.
pub fn with_latest<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: pushed and popped in pairs; on an error Postgres unwinds the stack of snapshots itself.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let result = work();
    // SAFETY: see above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}
