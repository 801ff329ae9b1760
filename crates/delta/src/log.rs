//! Which log row tells the state of a key at a cursor.
//!
//! `first(k, X)` is the earliest log row of key `k` among the transactions that `X` does not see.
//! Between transactions the write-ahead log position decides: keys are not deferrable, so a
//! transaction touches a key only after the one before it has committed, and positions rise in commit
//! order where transaction ids do not. Within a transaction they do not rise: a statement run by a
//! user's AFTER trigger logs before the statement that fired it. There the command that created
//! the OLD row decides, and a row that the transaction found (not made) comes before all others.

use crate::snapshot::Xid;
use crate::varint::{put, take, take_bytes};

/// Place of a log row in the history of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The transaction that wrote it.
    pub xid: Xid,
    /// Order within the transaction, from [`sequence`].
    pub seq: i64,
    /// Write-ahead log position when it was written.
    pub pos: u64,
}

impl Place {
    /// Whether this log row of a key comes before another of the same key.
    pub fn precedes(&self, other: &Self) -> bool {
        if self.xid == other.xid { self.seq < other.seq } else { self.pos < other.pos }
    }
}

const COUNT_BITS: u32 = 30;

/// Log rows that one transaction may write.
pub const MAX_PER_TRANSACTION: u32 = 1 << COUNT_BITS;

/// The order within a transaction: first what it found, then by the command that made the row version, of which the log
/// row tells that it came (`enters`) or what it was when it went; `count` (below [`MAX_PER_TRANSACTION`]) makes it unique.
pub fn sequence(made_by: Option<u32>, enters: bool, count: u32) -> i64 {
    let rank = made_by.map_or(0, |command| 2 * i64::from(command) + if enters { 1 } else { 2 });
    (rank << COUNT_BITS) | i64::from(count)
}

/// A log row as it is written: many of them stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed<'a> {
    /// Order within the transaction, from [`sequence`].
    pub seq: i64,
    /// `d` for a row that went, `u` for one that was updated, `e` for one that was not there.
    pub kind: u8,
    /// The columns of the old row.
    pub old: &'a [u8],
}

/// Appends a log row.
pub fn pack(out: &mut Vec<u8>, row: Packed<'_>) {
    put(out, row.seq as u64);
    out.push(row.kind);
    put(out, row.old.len() as u64);
    out.extend_from_slice(row.old);
}

/// The log rows that were appended to each other, up to the first one that is cut off.
pub fn unpack(mut bytes: &[u8]) -> impl Iterator<Item = Packed<'_>> {
    std::iter::from_fn(move || {
        let seq = take(&mut bytes)? as i64;
        let (&kind, rest) = bytes.split_first()?;
        bytes = rest;
        Some(Packed { seq, kind, old: take_bytes(&mut bytes)? })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Packed, pack, unpack};

    proptest! {
        #[test]
        fn log_rows_come_out_as_they_were_put_in(
            rows in prop::collection::vec((any::<i64>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            cut: prop::sample::Index,
        ) {
            let mut out = Vec::new();
            for (seq, kind, old) in &rows {
                pack(&mut out, Packed { seq: *seq, kind: *kind, old });
            }
            let packed: Vec<_> = rows.iter().map(|(seq, kind, old)| Packed { seq: *seq, kind: *kind, old }).collect();
            prop_assert_eq!(unpack(&out).collect::<Vec<_>>(), &packed[..]);
            let cut = if out.is_empty() { 0 } else { cut.index(out.len()) };
            let some: Vec<_> = unpack(&out[..cut]).collect();
            prop_assert_eq!(&some[..], &packed[..some.len()]);
        }
    }
}
