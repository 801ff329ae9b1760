//! Pulling: what a client lacks, as a set or as one document.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::{Cursor, Identity, Position, Reset, Server, Verdict};
use syncline_delta::round::{self, Page};
use syncline_delta::snapshot::Snapshot;

use crate::error::{Result, unwrap_or_raise};
use crate::mutant::{self, Mutant};
use crate::output::{Document, Found, Limits, Output, Rows, Sink};
use crate::pg::function::{Call, Jsonb, entry_point};
use crate::pg::snapshot;
use crate::pg::tuplestore::Tuplestore;
use crate::plan::Plans;
use crate::round::{Round, Stop};
use crate::{direct, kept, server};

entry_point!(
    /// `sync_changes(text, jsonb, integer, integer)`
    syncline_sync_changes,
    pg_finfo_syncline_sync_changes,
    |call: &mut Call| {
        let mut rows = Rows::new(Tuplestore::result(call));
        let limits = Limits { rows: limit(call, 2, "max_rows"), bytes: limit(call, 3, "max_bytes") };
        pull(call, limits, &mut rows);
        pg_sys::Datum::from(0usize)
    }
);

entry_point!(
    /// `sync_pull(text, jsonb, integer, integer)`
    syncline_sync_pull,
    pg_finfo_syncline_sync_pull,
    |call: &mut Call| {
        let limits = Limits { bytes: limit(call, 2, "max_bytes"), rows: limit(call, 3, "max_rows") };
        let mut document = Document::new(limits);
        pull(call, limits, &mut document);
        unwrap_or_raise(document.finish())
    }
);

fn limit(call: &Call, n: usize, name: &str) -> Option<u64> {
    let value = call.arg(n)?.value() as i32;
    let positive = u64::try_from(value).ok().filter(|&value| value > 0);
    let refused = || {
        Error::rule("22023", format!("{name} must be positive")).with_hint("NULL means: all of the delta in one page.")
    };
    Some(unwrap_or_raise(positive.ok_or_else(refused)))
}

fn pull(call: &Call, limits: Limits, sink: &mut dyn Sink) {
    let shape = unwrap_or_raise(call.jsonb(1).ok_or_else(|| Error::rule("22004", "shape is NULL")));
    unwrap_or_raise(settled(call.text(0).as_deref(), &shape, &mut Output::new(sink, limits)));
}

/// A page of the delta, and the last look for what is not transactional.
fn settled(since: Option<&str>, shape: &Jsonb, page: &mut Output<'_>) -> Result<()> {
    snapshot::refuse_writer()?;
    let since = since.map(str::parse::<Cursor>).transpose()?;
    let plans = kept::plans(shape)?;
    let server = server::now()?;
    let (cursor, up_to_date) = delta(since, &plans, &server, page)?;
    if server::overtaken(&plans.reads, &server)? {
        return Err(Error::rule("40001", "a table of the shape was altered or truncated after this snapshot")
            .with_hint("Run the statement again."));
    }
    server::release(&server.now, server.standby);
    page.commit(&cursor.to_string(), up_to_date);
    Ok(())
}

/// Fills a page: the cursor behind it, and whether the client then has what this snapshot has.
fn delta(since: Option<Cursor>, plans: &Plans, server: &Server, page: &mut Output<'_>) -> Result<(Cursor, bool)> {
    let round = match start(since, plans, server)? {
        Ok(round) => round,
        Err(reason) => reset(reason, plans, server, page)?,
    };
    match round.run(page) {
        Ok(place) => Ok(behind(&round, place, server)),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Untold) => {
            let round = reset(Reset::Schema, plans, server, page)?;
            match round.run(page) {
                Ok(place) => Ok(behind(&round, place, server)),
                Err(Stop::Error(error)) => Err(error),
                Err(Stop::Untold) => Err(Error::rule("XX000", "the first page of a round asked for the log")),
            }
        }
    }
}

/// A round from nothing to this snapshot.
fn reset<'a>(reason: Reset, plans: &'a Plans, server: &'a Server, page: &mut Output<'_>) -> Result<Round<'a>> {
    page.reset(reason)?;
    let now = &server.now.snapshot;
    Ok(Round { plans, since: None, from_exact: true, target: now.clone(), now, place: None })
}

/// The round that starts, or goes on, at a cursor; or why it has to start from nothing.
fn start<'a>(
    since: Option<Cursor>,
    plans: &'a Plans,
    server: &'a Server,
) -> Result<std::result::Result<Round<'a>, Reset>> {
    let Some(cursor) = since else { return Ok(Err(Reset::Start)) };
    match cursor.judge(server, snapshot::switch_point) {
        Verdict::Reset(reason) => return Ok(Err(reason)),
        Verdict::Ahead if !mutant::is(Mutant::AheadIgnored) => {
            return Err(Error::rule("40001", "cursor is ahead of this snapshot")
                .with_detail("The client has seen a transaction that this snapshot does not see.")
                .with_hint("Try again in a new transaction, or on a server that lags less."));
        }
        Verdict::Accept | Verdict::Ahead => {}
    }
    let identity = identity(plans, &cursor.position, cursor.round.as_ref());
    if cursor.identity.shape != identity.shape {
        return Ok(Err(Reset::Shape));
    }
    let oldest = cursor.oldest();
    if cursor.identity.schema != identity.schema || server::has_barrier(&plans.reads, oldest) {
        return Ok(Err(Reset::Schema));
    }
    let now = &server.now.snapshot;
    let (target, from_exact, place) = match cursor.round {
        Some(round::Round { open: Some(Page { target, from_exact, place }), .. }) => (target, from_exact, Some(place)),
        Some(_) => (now.clone(), false, None),
        None => (now.clone(), true, None),
    };
    let seen = cursor.position.snapshot;
    let since = (place.is_none() || !seen.is_empty()).then_some(seen);
    Ok(Ok(Round { plans, since, from_exact, target, now, place }))
}

/// What a cursor at a position is bound to: under row security to that position too.
fn identity(plans: &Plans, position: &Position, round: Option<&round::Round>) -> Identity {
    if plans.is_secured() { plans.identity.sealed(snapshot::secret(), position, round) } else { plans.identity }
}

/// The cursor of who has a page that got to a place, or the last one.
fn behind(round: &Round<'_>, place: Option<round::Place>, server: &Server) -> (Cursor, bool) {
    let is_exact = round.is_exact() && place.is_none();
    let (snapshot, open) = match place {
        Some(place) => {
            let seen = round.since.clone().unwrap_or_else(Snapshot::nothing);
            (seen, Some(Page { target: round.target.clone(), from_exact: round.from_exact, place }))
        }
        None => (round.target.clone(), None),
    };
    let position = Position { snapshot, ..server.now.clone() };
    let floor = server.now.snapshot.clone();
    let page = (!is_exact).then_some(round::Round { floor, open });
    let identity = identity(round.plans, &position, page.as_ref());
    (Cursor { position, identity, round: page }, is_exact)
}

/// Whether `sync_changes` would return anything but a commit; without a shape, for some shape over the
/// tables that the caller may read.
pub fn would_change(since: Option<&str>, shape: Option<&Jsonb>) -> Result<bool> {
    let mut found = Found::default();
    // More than a few rows: fewer are found without a query.
    let enough = Limits { rows: Some(direct::MOST as u64 + 1), bytes: None };
    let looked = match shape {
        Some(shape) => settled(since, shape, &mut Output::new(&mut found, enough)).map(|()| found.0),
        None => anything_new(since),
    };
    match looked {
        // A standby that lags has not replayed it yet, or a table was just altered: the next look tells.
        Err(error) if error.sqlstate() == "40001" => Ok(false),
        looked => looked,
    }
}

/// Whether a row, a log row or a barrier of any tracked table is new to the cursor.
fn anything_new(since: Option<&str>) -> Result<bool> {
    let Some(position) = since.map(Position::of).transpose()? else { return Ok(true) };
    let server = server::now()?;
    Ok(match position.judge(&server, snapshot::switch_point) {
        Verdict::Accept => server::anything_new(&position.snapshot.as_seen_by(&server.now.snapshot)),
        Verdict::Ahead => false,
        Verdict::Reset(_) => true,
    })
}
