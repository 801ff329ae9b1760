//! A transaction as it is decoded, and what it comes to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use pgrx::pg_sys;
use syncline_delta::shape::Shape;
use syncline_delta::snapshot::{Snapshot, Xid};
use syncline_delta::stream::Reason;
use syncline_delta::stream::net::{Cell, Decision, Net, Outcome};
use syncline_delta::stream::object::{self, Batches};
use syncline_delta::stream::options::Options;

use super::memory;
use super::relations::{self, Known, Member, Plan, Relations, Taken};
use crate::mutant::{self, Mutant};
use crate::pg::decoding::{self, Opened, RowChange, Tuple};
use crate::pg::guard;
use crate::pg::image::{self, Storage};
use crate::pg::memory::Area;
use crate::pg::{function, settings};

type Cells = Vec<Cell<pg_sys::Datum>>;

/// Columns of internal tables, by attribute number.
mod column {
    pub const LOG_RELATION: i16 = 1;
    pub const LOG_SEQ: i16 = 3;
    pub const LOG_KIND: i16 = 5;
    pub const LOG_OLD: i16 = 6;
    pub const BARRIER_RELATION: i16 = 2;
    pub const BARRIER_COLUMNS: i16 = 4;
    pub const ALTERED_RELATION: i16 = 2;
    pub const ALTERED_RENAMED: i16 = 3;
    pub const STATE_EPOCH: i16 = 2;
    pub const HEARTBEAT_SNAPSHOT: i16 = 2;
}

/// The bytes of messages that are kept for the commit.
const MESSAGES: usize = 1 << 20;

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
    nets: HashMap<pg_sys::Oid, (Rc<Plan>, Net<pg_sys::Datum>)>,
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
            nets: HashMap::new(),
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
            (Known::Log, RowChange::Insert(row)) => self.log(shapes, relations, area, row),
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
            let touched: Vec<Rc<Plan>> = self.nets.drain().map(|(_, (plan, _))| plan).collect();
            for plan in touched.iter().chain([plan]) {
                self.make_stale(plan.shapes(), Reason::Size);
            }
            return None;
        }
        match self.nets.entry(plan.root) {
            Entry::Vacant(entry) => Some(&mut entry.insert((Rc::clone(plan), Net::default())).1),
            Entry::Occupied(entry) => {
                let (known, net) = entry.into_mut();
                if relations::is_same(known, plan) {
                    return Some(net);
                }
                // The table is another one than at the transaction's start.
                let both: Vec<usize> = known.shapes().chain(plan.shapes()).collect();
                for shape in both {
                    self.stale[shape].get_or_insert(Reason::Schema);
                }
                None
            }
        }
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
        if self.net(plan).is_none() {
            return;
        }
        let mut size = 0;
        let applied = area.run(|| apply(member, change, &mut size));
        self.size += size;
        match (applied, self.net(plan)) {
            (Some(applied), Some(net)) => match applied {
                Applied::Insert(key, cells) => net.insert(&key, cells),
                Applied::Update(from, to, cells) => net.update(&from, &to, cells),
                Applied::Delete(key) => net.delete(&key),
            },
            (Some(_), None) => {}
            (None, _) => self.make_stale(plan.shapes(), Reason::Schema),
        }
    }

    fn log(&mut self, shapes: &[(String, Shape)], relations: &mut Relations, area: Area, row: Tuple<'_>) {
        let (Some(relation), Some(seq), Some(kind), Some(old)) = (
            row.value(column::LOG_RELATION),
            row.value(column::LOG_SEQ),
            row.value(column::LOG_KIND),
            row.large(column::LOG_OLD),
        ) else {
            return;
        };
        let root = pg_sys::Oid::from(relation.value() as u32);
        let Some(plan) = relations.plan(shapes, root).filter(|_| !self.is_echo) else { return };
        if self.net(&plan).is_none() {
            return;
        }
        let mut size = OVERHEAD;
        let (key, was) = area.run(|| {
            let bytes = image::bytea(old);
            size += bytes.len();
            let mut cells: Cells = vec![Cell::Unlogged; plan.columns.len()];
            let find = |number: i16| plan.columns.iter().position(|column| column.number == number);
            for told in image::decode(&bytes, |n| find(n).is_some_and(|place| plan.columns[place].storage.by_value)) {
                if let Some(place) = find(told.attribute)
                    && plan.columns[place].storage.typid == told.typid
                {
                    cells[place] = told.value.map_or(Cell::Null, Cell::Value);
                }
            }
            (key_text(&plan, &cells), cells)
        });
        self.size += size;
        let enters = kind.value() as u8 == b'e';
        match (key, self.net(&plan)) {
            (Some(key), Some(net)) => net.log(&key, seq.value() as i64, (!enters).then_some(was)),
            (None, Some(_)) => self.make_stale(plan.shapes(), Reason::Schema),
            (_, None) => {}
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
        let tables: Vec<Table> =
            nets.into_values().filter(|(_, net)| !net.is_empty()).map(|(plan, net)| (plan, net.finish())).collect();
        let is_touched = |&shape: &usize| {
            self.stale[shape].is_none()
                && tables.iter().any(|(plan, _)| plan.uses.iter().any(|used| used.shape == shape))
        };
        let touched: Vec<usize> = (0..self.stale.len()).filter(is_touched).collect();
        let mut changes: Vec<Batches> = Vec::new();
        for (shape, effect) in touched.iter().zip(net_effects(&touched, &tables, area)) {
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

/// A row change, with copies of what is needed of it.
enum Applied {
    Insert(Vec<u8>, Cells),
    Update(Vec<u8>, Vec<u8>, Cells),
    Delete(Vec<u8>),
}

/// Takes a change apart; nothing if the log does not tell its key.
fn apply(member: &Member, change: RowChange<'_>, size: &mut usize) -> Option<Applied> {
    let plan = &member.plan;
    *size += OVERHEAD + plan.columns.len() * size_of::<Cell<pg_sys::Datum>>();
    let mut copy = |cell: Cell<pg_sys::Datum>, storage: Storage| match cell {
        Cell::Value(datum) => {
            let (datum, bytes) = decoding::copy(datum, storage);
            *size += bytes;
            Cell::Value(datum)
        }
        other => other,
    };
    let storage = |place: usize| plan.columns[place].storage;
    let read = |row: Tuple<'_>, place: usize| row.cell(member.numbers[place], storage(place));
    // Of an old row only the key is in the log, unless the table logs all of it.
    let old_cells = |row: Tuple<'_>| -> Cells {
        let cell = |place: usize| {
            if member.logs_all || plan.key.contains(&place) { read(row, place) } else { Cell::Unlogged }
        };
        (0..plan.columns.len()).map(cell).collect()
    };
    let all = 0..plan.columns.len();
    match change {
        RowChange::Insert(row) => {
            let cells: Cells = all.map(|place| copy(read(row, place), storage(place))).collect();
            Some(Applied::Insert(key_text(plan, &cells)?, cells))
        }
        RowChange::Update(old, new) => {
            let old = old.map(old_cells);
            let cell = |place: usize| match (read(new, place), &old) {
                (Cell::Unlogged, Some(old)) => old[place],
                (cell, _) => cell,
            };
            let cells: Cells = all.map(|place| copy(cell(place), storage(place))).collect();
            let to = key_text(plan, &cells)?;
            let from = match old {
                Some(old) => key_text(plan, &old)?,
                None => to.clone(),
            };
            Some(Applied::Update(from, to, cells))
        }
        RowChange::Delete(old) => Some(Applied::Delete(key_text(plan, &old_cells(old?))?)),
    }
}

/// The key of a row; nothing if a column of it is not known.
fn key_text(plan: &Plan, cells: &Cells) -> Option<Vec<u8>> {
    if !plan.key.iter().all(|&place| matches!(cells[place], Cell::Value(_))) {
        return None;
    }
    let mut text = Vec::new();
    let mut write = || plan.key_text.write(&mut text, |place| datum(&cells[place]));
    if plan.is_key_plain {
        write()
    } else {
        settings::pinned(write)
    }
    Some(text)
}

fn datum(cell: &Cell<pg_sys::Datum>) -> Option<pg_sys::Datum> {
    match cell {
        Cell::Value(datum) => Some(*datum),
        Cell::Null | Cell::Unlogged => None,
    }
}

/// The keys of a table, and what became of them.
type Table = (Rc<Plan>, Vec<Outcome<pg_sys::Datum>>);

/// What the clients of these shapes have to do.
fn net_effects(shapes: &[usize], tables: &[Table], area: Area) -> Vec<std::result::Result<Batches, Reason>> {
    if shapes.is_empty() {
        return Vec::new();
    }
    let mut left = memory();
    let mut effect = |&shape: &usize| {
        let batches = net_effect(shape, tables, area, left)?;
        left = left.saturating_sub(batches.size());
        Ok(batches)
    };
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
            let mut out = taken.upsert.clone();
            taken.key.write(&mut out, |place| datum(&cells[place]));
            out.extend_from_slice(b", \"value\": ");
            let is_known = |place: usize| !matches!(cells[place], Cell::Unlogged);
            taken.value.write_known(&mut out, is_known, |place| datum(&cells[place]));
            let missing = taken.output.iter().filter(|&&place| !is_known(place));
            object::unchanged(&mut out, missing.map(|&place| plan.columns[place].name.as_str()));
            upserts.push(&out);
        }
        _ => {
            let Some(before) = outcome.before() else { return Err(Reason::Schema) };
            let mut out = taken.delete.clone();
            taken.key.write(&mut out, |place| datum(&before[place]));
            out.push(b'}');
            deletes.push(&out);
        }
    }
    Ok(())
}
