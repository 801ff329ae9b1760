//! Log rows wait in memory until their transaction ends. Then they are written together: dozens take one row of `syncline.log`.

use std::cell::RefCell;

use pgrx::pg_sys;
use syncline_delta::log::{Packed, pack};

use crate::pg::transaction::{self, Event};
use crate::pg::{snapshot, trigger};

/// The log rows of one table that a (sub)transaction made.
struct Batch {
    root: pg_sys::Oid,
    subtransaction: u32,
    pieces: Vec<Piece>,
    size: usize,
}

/// Log rows that become one row.
#[derive(Default)]
struct Piece {
    count: i64,
    rows: Vec<u8>,
}

/// What the transaction at hand has not written yet.
struct Pending {
    /// `syncline.log`.
    table: pg_sys::Oid,
    batches: Vec<Batch>,
    /// How many log rows were written.
    last: i64,
    is_ending: bool,
}

/// The most bytes of log rows in a row, unless one alone is larger: four fit into a page, and none is compressed.
const MAX_PIECE: usize = 1_900;

/// The most bytes that wait for a subtransaction.
const MAX_WAITING: usize = 1 << 20;

thread_local! {
    static PENDING: RefCell<Pending> =
        const { RefCell::new(Pending { table: pg_sys::InvalidOid, batches: Vec::new(), last: 0, is_ending: false }) };
}

/// Keeps a log row of a table for the end of the transaction. `log` is `syncline.log`.
pub fn add(log: pg_sys::Oid, root: pg_sys::Oid, row: Packed<'_>) {
    PENDING.with_borrow_mut(|pending| {
        pending.table = log;
        let place = pending.place(root, transaction::subtransaction());
        pending.batches[place].add(row);
        // What a subtransaction writes is gone if it is undone, as its log rows have to be. One that comes when the others were
        // written already waits for nothing.
        if pending.batches[place].size > MAX_WAITING || pending.is_ending {
            let batch = pending.batches.swap_remove(place);
            pending.write(batch);
        }
    });
}

impl Batch {
    fn add(&mut self, row: Packed<'_>) {
        if self.pieces.last().is_none_or(|piece| piece.rows.len() + row.old.len() > MAX_PIECE) {
            self.pieces.push(Piece::default());
        }
        if let Some(piece) = self.pieces.last_mut() {
            let before = piece.rows.len();
            pack(&mut piece.rows, row);
            piece.count += 1;
            self.size += piece.rows.len() - before;
        }
    }

    fn append(&mut self, other: Self) {
        self.size += other.size;
        for mut piece in other.pieces {
            match self.pieces.last_mut() {
                Some(last) if last.rows.len() + piece.rows.len() <= MAX_PIECE => {
                    last.rows.append(&mut piece.rows);
                    last.count += piece.count;
                }
                _ => self.pieces.push(piece),
            }
        }
    }
}

impl Pending {
    /// Where the batch of a table and a subtransaction is.
    fn place(&mut self, root: pg_sys::Oid, subtransaction: u32) -> usize {
        let is_it = |batch: &Batch| batch.root == root && batch.subtransaction == subtransaction;
        self.batches.iter().rposition(is_it).unwrap_or_else(|| {
            self.batches.push(Batch { root, subtransaction, pieces: Vec::new(), size: 0 });
            self.batches.len() - 1
        })
    }

    fn write(&mut self, batch: Batch) {
        // Positions rise in commit order for each key: until its transaction ends, nobody else touches it.
        let (xid, position) = (snapshot::own_xid() as i64, snapshot::insert_lsn() as i64);
        let row = |Piece { count, rows }| {
            self.last += count;
            let [xid, last, position] = [xid, self.last, position].map(pg_sys::Datum::from);
            [batch.root.into(), xid, last, position, trigger::bytea(&rows)]
        };
        trigger::insert(self.table, batch.pieces.into_iter().map(row));
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Ending => {
                self.is_ending = true;
                let batches = std::mem::take(&mut self.batches);
                if !batches.is_empty() {
                    // A large old value is stored apart, which takes a snapshot.
                    snapshot::with_latest(|| batches.into_iter().for_each(|batch| self.write(batch)));
                }
            }
            Event::Over => {
                self.batches.clear();
                (self.last, self.is_ending) = (0, false);
            }
            Event::Merged(own, parent) => {
                let is_own = |batch: &Batch| batch.subtransaction == own;
                let (merged, kept): (Vec<_>, _) = std::mem::take(&mut self.batches).into_iter().partition(is_own);
                self.batches = kept;
                for batch in merged {
                    let place = self.place(batch.root, parent);
                    self.batches[place].append(batch);
                }
            }
            Event::Undone(own) => self.batches.retain(|batch| batch.subtransaction != own),
        }
    }
}

/// Writes the log rows of each transaction before it commits.
pub fn watch_transactions() {
    transaction::watch(|event| PENDING.with_borrow_mut(|pending| pending.on(event)));
}
