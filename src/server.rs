//! The server's side of a cursor: epoch, horizon, barriers.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::{Position, Server};
use syncline_delta::snapshot::{Snapshot, Xid};

use crate::error::Result;
use crate::mutant::{self, Mutant};
use crate::pg::definitions::Remembered;
use crate::pg::lookup::{self, Key};
use crate::pg::relation::{self, internal};
use crate::pg::{function, image, rights, settings, snapshot, spi};

/// The epoch, and the oldest snapshot that log rows and barriers are kept for, as the active snapshot sees them.
fn state() -> Result<(u64, Snapshot)> {
    let mut state = None;
    // singleton, epoch, horizon
    lookup::rows(internal("state"), &[], &mut |row| {
        state = row.get(2).map(|horizon| Ok((row.int8(1) as u64, parsed(horizon)?)));
        false
    });
    state.ok_or_else(|| Error::rule("55000", "extension syncline has lost its state"))?
}

/// A `pg_snapshot`. The last one is remembered: the horizon is another one only after `sync_prune`.
fn parsed(datum: pg_sys::Datum) -> Result<Snapshot> {
    thread_local! {
        static LAST: RefCell<Option<(Vec<u8>, Snapshot)>> = const { RefCell::new(None) };
    }
    image::with_bytes(datum, |bytes| {
        let known =
            LAST.with_borrow(|last| last.as_ref().filter(|(known, _)| known == bytes).map(|(_, seen)| seen.clone()));
        if let Some(seen) = known {
            return Ok(seen);
        }
        let seen: Snapshot = function::output(pg_sys::F_PG_SNAPSHOT_OUT.into(), datum).parse()?;
        LAST.set(Some((bytes.to_vec(), seen.clone())));
        Ok(seen)
    })
}

/// This call's snapshot, as a position, with the horizon that it sees.
pub fn now() -> Result<Server> {
    let seen = snapshot::active();
    let (epoch, mut horizon) = state()?;
    if mutant::is(Mutant::HorizonIgnored) {
        horizon = Snapshot::new(0, []);
    } else if mutant::is(Mutant::HorizonByXmax) {
        horizon = Snapshot::new(horizon.xmax(), 0..horizon.xmax());
    }
    let seen = if mutant::is(Mutant::NoXip) { Snapshot::new(seen.xmax(), []) } else { seen };
    Ok(Server { now: snapshot::position(epoch, seen), standby: snapshot::standby(), horizon })
}

/// What rows are new to: either bounds of a snapshot, or everything.
pub fn bounds(seen: &Snapshot) -> [spi::Param; 2] {
    let unseen: Vec<i64> = seen.xip().iter().map(|&xid| xid as i64).collect();
    [spi::Param::int8(seen.xmax() as i64), spi::Param::int8_array(&unseen)]
}

/// What a shape reads of one table.
pub struct Reads {
    /// The tracked table.
    pub relation: pg_sys::Oid,
    /// Attribute numbers.
    pub columns: Vec<i16>,
}

/// Whether `seen` does not see a barrier over one of the relations, and over these columns if that matters.
fn unseen_barrier(reads: &[Reads], seen: &Snapshot, any_column: bool) -> bool {
    let mut found = false;
    // id, relation, xid, columns: all those below are seen, and mostly there is no other.
    lookup::rows(internal("barrier"), &[Key::xid8_from(3, seen.xmin())], &mut |row| {
        if let Some(read) = reads.iter().find(|read| read.relation == row.oid(1))
            && !seen.sees(row.int8(2) as u64)
        {
            let columns = row.get(3).map(function::int2_array);
            let meets = columns.is_none_or(|columns| columns.iter().any(|c| read.columns.contains(c)));
            found |= any_column || meets;
        }
        !found
    });
    found
}

/// Whether something between `seen` and now changed what a shape reads in a way that no delta describes.
pub fn has_barrier(reads: &[Reads], seen: &Snapshot) -> bool {
    unseen_barrier(reads, seen, false)
}

/// Whether something that is not transactional happened to the relations behind a snapshot's back. To be
/// asked last: TRUNCATE and rewrites empty a table for old snapshots too, but its barrier is visible to new ones only.
/// A barrier that the snapshot does not see may have been pruned meanwhile; then so was the horizon moved.
pub fn overtaken(reads: &[Reads], server: &Server) -> Result<bool> {
    let seen = &server.now.snapshot;
    snapshot::with_latest(|| {
        // Mostly no transaction has ended meanwhile.
        if snapshot::active() == *seen {
            return Ok(!seen.dominates(&server.horizon));
        }
        Ok(unseen_barrier(reads, seen, true) || !seen.dominates(&state()?.1))
    })
}

/// Tables that a role may read, and the versions of their rows.
type Watched = (Vec<Reads>, Vec<Versions>);

/// Whether `seen` lacks a row, a log row or a barrier of any tracked table that the caller may read.
pub fn anything_new(seen: &Snapshot) -> bool {
    thread_local! {
        /// By user.
        static TABLES: Remembered<pg_sys::Oid, Rc<Watched>> = Remembered::new();
    }
    let read = |_: &_| {
        let reads: Vec<Reads> = settings::pinned(readable_tables);
        let versions = reads.iter().map(|table| Versions::of(table.relation)).collect();
        Rc::new((reads, versions))
    };
    let tables = TABLES.with(|tables| tables.get(rights::user(), read));
    let (reads, versions) = &*tables;
    !touched(reads.iter().map(|table| table.relation), seen).is_empty()
        || unseen_barrier(reads, seen, true)
        || versions.iter().any(|versions| versions.has_new(seen))
}

/// The tracked tables that the caller may read. Under the pinned settings.
fn readable_tables() -> Vec<Reads> {
    const TABLES: &str = "SELECT t.tgrelid FROM pg_trigger t \
         JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = '_sync_version' \
         WHERE t.tgfoid = 'syncline.stamp()'::pg_catalog.regprocedure AND t.tgparentid = 0 \
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')";
    let mut tables = Vec::new();
    spi::query(TABLES, &[], &mut |row| {
        tables.push(Reads { relation: row.oid(0), columns: Vec::new() });
        true
    });
    tables
}

/// Those of the relations that have a log row that `seen` does not see.
pub fn touched(relations: impl Iterator<Item = pg_sys::Oid>, seen: &Snapshot) -> Vec<pg_sys::Oid> {
    let log = internal("log");
    // relation, xid
    let is_touched = |relation: Key| {
        let has = |key| lookup::has(log, &[relation, key]);
        has(Key::xid8_from(2, seen.xmax())) || seen.xip().iter().any(|&xid| has(Key::xid8(2, xid)))
    };
    let mut relations: Vec<pg_sys::Oid> = relations.collect();
    // Mostly none of them has.
    if relations.len() > 1 && !is_touched(Key::one_of(1, &relations)) {
        return Vec::new();
    }
    relations.retain(|&relation| is_touched(Key::oid(1, relation)));
    relations
}

/// The versions of a table's rows.
pub struct Versions(Vec<(pg_sys::Oid, i16)>);

impl Versions {
    /// Of a tracked table with all its partitions.
    pub fn of(table: pg_sys::Oid) -> Self {
        let leaves = relation::leaves(table).into_iter();
        Self(leaves.filter_map(|leaf| Some((leaf, relation::column_number(leaf, relation::VERSION)?))).collect())
    }

    fn has(&self, key: impl Fn(i16) -> Key) -> bool {
        self.0.iter().any(|&(leaf, column)| lookup::has(leaf, &[key(column)]))
    }

    /// Whether a row's version is not below `from`.
    pub fn has_from(&self, from: Xid) -> bool {
        self.has(|column| Key::int8_from(column, from))
    }

    /// Whether a row has this version.
    pub fn has_one(&self, version: Xid) -> bool {
        self.has(|column| Key::int8(column, version))
    }

    /// Whether a row's version is not seen.
    pub fn has_new(&self, seen: &Snapshot) -> bool {
        self.has_from(seen.xmax()) || seen.xip().iter().any(|&xid| self.has_one(xid))
    }
}

/// The transactions that `since` does not see and `target` does, as ranges: from, and up to but not with. Of those below
/// the `xmax` of `since` the ones that `has_rows` tells; the last range is that from there on, in which those are left
/// that `target` does not see either.
pub fn segments(since: &Snapshot, target: &Snapshot, has_rows: impl Fn(Xid) -> bool) -> Vec<(Xid, Xid)> {
    let late = since.xip().iter().copied().filter(|&xid| target.sees(xid) && has_rows(xid));
    late.map(|xid| (xid, xid + 1)).chain([(since.xmax(), target.xmax())]).collect()
}

/// The cursor may leave the server: everything it has seen survives a crash.
pub fn release(position: &Position, standby: bool) {
    if !standby && !mutant::is(Mutant::NoFlush) {
        snapshot::make_durable(position.lsn);
    }
}
