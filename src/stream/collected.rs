//! A transaction as it is decoded, and what it comes to.

use std::rc::Rc;

use pgrx::pg_sys;
use syncline_delta::log::{Packed, unpack};
use syncline_delta::shape::Shape;
use syncline_delta::snapshot::{Snapshot, Xid};
use syncline_delta::stream::Reason;
use syncline_delta::stream::net::{Cell, Decision, Net, Outcome};
use syncline_delta::stream::object::{self, Batches};
use syncline_delta::stream::options::Options;

use super::applied::{Applied, apply, datum, key_text, logged_cells, passes, wants};
use super::memory;
use super::relations::{self, Known, Member, Plan, Relations, Taken};
use crate::mutant::{self, Mutant};
use crate::pg::decoding::{Copied, Deformed, Opened, RowChange, Tuple};
use crate::pg::guard;
use crate::pg::image;
use crate::pg::memory::Area;
use crate::pg::{function, settings};

/// Columns of internal tables, by attribute number.
mod column {
    pub const LOG_RELATION: i16 = 1;
    pub const LOG_ROWS: i16 = 5;
    pub const BARRIER_RELATION: i16 = 2;
    pub const BARRIER_COLUMNS: i16 = 4;
    pub const ALTERED_RELATION: i16 = 2;
    pub const ALTERED_RENAMED: i16 = 3;
    pub const STATE_EPOCH: i16 = 2;
    pub const HEARTBEAT_SNAPSHOT: i16 = 2;
}

/// The bytes of messages that are kept for the commit.
const MESSAGES: usize = 1 << 20;

/// Values of so many bytes come to no text that is too large to be written.
const CALM: usize = 64 << 20;

/// What a key and the places of its columns take beside the values.
const OVERHEAD: usize = 200;

/// The changes of a transaction so far.
pub struct Collected {
    /// The transaction.
    pub xid: Xid,
    /// What its writer saw, if it was `sync_heartbeat`.
    pub heartbeat: Option<Snapshot>,
    /// Whether the epoch is another one now.
    pub is_epoch_changed: bool,
    /// By shape: why it cannot be followed.
    stale: Vec<Option<Reason>>,
    /// By table.
    nets: Vec<(Rc<Plan>, Net<pg_sys::Datum>)>,
    /// Whether all values so far are written without an error, if their types are.
    is_plain: bool,
    /// Messages that were not written yet.
    messages: Batches,
    /// The bytes that it takes.
    size: usize,
    /// Whether it is its client's own.
    is_echo: bool,
}

impl Collected {
    /// A transaction that begins.
    pub fn new(xid: Xid, shapes: usize, is_echo: bool) -> Self {
        Self {
            xid,
            heartbeat: None,
            is_epoch_changed: false,
            stale: vec![None; shapes],
            nets: Vec::new(),
            is_plain: true,
            messages: Batches::default(),
            size: 0,
            is_echo,
        }
    }

    /// No shape can be followed.
    pub fn all_stale(&mut self) {
        self.make_stale(0..self.stale.len(), Reason::Barrier);
    }

    fn make_stale(&mut self, shapes: impl IntoIterator<Item = usize>, reason: Reason) {
        if reason == Reason::Barrier && mutant::is(Mutant::StreamBarrierIgnored) {
            return;
        }
        for shape in shapes {
            self.stale[shape].get_or_insert(reason);
        }
    }

    /// One row changed.
    pub fn change(
        &mut self,
        options: &Options,
        relations: &mut Relations,
        area: Area,
        relation: Opened,
        change: RowChange<'_>,
    ) {
        let shapes = &options.shapes;
        match (&*relations.get(shapes, relation.oid()), change) {
            (Known::Log(deformed), RowChange::Insert(row)) => {
                let mut deformed = deformed.borrow_mut();
                deformed.read(row);
                self.log(shapes, relations, area, &deformed);
            }
            (Known::Barrier, RowChange::Insert(row)) => self.barrier(shapes, relations, area, row),
            (Known::Altered, RowChange::Insert(row)) => self.altered(shapes, relations, row),
            (Known::Heartbeat, RowChange::Insert(row) | RowChange::Update(_, row)) => self.heartbeat(area, row),
            (Known::State, RowChange::Update(Some(old), new)) => {
                let is_same = old.value(column::STATE_EPOCH) == new.value(column::STATE_EPOCH);
                self.is_epoch_changed |= !is_same;
            }
            (Known::State, _) => self.is_epoch_changed = true,
            (Known::Message(member, numbers), change) => {
                if let RowChange::Insert(row) = &change {
                    self.message(options, area, *row, *numbers);
                }
                if let Some(member) = member {
                    self.row(member, area, change);
                }
            }
            (Known::Table(member), change) => self.row(member, area, change),
            _ => {}
        }
    }

    /// All rows of a table went.
    pub fn truncate(&mut self, shapes: &[(String, Shape)], relations: &mut Relations, relation: Opened) {
        if let Known::Table(member) | Known::Message(Some(member), _) = &*relations.get(shapes, relation.oid()) {
            self.make_stale(member.plan.shapes(), Reason::Barrier);
        }
    }

    /// The changes of a table, if there is a shape for which they matter and room for them.
    fn net(&mut self, plan: &Rc<Plan>) -> Option<&mut Net<pg_sys::Datum>> {
        if plan.shapes().all(|shape| self.stale[shape].is_some()) {
            return None;
        }
        if self.size > memory() {
            let touched: Vec<Rc<Plan>> = self.nets.drain(..).map(|(plan, _)| plan).collect();
            for plan in touched.iter().chain([plan]) {
                self.make_stale(plan.shapes(), Reason::Size);
            }
            return None;
        }
        let Some(place) = self.nets.iter().position(|(known, _)| known.root == plan.root) else {
            self.nets.push((Rc::clone(plan), Net::default()));
            return self.nets.last_mut().map(|(_, net)| net);
        };
        if relations::is_same(&self.nets[place].0, plan) {
            return Some(&mut self.nets[place].1);
        }
        // The table is another one than at the transaction's start.
        let known = Rc::clone(&self.nets[place].0);
        self.make_stale(known.shapes().chain(plan.shapes()), Reason::Schema);
        None
    }

    fn row(&mut self, member: &Member, area: Area, change: RowChange<'_>) {
        let plan = &member.plan;
        if !mutant::is(Mutant::StreamLevelIgnored) {
            self.make_stale(plan.levels.iter().copied(), Reason::Parent);
        }
        // Its client has the rows, but does not know what they decide.
        if self.is_echo {
            return;
        }
        if !member.is_told {
            return self.make_stale(plan.shapes(), Reason::Schema);
        }
        let Some(net) = self.net(plan) else { return };
        if passes(member, net, area, &change) {
            return if matches!(change, RowChange::Delete(_)) { net.pass_delete() } else { net.pass() };
        }
        let mut copied = Copied { bytes: 0, is_plain: true };
        let applied = area.run(|| apply(member, change, &mut copied));
        let told = applied.is_some();
        match applied {
            Some(Applied::Insert(key, cells)) => net.insert(&key, cells),
            Some(Applied::Update(from, to, cells)) => net.update(from.as_ref().unwrap_or(&to), &to, cells),
            Some(Applied::Delete(key)) => net.delete(&key),
            None => {}
        }
        self.size += OVERHEAD + plan.columns.len() * size_of::<Cell<pg_sys::Datum>>() + copied.bytes;
        self.is_plain &= copied.is_plain;
        if !told {
            self.make_stale(plan.shapes(), Reason::Schema);
        }
    }

    fn log(&mut self, shapes: &[(String, Shape)], relations: &mut Relations, area: Area, row: &Deformed) {
        let (Some(relation), Some(rows)) = (row.value(column::LOG_RELATION), row.large(column::LOG_ROWS)) else {
            return;
        };
        let root = pg_sys::Oid::from(relation.value() as u32);
        let Some(plan) = relations.plan(shapes, root).filter(|_| !self.is_echo) else { return };
        area.run(|| {
            image::with_bytes(rows, |bytes| unpack(bytes).for_each(|row| self.log_row(&plan, row)));
        });
    }

    fn log_row(&mut self, plan: &Rc<Plan>, row: Packed<'_>) {
        let Some(net) = self.net(plan) else { return };
        let (enters, went) = (row.kind == b'e', row.kind == b'd');
        let was = logged_cells(plan, row.old);
        let is_wanted = !went || wants(plan, |place| was[place]);
        let key = if is_wanted || !net.is_empty() { Some(key_text(plan, &was)) } else { None };
        match key {
            None => net.pass_log(),
            Some(Some(key)) if !is_wanted && !net.has(&key) => net.pass_log(),
            Some(Some(key)) => {
                net.log(&key, row.seq, (!enters).then_some(was));
                self.size += OVERHEAD + row.old.len();
            }
            Some(None) => self.make_stale(plan.shapes(), Reason::Schema),
        }
    }

    fn barrier(&mut self, shapes: &[(String, Shape)], relations: &mut Relations, area: Area, row: Tuple<'_>) {
        let Some(relation) = row.value(column::BARRIER_RELATION) else { return };
        let root = pg_sys::Oid::from(relation.value() as u32);
        let columns: Option<Vec<i16>> = area.run(|| {
            // SAFETY: the column is declared as int2[].
            row.large(column::BARRIER_COLUMNS).and_then(|datum| unsafe { pgrx::FromDatum::from_datum(datum, false) })
        });
        let concerned = match relations.plan(shapes, root) {
            Some(plan) => plan.concerned(columns.as_deref()),
            None => Vec::new(),
        };
        self.make_stale(concerned, Reason::Barrier);
        if !relations::exists(root) {
            // Dropped: nobody knows any more which shapes had it.
            self.all_stale();
        }
    }

    /// A table got another definition or another name, by which shapes may have meant another one.
    fn altered(&mut self, shapes: &[(String, Shape)], relations: &mut Relations, row: Tuple<'_>) {
        let Some(relation) = row.value(column::ALTERED_RELATION) else { return };
        let root = pg_sys::Oid::from(relation.value() as u32);
        let before: Vec<usize> = relations.shapes_of(root).collect();
        let now: Vec<usize> = relations.plan(shapes, root).iter().flat_map(|plan| plan.shapes()).collect();
        self.make_stale(before.into_iter().chain(now), Reason::Barrier);
        if row.value(column::ALTERED_RENAMED).is_none_or(|renamed| renamed.value() & 0xff != 0) {
            self.all_stale();
        }
    }

    fn heartbeat(&mut self, area: Area, row: Tuple<'_>) {
        let Some(snapshot) = row.large(column::HEARTBEAT_SNAPSHOT) else { return };
        let text = area.run(|| function::output(pg_sys::Oid::from(pg_sys::F_PG_SNAPSHOT_OUT), snapshot));
        if let Ok(snapshot) = text.parse::<Snapshot>() {
            self.heartbeat = Some(match self.heartbeat.take() {
                Some(before) => before.union(&snapshot),
                None => snapshot,
            });
        }
    }

    fn message(&mut self, options: &Options, area: Area, row: Tuple<'_>, [topic, payload]: [i16; 2]) {
        if self.is_echo {
            return;
        }
        let (Some(topic), Some(payload)) = (row.large(topic), row.large(payload)) else { return };
        let (topic, payload) = area
            .inner(c"syncline message")
            .run(|| (function::text(topic), function::output(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), payload)));
        if options.wants(&topic) {
            self.messages.push(&object::message(&topic, payload.as_bytes(), true));
        }
    }

    /// The messages so far, if they are so many that they must not wait for the commit.
    pub fn overdue(&mut self) -> Vec<Vec<u8>> {
        if self.messages.size() > MESSAGES { std::mem::take(&mut self.messages).finish() } else { Vec::new() }
    }

    /// Writes what the shapes' clients have to do; the shapes that they are up to date with then.
    pub fn finish(&mut self, options: &Options, area: Area, out: &mut Batches) -> Vec<usize> {
        let nets = std::mem::take(&mut self.nets);
        for (plan, _) in nets.iter().filter(|(_, net)| !net.is_explained()) {
            self.make_stale(plan.shapes(), Reason::Schema);
        }
        let tables: Vec<Table> =
            nets.into_iter().filter(|(_, net)| !net.is_empty()).map(|(plan, net)| (plan, net.finish())).collect();
        let is_touched = |&shape: &usize| {
            self.stale[shape].is_none()
                && tables.iter().any(|(plan, _)| plan.uses.iter().any(|used| used.shape == shape))
        };
        let touched: Vec<usize> = (0..self.stale.len()).filter(is_touched).collect();
        let mut changes: Vec<Batches> = Vec::new();
        let is_plain = self.is_plain && self.size < CALM && tables.iter().all(|(plan, _)| plan.is_plain);
        for (shape, effect) in touched.iter().zip(net_effects(&touched, &tables, area, is_plain)) {
            match effect {
                Ok(batches) => changes.push(batches),
                Err(reason) => self.make_stale([*shape], reason),
            }
        }
        for (place, reason) in self.stale.iter().enumerate() {
            if let Some(reason) = reason {
                out.push(&object::stale(&options.shapes[place].0, self.xid, *reason));
            }
        }
        changes.into_iter().for_each(|batches| out.append(batches));
        out.append(std::mem::take(&mut self.messages));
        (0..self.stale.len()).filter(|&shape| self.stale[shape].is_none()).collect()
    }
}

/// The keys of a table, and what became of them.
type Table = (Rc<Plan>, Vec<Outcome<pg_sys::Datum>>);

/// What the clients of these shapes have to do.
fn net_effects(
    shapes: &[usize],
    tables: &[Table],
    area: Area,
    is_plain: bool,
) -> Vec<std::result::Result<Batches, Reason>> {
    if shapes.is_empty() {
        return Vec::new();
    }
    let mut left = memory();
    let mut effect = |&shape: &usize| {
        let batches = net_effect(shape, tables, area, left)?;
        left = left.saturating_sub(batches.size());
        Ok(batches)
    };
    if is_plain {
        return shapes.iter().map(effect).collect();
    }
    // An error in here comes from code of a type, or from a value too large to be written: then each shape stands for itself.
    guard::attempt(|| settings::pinned(|| shapes.iter().map(&mut effect).collect())).unwrap_or_else(|| {
        let alone = |shape| guard::attempt(|| settings::pinned(|| effect(shape))).unwrap_or(Err(Reason::Schema));
        shapes.iter().map(alone).collect()
    })
}

/// What a shape's client has to do, in so many bytes: deletes, then upserts.
fn net_effect(shape: usize, tables: &[Table], area: Area, room: usize) -> std::result::Result<Batches, Reason> {
    let (mut deletes, mut upserts) = (Batches::default(), Batches::default());
    let scratch = area.inner(c"syncline row");
    for (plan, outcomes) in tables {
        for used in plan.uses.iter().filter(|used| used.shape == shape) {
            let Some(taken) = &used.taken else { return Err(Reason::Schema) };
            for outcome in outcomes {
                scratch.run(|| change(plan, taken, outcome, &mut deletes, &mut upserts))?;
                scratch.empty();
                if deletes.size() + upserts.size() > room {
                    return Err(Reason::Size);
                }
            }
        }
    }
    if mutant::is(Mutant::StreamUpsertsFirst) {
        std::mem::swap(&mut deletes, &mut upserts);
    }
    deletes.append(upserts);
    Ok(deletes)
}

/// The change of one key of one table of a shape.
fn change(
    plan: &Plan,
    taken: &Taken,
    outcome: &Outcome<pg_sys::Datum>,
    deletes: &mut Batches,
    upserts: &mut Batches,
) -> std::result::Result<(), Reason> {
    let holds = |cells: &[Cell<pg_sys::Datum>]| {
        let columns = taken.filter.iter().map(|&place| (plan.columns[place].number, datum(&cells[place])));
        taken.condition.as_ref().is_none_or(|condition| condition.holds(columns))
    };
    let decision = outcome.decide(&taken.filter, &taken.output, holds);
    match (decision, &outcome.row) {
        (Decision::Nothing, _) => {}
        (Decision::Delete, Some(_)) if mutant::is(Mutant::StreamNoLeave) => {}
        (Decision::Stale(reason), _) => return Err(reason),
        _ if taken.is_relational => return Err(Reason::Parent),
        (Decision::Upsert, Some(cells)) => {
            let is_known = |place: usize| !matches!(cells[place], Cell::Unlogged);
            upserts.write(|out| {
                out.extend_from_slice(&taken.upsert);
                taken.key.write(out, |place| datum(&cells[place]));
                out.extend_from_slice(b", \"value\": ");
                taken.value.write_known(out, is_known, |place| datum(&cells[place]));
                let missing = taken.output.iter().filter(|&&place| !is_known(place));
                object::unchanged(out, missing.map(|&place| plan.columns[place].name.as_str()));
            });
        }
        _ => {
            let Some(before) = outcome.before() else { return Err(Reason::Schema) };
            deletes.write(|out| {
                out.extend_from_slice(&taken.delete);
                taken.key.write(out, |place| datum(&before[place]));
                out.push(b'}');
            });
        }
    }
    Ok(())
}
