//! The BEFORE trigger: every row carries the top-level id of the transaction that last changed it.

use pgrx::pg_sys;
use syncline_delta::Error;

use crate::error::{Result, unwrap_or_raise};
use crate::pg::function::{Call, entry_point};
use crate::pg::{snapshot, trigger};
use crate::tombstone::layout;

entry_point!(
    /// `syncline.stamp()`
    syncline_stamp,
    pg_finfo_syncline_stamp,
    |call: &mut Call| unwrap_or_raise(stamp(call))
);

fn stamp(call: &Call) -> Result<pg_sys::Datum> {
    let row = trigger::RowEvent::new(call, true)?;
    // Who has seen the row has seen this one.
    if row.is_copy() {
        return Ok(row.new_row().datum());
    }
    let layout = layout(row.relation())?;
    let xid = i64::try_from(snapshot::own_xid()).map_err(|_| Error::rule("54000", "transaction ids are used up"))?;
    Ok(row.with_int8(layout.version, xid).datum())
}
