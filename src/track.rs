//! Starting to track a table, and noticing the commands that change it behind the triggers' back.

use std::cell::Cell;

use pgrx::prelude::*;
use pgrx::{pg_sys, spi::Spi};
use syncline_delta::Error;

use crate::ddl::{Change, Rows};
use crate::error::{Result, unwrap_or_raise};
use crate::pg::function::{Call, entry_point};
use crate::pg::{image, relation, settings, snapshot};

entry_point!(
    /// `sync_track(regclass, text[], boolean, boolean)`
    syncline_sync_track,
    pg_finfo_syncline_sync_track,
    |call: &mut Call| {
        unwrap_or_raise(track(call));
        pg_sys::Datum::from(0usize)
    }
);

entry_point!(
    /// `syncline.ddl()`
    syncline_ddl,
    pg_finfo_syncline_ddl,
    |call: &mut Call| {
        unwrap_or_raise(ddl(call));
        pg_sys::Datum::from(0usize)
    }
);

entry_point!(
    /// `syncline.arguments(bytea)`
    syncline_arguments,
    pg_finfo_syncline_arguments,
    |call: &mut Call| {
        let bytes = call.arg(0).map(image::bytea).unwrap_or_default();
        let ended = bytes.strip_suffix(b"\0").map(|bytes| bytes.split(|&byte| byte == 0)).into_iter().flatten();
        let names: Vec<String> = ended.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        names.into_datum().unwrap_or(pg_sys::Datum::from(0usize))
    }
);

thread_local! {
    /// The (transaction, subtransaction) in which `track` runs its own commands. A pair never
    /// comes again, so one that an error left behind does no harm.
    static OWN: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

fn here() -> (u64, u32) {
    // SAFETY: reads this backend's transaction state.
    (snapshot::own_xid(), unsafe { pg_sys::GetCurrentSubTransactionId() })
}

fn failed(error: pgrx::spi::Error) -> Error {
    Error::rule("XX000", format!("internal query failed: {error}"))
}

fn track(call: &Call) -> Result<()> {
    let (relation, columns) = (call.arg(0).unwrap_or(0.into()), call.arg(1).unwrap_or(0.into()));
    let flags = [call.arg(2), call.arg(3)].map(|flag| flag.is_some_and(|datum| datum.value() & 1 == 1));
    // SAFETY: the arguments have the types that the SQL declaration gives them.
    let (relation, columns) =
        unsafe { (pg_sys::Oid::from(relation.value() as u32), <Vec<Option<String>>>::from_datum(columns, false)) };
    OWN.set(here());
    let begins = Spi::get_one_with_args::<String>(
        "SELECT syncline.track($1, $2, $3, $4)",
        &[unsafe_regclass(relation), columns.unwrap_or_default().into(), flags[0].into(), flags[1].into()],
    )
    .map_err(failed)?;
    settings::as_owner(|| {
        Spi::run_with_args("SELECT syncline.adopt($1)", &[relation.into()]).map_err(failed)?;
        if let Some(reason) = begins {
            // Nobody could have read a level whose inserts were not logged; but who first reads it under a snapshot
            // from before would miss the inserts in between.
            let columns = (reason == "logging inserts").then(Vec::<i16>::new);
            let arguments = [relation.into(), reason.into(), columns.into()];
            Spi::run_with_args("SELECT syncline.set_barrier($1, $2, $3)", &arguments).map_err(failed)?;
        }
        Ok(())
    })?;
    OWN.set((0, 0));
    restamp(relation)
}

/// Rows restored from another cluster may carry ids that this one has not reached: each pull would send them.
fn restamp(table: pg_sys::Oid) -> Result<()> {
    let Some(definition) = relation::read(table) else { return Ok(()) };
    let name = definition.full_name();
    let xid = snapshot::own_xid();
    let sql = format!("UPDATE {name} SET _sync_version = 0 WHERE _sync_version OPERATOR(pg_catalog.>) {xid}");
    settings::as_table_owner(table, || Spi::run(&sql).map_err(failed))
}

/// A `regclass` argument: the same datum as the OID.
fn unsafe_regclass<'a>(relation: pg_sys::Oid) -> pgrx::datum::DatumWithOid<'a> {
    // SAFETY: regclass is an OID by another name.
    unsafe { pgrx::datum::DatumWithOid::new(relation, pg_sys::REGCLASSOID) }
}

fn ddl(call: &Call) -> Result<()> {
    // SAFETY: when the context node is an EventTriggerData it and its parse tree are valid during the call.
    let change = unsafe {
        let context = (*call.raw()).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            return Err(Error::rule("39P03", "this function is called by its event trigger only"));
        }
        Change::of((*context.cast::<pg_sys::EventTriggerData>()).parsetree)
    };
    let (what, columns) = match change.rows {
        Rows::Same => ("nothing", None),
        Rows::Renamed => ("renamed", None),
        Rows::Key => ("key", None),
        Rows::Attached => ("attached", None),
        Rows::Columns(names) => ("columns", Some(names)),
        Rows::Any => ("any", None),
    };
    // Adopting a partition runs commands too: those are ours.
    let outer = OWN.replace(here());
    let own = outer == here();
    settings::as_owner(|| {
        let arguments = [what.into(), columns.into(), change.is_of_type.into(), own.into()];
        Spi::run_with_args("SELECT syncline.on_ddl($1, $2, $3, $4)", &arguments).map_err(failed)
    })?;
    OWN.set(outer);
    Ok(())
}
