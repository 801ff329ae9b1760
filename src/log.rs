//! Reading the log. Nobody needs a right for its rows; what runs on their values runs with the caller's.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use pgrx::pg_sys;
use syncline_delta::log::{Place, unpack};
use syncline_delta::snapshot::{Snapshot, Xid};

use crate::mutant::{self, Mutant};
use crate::pg::image;
use crate::pg::lookup::{self, Key};
use crate::pg::memory::Scratch;
use crate::pg::relation::{Relation, internal};
use crate::pg::spi::Row;
use crate::row::Object;
use crate::server;

/// A relation whose log is read, and the columns that are read of it.
pub struct Use<'a> {
    /// The tracked table.
    pub relation: &'a Relation,
    /// Attribute numbers, the key's among them.
    pub columns: BTreeSet<i16>,
}

/// What the log says of a row.
pub struct LogRow {
    /// Where it stands in the log.
    pub at: LogPlace,
    /// Its place in the history of its key.
    pub place: Place,
    /// The key was not there before.
    pub enters: bool,
    /// Key and filter columns as they were, and the version.
    pub old: Vec<u8>,
}

/// A log row does not tell what the shape must know: it was written before one of the columns was logged, or when it had
/// another type.
pub struct Untold;

/// Where a log row stands: its transaction, and its number among those that this one wrote.
pub type LogPlace = (Xid, i64);

/// Of each key the log row that tells what was there at `seen`.
pub fn first_rows(used: &Use<'_>, seen: &Snapshot) -> Result<Vec<LogRow>, Untold> {
    let mut first: HashMap<Vec<u8>, LogRow> = HashMap::new();
    each_key(used, seen, |key, row| match first.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(row);
        }
        Entry::Occupied(mut entry) => {
            if precedes(&row.place, &entry.get().place) {
                entry.insert(row);
            }
        }
    })?;
    Ok(first.into_values().collect())
}

/// The first place of each key, once somebody has asked for one.
#[derive(Default)]
pub struct Firsts(Option<HashMap<Vec<u8>, Place>>);

impl Firsts {
    fn read(&mut self, used: &Use<'_>, seen: &Snapshot) -> Result<&HashMap<Vec<u8>, Place>, Untold> {
        if self.0.is_none() {
            let mut first: HashMap<Vec<u8>, Place> = HashMap::new();
            each_key(used, seen, |key, row| {
                let place = first.entry(key).or_insert(row.place);
                if precedes(&row.place, place) {
                    *place = row.place;
                }
            })?;
            self.0 = Some(first);
        }
        Ok(self.0.get_or_insert_default())
    }
}

/// The next log rows that may tell of a key that left, in the order of their places.
pub struct Candidates {
    /// Each the first of its key since the cursor, and of a row that was there.
    pub rows: Vec<LogRow>,
    /// The last place that was looked at; nothing if there are no more.
    pub last: Option<LogPlace>,
}

/// Looks at `count` log rows behind a place: those that `since` does not see and `target` does.
///
/// A row whose old version `since` sees was not touched between it and this log row: no other can come before. Only for
/// the others is the log read for one that does, once for all of them.
pub fn candidates(
    used: &Use<'_>,
    since: &Snapshot,
    target: &Snapshot,
    after: Option<LogPlace>,
    count: usize,
    firsts: &mut Firsts,
) -> Result<Candidates, Untold> {
    let (log, relation) = (internal("log"), used.relation.oid);
    let looked_at = read(log, relation, &segments(log, relation, since, target), target, after, count);
    let last = (looked_at.len() == count).then(|| looked_at.last().map(|row| row.at)).flatten();
    let mut memory = Scratch::new();
    let mut rows = Vec::new();
    for row in looked_at.into_iter().filter(|row| !row.enters) {
        let unsure = memory.run(|| {
            let columns = told(used, &row.old)?;
            let is_sure = old_version(used.relation, &row.old).is_some_and(|version| since.sees(version));
            let is_unsure = !is_sure || mutant::is(Mutant::FirstByXid);
            Some(is_unsure.then(|| key_text(used.relation, &columns)))
        });
        let is_first = match unsure.ok_or(Untold)? {
            None => true,
            Some(key) => firsts.read(used, since)?.get(&key) == Some(&row.place),
        };
        if is_first {
            rows.push(row);
        }
    }
    Ok(Candidates { rows, last })
}

fn precedes(one: &Place, other: &Place) -> bool {
    if mutant::is(Mutant::FirstByXid) && one.xid != other.xid { one.xid < other.xid } else { one.precedes(other) }
}

/// All log rows that `seen` does not see, with the keys' texts.
fn each_key(used: &Use<'_>, seen: &Snapshot, mut each: impl FnMut(Vec<u8>, LogRow)) -> Result<(), Untold> {
    let relation = used.relation.oid;
    // What is visible is seen.
    let all = Snapshot::everything();
    let log = internal("log");
    let segments = segments(log, relation, seen, &all);
    let mut memory = Scratch::new();
    let mut after = None;
    loop {
        let rows = read(log, relation, &segments, &all, after, CHUNK);
        let is_last = rows.len() < CHUNK;
        after = rows.last().map(|row| row.at);
        for row in rows {
            let key = memory.run(|| told(used, &row.old).map(|columns| key_text(used.relation, &columns)));
            each(key.ok_or(Untold)?, row);
        }
        if is_last {
            return Ok(());
        }
    }
}

/// How many log rows are held at a time.
pub const CHUNK: usize = 10_000;

fn key_text(relation: &Relation, columns: &[image::Column]) -> Vec<u8> {
    let mut text = Vec::new();
    let value = |place: usize| columns.iter().find(|c| c.attribute == relation.key[place]).and_then(|c| c.value);
    Object::new(relation.key_columns().enumerate(), false, false).write(&mut text, value);
    text
}

/// The columns that are read of a log row.
pub fn told(used: &Use<'_>, old: &[u8]) -> Option<Vec<image::Column>> {
    let attribute = |number: i16| used.relation.numbered(number).filter(|_| used.columns.contains(&number));
    let decoded = image::decode(old, |number| attribute(number).is_some_and(|a| a.storage.by_value));
    let mut columns: Vec<_> = decoded.collect();
    columns.retain(|column| attribute(column.attribute).is_some());
    let typed = |column: &image::Column| attribute(column.attribute).is_some_and(|a| a.storage.typid == column.typid);
    (columns.len() == used.columns.len() && columns.iter().all(typed)).then_some(columns)
}

/// Who had written the row before.
fn old_version(relation: &Relation, old: &[u8]) -> Option<Xid> {
    let version = relation.version()?.number;
    let mut columns = image::decode(old, |number| number == version);
    columns.find(|column| column.attribute == version)?.value.map(|datum| datum.value() as Xid)
}

/// Ranges of transactions that `since` does not see and that may have log rows: from, and up to but not with.
fn segments(log: pg_sys::Oid, relation: pg_sys::Oid, since: &Snapshot, target: &Snapshot) -> Vec<(Xid, Xid)> {
    let keys = |xid| [Key::oid(RELATION, relation), Key::xid8(XID, xid)];
    server::segments(since, target, |xid| lookup::has(log, &keys(xid)))
}

/// Up to `count` log rows behind a place, in the order of their places.
fn read(
    log: pg_sys::Oid,
    relation: pg_sys::Oid,
    segments: &[(Xid, Xid)],
    target: &Snapshot,
    after: Option<LogPlace>,
    count: usize,
) -> Vec<LogRow> {
    let mut rows = Vec::new();
    for &(from, to) in segments {
        // The rest of the transaction that was left off in, then those behind it.
        let (xid, number) = after.unwrap_or((0, 0)).max((from, 0));
        let rest = [Key::oid(RELATION, relation), Key::xid8(XID, xid), Key::int8_above(LAST, number)];
        let behind = [Key::oid(RELATION, relation), Key::xid8_from(XID, xid + 1)];
        for keys in [rest.as_slice(), &behind] {
            if rows.len() == count {
                break;
            }
            lookup::rows(log, keys, &mut |row| {
                let xid = row.int8(1) as u64;
                if xid < to
                    && target.sees(xid)
                    && let Some(packed) = row.get(4)
                {
                    image::with_bytes(packed, |bytes| unpack_behind(bytes, row, after, count, &mut rows));
                }
                xid < to && rows.len() < count
            });
        }
    }
    rows
}

/// Appends what one row of the log holds behind a place, until there are `count`.
fn unpack_behind(bytes: &[u8], row: &Row<'_>, after: Option<LogPlace>, count: usize, rows: &mut Vec<LogRow>) {
    let (xid, last, pos) = (row.int8(1) as u64, row.int8(2), row.int8(3) as u64);
    let packed: Vec<_> = unpack(bytes).collect();
    let numbers = (last - packed.len() as i64 + 1)..;
    for (number, packed) in numbers.zip(packed).filter(|(number, _)| Some((xid, *number)) > after) {
        if rows.len() == count {
            return;
        }
        rows.push(LogRow {
            at: (xid, number),
            place: Place { xid, seq: packed.seq, pos },
            enters: packed.kind == b'e',
            old: packed.old.to_vec(),
        });
    }
}

/// Columns of `syncline.log`: relation, xid, last, pos, rows.
const RELATION: i16 = 1;
const XID: i16 = 2;
const LAST: i16 = 3;
