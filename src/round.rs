//! From one snapshot to another: which rows a client lacks, and which it has to forget.
//!
//! A delta is a round. It leads from what the client has seen to its *target*; a round of one page has this call's
//! snapshot as its target, and so is exact there. A page of a longer one is read in a later snapshot: what it says of the
//! target is put together from the rows now and the log since (`then`). Rows that changed behind the target are left
//! out; the next round brings them.

use std::collections::HashSet;

use syncline_delta::Error;
use syncline_delta::change::Op;
use syncline_delta::round::{Place, Stage};
use syncline_delta::snapshot::{Snapshot, Xid};

use crate::direct::Found;
use crate::log::{self, LogPlace, LogRow, Untold, Use};
use crate::mutant::{self, Mutant};
use crate::output::Output;
use crate::past::Past;
use crate::pg::ephemeral::Ephemeral;
use crate::pg::memory::Scratch;
use crate::pg::spi::{self, Param};
use crate::pg::{settings, snapshot};
use crate::plan::{Plan, Plans};
use crate::query::{Driving, Member, Moved, Turn, View};
use crate::scan::{Order, Scan};
use crate::server;

/// A round at the page that this call gives.
pub struct Round<'a> {
    /// The shape.
    pub plans: &'a Plans,
    /// What the client has seen; nothing if it starts.
    pub since: Option<Snapshot>,
    /// Whether the client had just the shape's rows then.
    pub from_exact: bool,
    /// To where it leads.
    pub target: Snapshot,
    /// This call's snapshot.
    pub now: &'a Snapshot,
    /// Behind what the page begins.
    pub place: Option<Place>,
}

/// Why a page has no end.
pub enum Stop {
    /// The call fails.
    Error(Error),
    /// The log does not tell enough: the client has to start over.
    Untold,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Untold> for Stop {
    fn from(_: Untold) -> Self {
        Self::Untold
    }
}

type Result<T> = std::result::Result<T, Stop>;

impl Round<'_> {
    /// Whether what it says of the target holds now.
    pub fn is_exact(&self) -> bool {
        self.target == *self.now
    }

    /// Fills a page. The result is the place that it got to, or nothing if the round is at its end.
    pub fn run(&self, page: &mut Output<'_>) -> Result<Option<Place>> {
        if self.place.as_ref().is_some_and(|place| (place.stage == Stage::All) != self.since.is_none()) {
            return Err(Error::Cursor { detail: "Its page does not fit the place that it leads from." }.into());
        }
        let mut touched = Vec::new();
        if let Some(since) = &self.since {
            let since = since.as_seen_by(self.now);
            touched = server::touched(self.relations(), &since);
            if touched.is_empty() && self.few(&since, page)? {
                return Ok(None);
            }
        }
        settings::pinned(|| self.fill(&touched, page))
    }

    /// Fills the page with a few rows that were written, if nothing else has happened: then none of the stages' queries runs.
    /// Mostly there is none at all.
    fn few(&self, since: &Snapshot, page: &mut Output<'_>) -> Result<bool> {
        if !self.is_exact() || self.place.is_some() {
            return Ok(false);
        }
        let mut rows = Vec::new();
        for plan in &self.plans.tables {
            let mut read = || plan.few(since, &mut rows);
            let are_all = if mutant::is(Mutant::SecondSnapshot) { snapshot::with_latest(read) } else { read() };
            if !are_all {
                return Ok(false);
            }
        }
        if !page.has_room_for(rows.len(), rows.iter().map(Found::size).sum()) {
            return Ok(false);
        }
        for Found { relation, key, value } in rows {
            page.put(Op::Upsert, relation, &key, &value)?;
        }
        Ok(true)
    }

    /// Those that the shape reads.
    fn relations(&self) -> impl Iterator<Item = pgrx::pg_sys::Oid> {
        self.plans.reads.iter().map(|read| read.relation)
    }

    /// As [`Round::run`], with the relations that have a log row since the client's snapshot.
    fn fill(&self, touched: &[pgrx::pg_sys::Oid], page: &mut Output<'_>) -> Result<Option<Place>> {
        let (levels, own) = (self.plans.levels(), self.plans.own());
        let mut then = Past::since(&self.target, " then");
        if !self.is_exact() {
            let touched = server::touched(self.relations(), &self.target.as_seen_by(self.now));
            for used in levels.iter().chain(&own).filter(|used| touched.contains(&used.relation.oid)) {
                then.add(used, &self.target)?;
            }
        }
        let mut past = self.since.as_ref().map(|since| Past::since(since, ""));
        if let Some(past) = &mut past {
            for used in levels.iter().filter(|used| touched.contains(&used.relation.oid)) {
                past.add(used, &self.target)?;
            }
        }
        // A page of several tells of another moment than its own, and so may the one that the client comes from.
        let driving = if self.from_exact && self.is_exact() { Driving::Flipped } else { Driving::Touched };
        let mut tables = Vec::with_capacity(own.len());
        for (number, (plan, used)) in self.plans.tables.iter().zip(own).enumerate() {
            let mut params = plan.bound.params.clone();
            let delta = self.since.as_ref().zip(past.as_ref()).map(|(since, past)| {
                let (moved, mut own) = (plan.moved(past, driving, &mut params), Past::since(since, " own"));
                if moved.is_any() {
                    own.add(&used, &self.target)?;
                }
                let is_touched = touched.contains(&used.relation.oid);
                Ok::<_, Untold>(Delta { since, moved, own, is_touched })
            });
            let delta = delta.transpose()?;
            let then = plan.moved(&then, Driving::Flipped, &mut params);
            tables.push(Table { round: self, number, plan, used, params, then, delta });
        }
        let stages: &[Stage] = match past {
            None => &[Stage::All],
            Some(_) => &[Stage::Left, Stage::Gone, Stage::Written, Stage::Entered],
        };
        for &stage in stages {
            for table in &tables {
                let from = match &self.place {
                    Some(place) if (stage, table.number) < (place.stage, place.table) => continue,
                    Some(place) if (stage, table.number) == (place.stage, place.table) => Some(place),
                    _ => None,
                };
                if let Some((level, values)) = table.stage(stage, from, page)? {
                    return Ok(Some(Place { stage, table: table.number, level, values }));
                }
            }
        }
        Ok(None)
    }
}

/// A table of the shape in a round.
struct Table<'a> {
    round: &'a Round<'a>,
    number: usize,
    plan: &'a Plan,
    used: Use<'a>,
    /// Of the condition, and of what has moved.
    params: Vec<Param>,
    /// What happened since the target.
    then: Moved<'a>,
    delta: Option<Delta<'a>>,
}

/// What happened since the client's snapshot.
struct Delta<'a> {
    since: &'a Snapshot,
    moved: Moved<'a>,
    /// Of the table itself, if a value at a level may have come or gone.
    own: Past,
    /// Whether the log has rows of it.
    is_touched: bool,
}

/// The level, and the values of a place.
type Full = Option<(usize, Vec<String>)>;

impl Table<'_> {
    fn stage(&self, stage: Stage, from: Option<&Place>, page: &mut Output<'_>) -> Result<Full> {
        let (level, values) = from.map_or((0, None), |place| (place.level, Some(place.values.as_slice())));
        let full = match (stage, &self.delta) {
            (Stage::Left, Some(delta)) if !delta.is_touched => None,
            (Stage::Left, Some(delta)) => self.left(delta, values, page)?,
            (Stage::Written, Some(delta)) => self.written(delta, values, page)?,
            (Stage::All, None) => self.all(values, page)?,
            (Stage::Gone | Stage::Entered, Some(delta)) => {
                let members = self.plan.bound.node.members();
                // A row may stand at several levels.
                let mut sent = (members.len() > 1).then(HashSet::new);
                for member in members {
                    let number = member.level.number;
                    if number < level {
                        continue;
                    }
                    let values = values.filter(|_| number == level);
                    let Some(scan) = self.moved(stage, delta, member)? else { continue };
                    if let Some(values) = self.run(scan, stage == Stage::Gone, values, page, sent.as_mut())? {
                        return Ok(Some((number, values)));
                    }
                }
                None
            }
            _ => None,
        };
        Ok(full.map(|values| (0, values)))
    }

    /// How the target is seen.
    fn at_target(&self) -> View<'_> {
        if self.round.is_exact() { View::NOW } else { View::past(&self.then) }
    }

    /// ` AND …`: the row now is what it was at the target, and was in the shape then.
    fn and_at_target(&self) -> String {
        if self.round.is_exact() {
            String::new()
        } else {
            format!(" AND {}", self.plan.bound.node.sql("t", self.at_target()))
        }
    }

    /// The row with the key of row `t` was there at the target, and in the shape.
    fn in_target(&self) -> String {
        let (relation, bound) = (&self.plan.tracked.relation, &self.plan.bound);
        let same = bound.key.identical("n", "t");
        let is_in = bound.node.sql("n", self.at_target());
        // OFFSET keeps the look-up by key what it is: nobody reads a whole table for a page of keys.
        let exists = |from: &str, and: &str| {
            format!("EXISTS (SELECT 1 FROM {from} AS n WHERE {same} AND {is_in}{and} OFFSET 0)")
        };
        let now = exists(&relation.full_name(), &self.then.past.untouched(relation, &bound.key, "n"));
        match self.then.past.old(relation) {
            Some(old) => format!("({now} OR {})", exists(&old, "")),
            None => now,
        }
    }

    fn relations<'a>(&'a self, delta: &'a Delta<'_>) -> Vec<&'a Ephemeral> {
        [delta.moved.past, self.then.past, &delta.own].into_iter().flat_map(Past::relations).collect()
    }

    /// Deletes keys of rows that were in the shape and are not at the target, as the log tells.
    fn left(&self, delta: &Delta<'_>, values: Option<&[String]>, page: &mut Output<'_>) -> Result<Option<Vec<String>>> {
        let mut after = values.map(log_place).transpose()?;
        let (mut memory, mut firsts) = (Scratch::new(), log::Firsts::default());
        loop {
            // Some more than there is room for: not every key left.
            let count = page.room().map_or(log::CHUNK, |room| (room as usize).clamp(100, log::CHUNK));
            let found = log::candidates(&self.used, delta.since, &self.round.target, after, count, &mut firsts)?;
            let full = memory.run(|| -> Result<Option<LogPlace>> {
                let left = if found.rows.is_empty() { HashSet::new() } else { self.keys_that_left(delta, &found.rows) };
                for row in &found.rows {
                    let key = self.plan.logged_key(&log::told(&self.used, &row.old).unwrap_or_default());
                    if left.contains(&key) {
                        page.put(Op::Delete, &self.plan.name, &key, b"")?;
                        if page.is_full() {
                            return Ok(Some(row.at));
                        }
                    }
                }
                Ok(None)
            })?;
            if let Some((xid, number)) = full {
                return Ok(Some(vec![xid.to_string(), number.to_string()]));
            }
            if found.last.is_none() {
                return Ok(None);
            }
            after = found.last;
        }
    }

    fn keys_that_left(&self, delta: &Delta<'_>, rows: &[LogRow]) -> HashSet<Vec<u8>> {
        let relation = &self.plan.tracked.relation;
        let mut old = Ephemeral::new("left", relation.oid);
        for row in rows {
            let columns = log::told(&self.used, &row.old).unwrap_or_default();
            old.put(columns.iter().map(|column| (column.attribute, column.value)));
        }
        let was = self.plan.bound.node.sql("t", View::past(&delta.moved));
        let keys = self.plan.key_columns();
        let sql = format!("SELECT {keys} FROM \"left\" AS t WHERE {was} AND NOT {}", self.in_target());
        let mut relations = self.relations(delta);
        relations.push(&old);
        let mut left = HashSet::new();
        spi::Query { sql: &sql, params: &self.params, relations: &relations, is_ours: self.plan.is_secured() }.run(
            &mut |row| {
                let mut key = Vec::new();
                self.plan.write_key(row, &mut key);
                left.insert(key);
                true
            },
        );
        left
    }

    /// Rows with a value that may have come to or gone from a level: those that left with it, or that came with it.
    fn moved<'a>(&'a self, stage: Stage, delta: &'a Delta<'_>, member: &Member) -> Result<Option<Scan<'a>>> {
        let turn = if stage == Stage::Gone { Turn::Left } else { Turn::Entered };
        let Some(driven) = delta.moved.driven(member, "t", turn) else { return Ok(None) };
        let (relation, node) = (&self.plan.tracked.relation, &self.plan.bound.node);
        let mut params = self.params.clone();
        let was = node.sql("t", driven.then());
        let (columns, sources) = if turn == Turn::Left {
            if mutant::is(Mutant::NoLeave) {
                return Ok(None);
            }
            let is_in = if self.round.is_exact() { driven.now() } else { self.at_target() };
            let left = format!("{} AND {was} AND {} IS NOT TRUE", driven.sql, node.sql("t", is_in));
            let untouched = delta.own.untouched(relation, &self.plan.bound.key, "t");
            let now = format!("FROM {} AS t WHERE {left}{untouched}", relation.full_name());
            let kept = delta.own.kept(relation).map(|kept| format!("FROM {kept} AS t WHERE {left}"));
            ((self.plan.key_columns(), relation.key.len()), std::iter::once(now).chain(kept).collect())
        } else {
            if mutant::is(Mutant::NoEnter) {
                return Ok(None);
            }
            let (xmax, xip) = (params.len() + 1, params.len() + 2);
            params.extend(server::bounds(delta.since));
            let was_not = if self.round.from_exact { format!(" AND {was} IS NOT TRUE") } else { String::new() };
            let came = format!(
                "FROM {} AS t WHERE {} AND {}{}{was_not} \
                 AND t._sync_version < ${xmax} AND NOT (t._sync_version = ANY (${xip}))",
                relation.full_name(),
                driven.sql,
                node.sql("t", driven.now()),
                self.and_at_target()
            );
            (self.plan.columns(), vec![came])
        };
        let order = Order::by_key(Some((member.column("t"), member.level.typid)), relation.key_columns())?;
        Ok(Some(self.scan(columns, sources, params, self.relations(delta), order)))
    }

    /// Rows that were written and are in the shape.
    ///
    /// Ranges of the version's index find what is new however much lies between an old transaction and now, where
    /// `version >= xmin` would read all of that.
    fn written(
        &self,
        delta: &Delta<'_>,
        values: Option<&[String]>,
        page: &mut Output<'_>,
    ) -> Result<Option<Vec<String>>> {
        let relation = &self.plan.tracked.relation;
        let place = values.and_then(|values| values.first()).map(|version| version.parse::<Xid>());
        let place = place.transpose().or(Err(Error::Cursor { detail: "Its page lies at no transaction." }))?;
        let (place, values) = match place {
            Some(version) if mutant::is(Mutant::PageBoundary) => (Some(version + 1), None),
            place => (place, values),
        };
        for (from, to) in self.versions(delta.since) {
            if from >= to || place.is_some_and(|version| to <= version) {
                continue;
            }
            let mut params = self.params.clone();
            let first = params.len() + 1;
            let from = if values.is_none() { from.max(place.unwrap_or(0)) } else { from };
            params.extend([from, to].map(|xid| Param::int8(i64::try_from(xid).unwrap_or(i64::MAX))));
            let mut source = format!(
                "FROM {} AS t WHERE t._sync_version >= ${first} AND t._sync_version < ${} AND {}{}",
                relation.full_name(),
                first + 1,
                self.plan.bound.node.sql("t", View::NOW),
                self.and_at_target()
            );
            if !self.round.is_exact() {
                params.push(server::bounds(&self.round.target)[1]);
                source.push_str(&format!(" AND NOT (t._sync_version = ANY (${}))", first + 2));
            }
            let version = ("t._sync_version".to_owned(), pgrx::pg_sys::INT8OID);
            let order = Order::by_key(Some(version), relation.key_columns())?;
            let scan = self.scan(self.plan.columns(), vec![source], params, self.relations(delta), order);
            let values = values.filter(|_| place.is_some_and(|version| from <= version));
            let run = || self.run(scan, false, values, page, None);
            let full = if mutant::is(Mutant::SecondSnapshot) { snapshot::with_latest(run) } else { run() }?;
            if full.is_some() {
                return Ok(full);
            }
        }
        Ok(None)
    }

    /// The versions that `since` does not see and the target does, as ranges. Rows restored from another cluster may have
    /// versions that this one has not reached: those are always among them.
    fn versions(&self, since: &Snapshot) -> Vec<(Xid, Xid)> {
        let (versions, target) = (&self.plan.versions, &self.round.target);
        let mut ranges = server::segments(since, target, |xid| versions.has_one(xid));
        if !versions.has_from(since.xmax()) {
            ranges.pop();
        } else if let (true, Some(last)) = (self.round.is_exact(), ranges.last_mut()) {
            last.1 = Xid::MAX;
        } else {
            ranges.push((self.round.now.xmax(), Xid::MAX));
        }
        ranges
    }

    /// All rows of the shape, for a client that has none.
    fn all(&self, values: Option<&[String]>, page: &mut Output<'_>) -> Result<Option<Vec<String>>> {
        let relation = &self.plan.tracked.relation;
        let mut params = self.params.clone();
        let mut source =
            format!("FROM {} AS t WHERE {}", relation.full_name(), self.plan.bound.node.sql("t", View::NOW));
        if !self.round.is_exact() {
            let first = params.len() + 1;
            params.extend(server::bounds(&self.round.target));
            params.push(Param::int8(self.round.now.xmax() as i64));
            source.push_str(&format!(
                "{} AND (t._sync_version < ${first} AND NOT (t._sync_version = ANY (${})) OR t._sync_version >= ${})",
                self.and_at_target(),
                first + 1,
                first + 2
            ));
        }
        let order = Order::by_key(None, relation.key_columns())?;
        let scan = self.scan(self.plan.columns(), vec![source], params, self.then.past.relations(), order);
        self.run(scan, false, values, page, None)
    }

    /// Sends what a scan finds, each key once if `sent` is kept.
    fn run(
        &self,
        scan: Scan<'_>,
        is_delete: bool,
        values: Option<&[String]>,
        page: &mut Output<'_>,
        mut sent: Option<&mut HashSet<Vec<u8>>>,
    ) -> Result<Option<Vec<String>>> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let full = scan.run(values.map(<[String]>::to_vec), page, &mut |page, row| {
            key.clear();
            value.clear();
            let op = if is_delete {
                self.plan.write_key(row, &mut key);
                Op::Delete
            } else {
                self.plan.write(row, &mut key, &mut value);
                Op::Upsert
            };
            let is_new = sent.as_mut().is_none_or(|sent| sent.insert(key.clone()));
            if is_new { page.put(op, &self.plan.name, &key, &value) } else { Ok(()) }
        });
        Ok(full?)
    }

    fn scan<'a>(
        &self,
        columns: (String, usize),
        sources: Vec<String>,
        params: Vec<Param>,
        relations: Vec<&'a Ephemeral>,
        order: Order,
    ) -> Scan<'a> {
        Scan { columns, sources, params, relations, is_ours: self.plan.is_secured(), order }
    }
}

fn log_place(values: &[String]) -> std::result::Result<LogPlace, Error> {
    let place = match values {
        [xid, number] => xid.parse().ok().zip(number.parse().ok()),
        _ => None,
    };
    place.ok_or(Error::Cursor { detail: "Its page lies at no log row." })
}
