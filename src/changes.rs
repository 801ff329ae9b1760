//! Pulling: what a client lacks, as a set or as one document.

use std::collections::HashSet;

use pgrx::pg_sys;
use syncline_delta::change::Op;
use syncline_delta::cursor::{Cursor, Position, Reset, Verdict};
use syncline_delta::json;
use syncline_delta::snapshot::Snapshot;
use syncline_delta::{Error, cursor::Server};

use crate::error::{Result, unwrap_or_raise};
use crate::mutant::{self, Mutant};
use crate::pg::function::{self, Call, entry_point};
use crate::pg::tuplestore::Tuplestore;
use crate::pg::{settings, snapshot};
use crate::plan::{Changes, Plan, Plans};
use crate::query::Moved;
use crate::{server, shapes};

entry_point!(
    /// `sync_changes(text, jsonb)`
    syncline_sync_changes,
    pg_finfo_syncline_sync_changes,
    |call: &mut Call| {
        let result = Changes::new(Tuplestore::result(call));
        let (since, shape) = arguments(call);
        unwrap_or_raise(settled(since.as_deref(), &shape, &mut SetSink { result, late: None }));
        pg_sys::Datum::from(0usize)
    }
);

entry_point!(
    /// `sync_pull(text, jsonb)`
    syncline_sync_pull,
    pg_finfo_syncline_sync_pull,
    |call: &mut Call| {
        let (since, shape) = arguments(call);
        let mut document = Document::default();
        unwrap_or_raise(settled(since.as_deref(), &shape, &mut document));
        function::text_datum(&unwrap_or_raise(document.finish()))
    }
);

fn arguments(call: &Call) -> (Option<String>, String) {
    let shape = call.jsonb(1).ok_or_else(|| Error::rule("22004", "shape is NULL"));
    (call.text(0), unwrap_or_raise(shape))
}

/// Where a delta goes.
trait Sink {
    /// One change. `cursor` stands on the commit only.
    fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8], cursor: &str) -> Result<()>;
    /// Some upserts will be known before the deletes that precede them in the delta.
    fn spool(&mut self);
    /// An upsert that comes behind everything put until [`Sink::unspool`].
    fn put_late(&mut self, relation: &str, key: &[u8], value: &[u8]) -> Result<()>;
    /// The late upserts come now.
    fn unspool(&mut self);
}

/// The delta, and the last look for what is not transactional.
fn settled(since: Option<&str>, text: &str, sink: &mut dyn Sink) -> Result<()> {
    snapshot::refuse_writer()?;
    let since = since.map(str::parse::<Cursor>).transpose()?;
    let mut shape = shapes::read(text)?;
    let resolved = Plans::resolve(&mut shape)?;
    settings::pinned(|| {
        let plans = Plans::new(resolved, shape)?;
        let server = server::now()?;
        delta(since.as_ref(), &plans, &server, sink)?;
        if server::overtaken(&plans.reads(), &server.now.snapshot)? {
            return Err(Error::rule("40001", "a table of the shape was altered or truncated after this snapshot")
                .with_hint("Run the statement again."));
        }
        server::release(&server.now, server.standby);
        let cursor = Cursor { position: server.now.clone(), identity: plans.identity };
        sink.put(Op::Commit, "", b"", b"{\"up_to_date\": true}", &cursor.to_string())
    })
}

/// From where the delta starts: a snapshot, or nothing and the reason.
fn start(since: Option<&Cursor>, plans: &Plans, server: &Server) -> Result<std::result::Result<Snapshot, Reset>> {
    let Some(cursor) = since else { return Ok(Err(Reset::Start)) };
    match cursor.position.judge(server, snapshot::switch_point) {
        Verdict::Reset(reason) => return Ok(Err(reason)),
        Verdict::Ahead if !mutant::is(Mutant::AheadIgnored) => {
            return Err(Error::rule("40001", "cursor is ahead of this snapshot")
                .with_detail("The client has seen a transaction that this snapshot does not see.")
                .with_hint("Try again in a new transaction, or on a server that lags less."));
        }
        Verdict::Accept | Verdict::Ahead => {}
    }
    let seen = &cursor.position.snapshot;
    if cursor.identity.shape != plans.identity.shape {
        return Ok(Err(Reset::Shape));
    }
    if cursor.identity.schema != plans.identity.schema || server::has_barrier(&plans.reads(), seen) {
        return Ok(Err(Reset::Schema));
    }
    Ok(Ok(seen.clone()))
}

fn delta(since: Option<&Cursor>, plans: &Plans, server: &Server, sink: &mut dyn Sink) -> Result<()> {
    let start = match start(since, plans, server)? {
        Ok(seen) => seen,
        Err(reason) => return reset(reason, plans, sink),
    };
    // A log row was written when a column was not logged yet, or of another type.
    let Some(past) = plans.past(&start) else { return reset(Reset::Schema, plans, sink) };
    let moved: Vec<Moved> = plans.tables.iter().map(|plan| plan.moved(&past)).collect();
    let mut left: Vec<_> = plans.tables.iter().zip(&moved).map(|(plan, moved)| plan.departures(moved)).collect();
    if left.iter().all(HashSet::is_empty) {
        for (plan, moved) in plans.tables.iter().zip(&moved) {
            upserts(plan, Some((&start, moved)), &mut |key, value| sink.put(Op::Upsert, &plan.name, key, value, ""))?;
        }
        return Ok(());
    }
    // What is in the shape now is not deleted. A row whose key has a new log row was written by that
    // transaction or a later one, so it is among the new rows: they tell it, without a look-up by key.
    sink.spool();
    for ((plan, moved), left) in plans.tables.iter().zip(&moved).zip(&mut left) {
        upserts(plan, Some((&start, moved)), &mut |key, value| {
            left.remove(key);
            sink.put_late(&plan.name, key, value)
        })?;
    }
    for (plan, left) in plans.tables.iter().zip(left) {
        // Any order would do; one that does not change from call to call is easier to read and to test.
        let mut keys: Vec<_> = left.into_iter().collect();
        keys.sort_unstable();
        for key in keys {
            sink.put(Op::Delete, &plan.name, &key, b"", "")?;
        }
    }
    sink.unspool();
    Ok(())
}

fn reset(reason: Reset, plans: &Plans, sink: &mut dyn Sink) -> Result<()> {
    let value = format!("{{\"reason\": \"{}\"}}", reason.as_str());
    sink.put(Op::Reset, "", b"", value.as_bytes(), "")?;
    for plan in &plans.tables {
        upserts(plan, None, &mut |key, value| sink.put(Op::Upsert, &plan.name, key, value, ""))?;
    }
    Ok(())
}

/// The rows that a client lacks who has seen this and for whom this has moved; all rows of a client who starts.
fn upserts(
    plan: &Plan,
    since: Option<(&Snapshot, &Moved<'_>)>,
    put: &mut impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut result = Ok(());
    let mut each = |key: &[u8], value: &[u8]| {
        result = put(key, value);
        result.is_ok()
    };
    plan.rows(since.map(|(seen, _)| seen), &mut each);
    if let Some((seen, moved)) = since {
        plan.entered(moved, seen, &mut each);
    }
    result
}

/// Rows of a set-returning function.
struct SetSink {
    result: Changes,
    late: Option<Changes>,
}

impl Sink for SetSink {
    fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8], cursor: &str) -> Result<()> {
        self.result.put(op, relation, key, value, cursor);
        Ok(())
    }

    fn spool(&mut self) {
        self.late = Some(Changes::new(self.result.store().spool()));
    }

    fn put_late(&mut self, relation: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.late.as_mut().unwrap_or(&mut self.result).put(Op::Upsert, relation, key, value, "");
        Ok(())
    }

    fn unspool(&mut self) {
        if let Some(late) = self.late.take() {
            self.result.store().append(late.store());
        }
    }
}

/// The most bytes that one JSON datum can have.
const MAX_DOCUMENT: usize = 1 << 30;

/// The delta as one JSON document.
#[derive(Default)]
struct Document {
    changes: Vec<u8>,
    late: Vec<u8>,
    reset: bool,
    cursor: String,
}

impl Document {
    fn append(into: &mut Vec<u8>, op: Op, relation: &str, key: &[u8], value: &[u8]) -> Result<()> {
        // Room for the names of the members and for the other half of the document.
        if into.len() + key.len() + value.len() > MAX_DOCUMENT - (1 << 20) {
            return Err(Error::Limit { what: "delta", limit: MAX_DOCUMENT });
        }
        into.extend_from_slice(if into.is_empty() { b"{\"op\": \"" } else { b", {\"op\": \"" });
        into.extend_from_slice(op.as_str().as_bytes());
        into.push(b'"');
        if !relation.is_empty() {
            into.extend_from_slice(b", \"relation\": ");
            json::string(into, relation.as_bytes());
        }
        for (name, text) in [("key", key), ("value", value)] {
            if !text.is_empty() {
                into.extend_from_slice(format!(", \"{name}\": ").as_bytes());
                into.extend_from_slice(text);
            }
        }
        into.push(b'}');
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>> {
        let reset = self.reset;
        let mut out =
            format!("{{\"cursor\": \"{}\", \"up_to_date\": true, \"reset\": {reset}, \"changes\": [", self.cursor)
                .into_bytes();
        if out.len() + self.changes.len() + 2 > MAX_DOCUMENT - 8 {
            return Err(Error::Limit { what: "delta", limit: MAX_DOCUMENT });
        }
        out.extend_from_slice(&self.changes);
        out.extend_from_slice(b"]}");
        Ok(out)
    }
}

impl Sink for Document {
    fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8], cursor: &str) -> Result<()> {
        match op {
            Op::Commit => cursor.clone_into(&mut self.cursor),
            _ => {
                self.reset |= op == Op::Reset;
                Self::append(&mut self.changes, op, relation, key, value)?;
            }
        }
        Ok(())
    }

    fn spool(&mut self) {}

    fn put_late(&mut self, relation: &str, key: &[u8], value: &[u8]) -> Result<()> {
        Self::append(&mut self.late, Op::Upsert, relation, key, value)
    }

    fn unspool(&mut self) {
        if !self.changes.is_empty() && !self.late.is_empty() {
            self.changes.extend_from_slice(b", ");
        }
        self.changes.append(&mut self.late);
    }
}

/// Whether `sync_changes` would return anything but a commit; without a shape, for some shape over the
/// tables that the caller may read.
pub fn would_change(since: Option<&str>, text: Option<&str>) -> Result<bool> {
    let mut found = Found(false);
    let looked = match text {
        Some(text) => settled(since, text, &mut found),
        None => anything_new(since).map(|new| found.0 = new),
    };
    match looked {
        Ok(()) => Ok(found.0),
        // A standby that lags has not replayed it yet, or a table was just altered: the next look tells.
        Err(error) if error.sqlstate() == "40001" => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a row, a log row or a barrier of any tracked table is new to the cursor.
fn anything_new(since: Option<&str>) -> Result<bool> {
    let Some(position) = since.map(Position::of).transpose()? else { return Ok(true) };
    settings::pinned(|| {
        Ok(match position.judge(&server::now()?, snapshot::switch_point) {
            Verdict::Accept => server::anything_new(&position.snapshot),
            Verdict::Ahead => false,
            Verdict::Reset(_) => true,
        })
    })
}

/// Takes nothing but the fact.
struct Found(bool);

impl Sink for Found {
    fn put(&mut self, op: Op, _: &str, _: &[u8], _: &[u8], _: &str) -> Result<()> {
        self.0 |= op != Op::Commit;
        Ok(())
    }

    fn spool(&mut self) {}

    fn put_late(&mut self, _: &str, _: &[u8], _: &[u8]) -> Result<()> {
        self.0 = true;
        Ok(())
    }

    fn unspool(&mut self) {}
}
