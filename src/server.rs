//! The server's side of a cursor: epoch, horizon, barriers.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::{Position, Server};
use syncline_delta::snapshot::{Snapshot, Xid};

use crate::error::Result;
use crate::mutant::{self, Mutant};
use crate::pg::{function, settings, snapshot, spi};

/// The epoch, and the oldest snapshot that log rows and barriers are kept for, as the active snapshot sees them.
fn state() -> Result<(u64, Snapshot)> {
    let mut state = None;
    settings::as_owner(|| {
        spi::query("SELECT epoch, horizon::pg_catalog.text FROM syncline.state", &[], &mut |row| {
            state = row.get(1).map(|horizon| (row.int8(0) as u64, function::text(horizon)));
            false
        });
    });
    let (epoch, horizon) = state.ok_or_else(|| Error::rule("55000", "extension syncline has lost its state"))?;
    Ok((epoch, horizon.parse()?))
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
    const SQL: &str = "SELECT relation, xid::pg_catalog.text::pg_catalog.int8, columns FROM syncline.barrier WHERE relation = ANY ($1)";
    let relations: Vec<pg_sys::Oid> = reads.iter().map(|read| read.relation).collect();
    let mut found = false;
    settings::as_owner(|| {
        spi::query(SQL, &[spi::Param::oid_array(&relations)], &mut |row| {
            let columns = row.get(2).map(function::int2_array);
            let touches = |read: &Reads| {
                let meets = columns.as_ref().is_none_or(|columns| columns.iter().any(|c| read.columns.contains(c)));
                read.relation == row.oid(0) && (any_column || meets)
            };
            found |= !seen.sees(row.int8(1) as u64) && reads.iter().any(touches);
            !found
        });
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
pub fn overtaken(reads: &[Reads], seen: &Snapshot) -> Result<bool> {
    snapshot::with_latest(|| Ok(unseen_barrier(reads, seen, true) || !seen.dominates(&state()?.1)))
}

/// Whether `seen` lacks a row, a log row or a barrier of any tracked table that the caller may read.
pub fn anything_new(seen: &Snapshot) -> bool {
    const TABLES: &str = "SELECT t.tgrelid, pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_trigger t \
         JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = '_sync_version' \
         WHERE t.tgfoid = 'syncline.stamp()'::pg_catalog.regprocedure AND t.tgparentid = 0 \
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')";
    let mut tables = Vec::new();
    spi::query(TABLES, &[], &mut |row| {
        tables.extend(row.get(1).map(|name| (row.oid(0), function::text(name))));
        true
    });
    tables.into_iter().any(|(relation, name)| {
        Versions { table: &name, is_ours: false }.has_new(seen)
            || !touched(&[relation], seen).is_empty()
            || unseen_barrier(&[Reads { relation, columns: Vec::new() }], seen, true)
    })
}

/// Those of the relations that have a log row that `seen` does not see.
pub fn touched(relations: &[pg_sys::Oid], seen: &Snapshot) -> Vec<pg_sys::Oid> {
    // What the ORDER BY asks for only the index has.
    const NEW: &str = "SELECT r FROM pg_catalog.unnest($1) AS r CROSS JOIN LATERAL \
         (SELECT 1 FROM syncline.log AS l WHERE l.relation = r AND l.xid >= $2::pg_catalog.text::pg_catalog.xid8 \
          ORDER BY l.relation, l.xid LIMIT 1) AS x";
    const LATE: &str = "SELECT r FROM pg_catalog.unnest($1) AS r, pg_catalog.unnest($2::pg_catalog.text[]::pg_catalog.xid8[]) AS v CROSS JOIN LATERAL \
         (SELECT 1 FROM syncline.log AS l WHERE l.relation = r AND l.xid >= v AND l.xid <= v ORDER BY l.relation, l.xid LIMIT 1) AS x";
    let [xmax, xip] = bounds(seen);
    let mut found = Vec::new();
    settings::as_owner(|| {
        let mut each = |row: &spi::Row<'_>| {
            found.push(row.oid(0));
            true
        };
        spi::query(NEW, &[spi::Param::oid_array(relations), xmax], &mut each);
        if !seen.xip().is_empty() {
            spi::query(LATE, &[spi::Param::oid_array(relations), xip], &mut each);
        }
    });
    found
}

/// The versions of a table's rows. Queries of them are planned once: with that ORDER BY only the version's index will do.
pub struct Versions<'a> {
    /// Its name.
    pub table: &'a str,
    /// As in [`spi::Query`].
    pub is_ours: bool,
}

impl Versions<'_> {
    /// Whether a row's version is not below `from`.
    pub fn has_from(&self, from: Xid) -> bool {
        let table = self.table;
        let sql = format!("SELECT 1 FROM {table} AS t WHERE t._sync_version >= $1 ORDER BY t._sync_version LIMIT 1");
        let mut found = false;
        self.query(&sql, spi::Param::int8(i64::try_from(from).unwrap_or(i64::MAX)), &mut |_| {
            found = true;
            false
        });
        found
    }

    /// Those of these versions (a `bigint[]`) that rows have.
    pub fn among(&self, versions: spi::Param, each: &mut dyn FnMut(&spi::Row<'_>) -> bool) {
        let table = self.table;
        let sql = format!(
            "SELECT v FROM pg_catalog.unnest($1) AS v CROSS JOIN LATERAL (SELECT 1 FROM {table} AS t \
             WHERE t._sync_version >= v AND t._sync_version <= v ORDER BY t._sync_version LIMIT 1) AS x"
        );
        self.query(&sql, versions, each);
    }

    /// Whether a row's version is not seen.
    fn has_new(&self, seen: &Snapshot) -> bool {
        let mut found = self.has_from(seen.xmax());
        if !found && !seen.xip().is_empty() {
            self.among(bounds(seen)[1], &mut |_| {
                found = true;
                false
            });
        }
        found
    }

    fn query(&self, sql: &str, param: spi::Param, each: &mut dyn FnMut(&spi::Row<'_>) -> bool) {
        let query = spi::Query { sql, params: &[param], relations: &[], is_ours: self.is_ours };
        query.run_planned(spi::Planned::Once, each);
    }
}

/// The transactions that `since` does not see and `target` does, as ranges: from, and up to but not with. Of those below
/// the `xmax` of `since` the ones that `has_rows` finds among them; the last range is that from there on, in which those are left
/// that `target` does not see either.
pub fn segments(
    since: &Snapshot,
    target: &Snapshot,
    has_rows: impl FnOnce(spi::Param, &mut dyn FnMut(&spi::Row<'_>) -> bool),
) -> Vec<(Xid, Xid)> {
    let mut found: Vec<Xid> = Vec::new();
    let late: Vec<i64> = since.xip().iter().filter(|&&xid| target.sees(xid)).map(|&xid| xid as i64).collect();
    if !late.is_empty() {
        has_rows(spi::Param::int8_array(&late), &mut |row| {
            found.push(row.int8(0) as Xid);
            true
        });
    }
    found.sort_unstable();
    let late = found.into_iter().map(|xid| (xid, xid + 1));
    late.chain([(since.xmax(), target.xmax())]).collect()
}

/// The cursor may leave the server: everything it has seen survives a crash.
pub fn release(position: &Position, standby: bool) {
    if !standby && !mutant::is(Mutant::NoFlush) {
        snapshot::make_durable(position.lsn);
    }
}
