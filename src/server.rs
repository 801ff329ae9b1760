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
    const SQL: &str = "SELECT xid::pg_catalog.text::pg_catalog.int8, columns IS NULL OR columns && $2 \
                       FROM syncline.barrier WHERE relation = $1";
    let mut found = false;
    settings::as_owner(|| {
        for Reads { relation, columns } in reads {
            let params = [spi::Param::oid(*relation), spi::Param::int2_array(columns)];
            spi::query(SQL, &params, &mut |row| {
                found |= !seen.sees(row.int8(0) as u64) && (any_column || row.bool(1));
                !found
            });
        }
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
         WHERE t.tgfoid = 'syncline.stamp()'::pg_catalog.regprocedure AND t.tgparentid = 0 \
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         AND pg_catalog.has_column_privilege(c.oid, '_sync_version', 'SELECT')";
    const LOG: &str = "SELECT 1 FROM syncline.log WHERE relation = $1 AND xid >= $2::pg_catalog.text::pg_catalog.xid8 UNION ALL \
         SELECT 1 FROM syncline.log WHERE relation = $1 AND xid = ANY ($3::pg_catalog.text[]::pg_catalog.xid8[])";
    let mut tables = Vec::new();
    spi::query(TABLES, &[], &mut |row| {
        let oid = row.get(0).map_or(pg_sys::InvalidOid, |datum| pg_sys::Oid::from(datum.value() as u32));
        tables.extend(row.get(1).map(|name| (oid, function::text(name))));
        true
    });
    let finds = |sql: &str, params: &[spi::Param]| {
        let mut found = false;
        spi::query(sql, params, &mut |_| {
            found = true;
            false
        });
        found
    };
    tables.into_iter().any(|(oid, name)| {
        let [xmax, xip] = bounds(seen);
        let rows = format!(
            "SELECT 1 FROM {name} WHERE _sync_version >= $1 UNION ALL \
             SELECT 1 FROM {name} WHERE _sync_version = ANY ($2) AND _sync_version < $1"
        );
        finds(&rows, &[xmax, xip])
            || settings::as_owner(|| finds(LOG, &[spi::Param::oid(oid), xmax, xip]))
            || unseen_barrier(&[Reads { relation: oid, columns: Vec::new() }], seen, true)
    })
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
