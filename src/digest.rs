//! What makes the law checkable: a fingerprint of a shape, and what a cursor has seen.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::Position;
use syncline_delta::digest::Digest;

use crate::error::{Result, unwrap_or_raise};
use crate::pg::function::{self, Call, entry_point};
use crate::pg::{snapshot, tuplestore};
use crate::{plan, server};

entry_point!(
    /// `sync_digest(jsonb)`
    syncline_sync_digest,
    pg_finfo_syncline_sync_digest,
    |call: &mut Call| {
        let shape = unwrap_or_raise(call.jsonb(0).ok_or_else(|| Error::rule("22004", "shape is NULL")));
        let mut digest = Digest::default();
        unwrap_or_raise(plan::scan(&shape, &mut |relation, key, value| digest.add(relation, key, value)));
        let hash = function::text_datum(digest.hex().as_bytes());
        tuplestore::record(call, [pg_sys::Datum::from(digest.rows as i64), hash])
    }
);

entry_point!(
    /// `sync_sees(text, xid8)`
    syncline_sync_sees,
    pg_finfo_syncline_sync_sees,
    |call: &mut Call| {
        let text = call.text(0).unwrap_or_default();
        let xid = call.arg(1).map_or(0, |datum| datum.value() as u64);
        pg_sys::Datum::from(unwrap_or_raise(Position::of(&text)).snapshot.sees(xid))
    }
);

entry_point!(
    /// `syncline.snapshot()`
    syncline_snapshot,
    pg_finfo_syncline_snapshot,
    |_: &mut Call| function::input(pg_sys::PG_SNAPSHOTOID, &snapshot::active().to_string(), -1)
);

entry_point!(
    /// `sync_position()`
    syncline_sync_position,
    pg_finfo_syncline_sync_position,
    |_: &mut Call| function::text_datum(unwrap_or_raise(now()).as_bytes())
);

/// The position of this statement's snapshot.
fn now() -> Result<String> {
    snapshot::refuse_writer()?;
    let server = server::now()?;
    server::release(&server.now, server.standby);
    Ok(server.now.to_string())
}
