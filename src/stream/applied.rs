//! One change of a row: whether a shape may want it, and what is kept of it.

use pgrx::pg_sys;
use syncline_delta::stream::net::{Cell, Net};

use super::relations::{Member, Plan, Taken};
use crate::pg::decoding::{self, Copied, RowChange, Tuple};
use crate::pg::memory::Area;
use crate::pg::{image, settings};

/// The columns of a row, as a plan has them.
pub type Cells = Vec<Cell<pg_sys::Datum>>;

/// A row change, with copies of what is needed of it.
pub enum Applied {
    /// The row's key and columns.
    Insert(Vec<u8>, Cells),
    /// The key that it had, if the log tells one, and the one that it has.
    Update(Option<Vec<u8>>, Vec<u8>, Cells),
    /// The key.
    Delete(Vec<u8>),
}

/// Whether a shape may want a row; only a selective plan tells that it does not.
pub fn wants(plan: &Plan, read: impl Fn(usize) -> Cell<pg_sys::Datum>) -> bool {
    let is_wanted = |taken: &Taken| {
        let mut is_told = true;
        let columns = taken.filter.iter().map(|&place| {
            let column = &plan.columns[place];
            let value = datum(&read(place)).filter(|&value| decoding::is_plain(value, column.storage));
            is_told &= value.is_some() || matches!(read(place), Cell::Null);
            (column.number, value)
        });
        let holds = taken.condition.as_ref().is_none_or(|condition| condition.holds(columns));
        holds || !is_told
    };
    !plan.is_selective || plan.uses.iter().any(|used| used.taken.as_ref().is_none_or(is_wanted))
}

/// Whether a change need not be kept: see [`Net::pass`].
pub fn passes(member: &Member, net: &Net<pg_sys::Datum>, area: Area, change: &RowChange<'_>) -> bool {
    let plan = &member.plan;
    let (row, went) = match *change {
        RowChange::Insert(row) | RowChange::Update(None, row) => (row, false),
        RowChange::Delete(Some(old)) => (old, true),
        _ => return false,
    };
    if !plan.is_selective || !went && row.has_external() {
        return false;
    }
    let read = |place: usize| row.cell(member.numbers[place], plan.columns[place].storage);
    if !went && wants(plan, read) {
        return false;
    }
    // Nothing was told of any key, or not of this one.
    net.is_empty() || area.run(|| key_of(plan, |place| datum(&read(place)))).is_some_and(|key| !net.has(&key))
}

/// Takes a change apart; nothing if the log does not tell its key.
pub fn apply(member: &Member, change: RowChange<'_>, copied: &mut Copied) -> Option<Applied> {
    let plan = &member.plan;
    let storage = |place: usize| plan.columns[place].storage;
    let copy =
        |cells: &mut Cells| decoding::copy(cells.iter_mut().zip(plan.columns.iter().map(|column| column.storage)));
    let new_cells = |row: Tuple<'_>| -> Cells {
        let mut deformed = member.deformed.borrow_mut();
        deformed.read(row);
        (0..plan.columns.len()).map(|place| deformed.cell(member.numbers[place], storage(place))).collect()
    };
    let read = |row: Tuple<'_>, place: usize| row.cell(member.numbers[place], storage(place));
    // Of an old row only the key is in the log, unless the table logs all of it.
    let old_cells = |row: Tuple<'_>| -> Cells {
        let cell = |place: usize| {
            if member.logs_all || plan.key.contains(&place) { read(row, place) } else { Cell::Unlogged }
        };
        (0..plan.columns.len()).map(cell).collect()
    };
    match change {
        RowChange::Insert(row) => {
            let mut cells = new_cells(row);
            *copied = copy(&mut cells);
            Some(Applied::Insert(key_text(plan, &cells)?, cells))
        }
        RowChange::Update(old, new) => {
            let old = old.map(old_cells);
            let mut cells = new_cells(new);
            for (cell, old) in cells.iter_mut().zip(old.iter().flatten()) {
                if matches!(cell, Cell::Unlogged) {
                    *cell = *old;
                }
            }
            *copied = copy(&mut cells);
            let to = key_text(plan, &cells)?;
            let from = match old {
                Some(old) => Some(key_text(plan, &old)?),
                None => None,
            };
            Some(Applied::Update(from, to, cells))
        }
        RowChange::Delete(old) => Some(Applied::Delete(key_text(plan, &old_cells(old?))?)),
    }
}

/// The columns of an old row in the log.
pub fn logged_cells(plan: &Plan, bytes: &[u8]) -> Cells {
    let mut cells = vec![Cell::Unlogged; plan.columns.len()];
    let find = |number: i16| plan.columns.iter().position(|column| column.number == number);
    for told in image::decode(bytes, |number| find(number).is_some_and(|place| plan.columns[place].storage.by_value)) {
        if let Some(place) = find(told.attribute)
            && plan.columns[place].storage.typid == told.typid
        {
            cells[place] = told.value.map_or(Cell::Null, Cell::Value);
        }
    }
    cells
}

/// The key of a row; nothing if a column of it is not known.
pub fn key_text(plan: &Plan, cells: &Cells) -> Option<Vec<u8>> {
    key_of(plan, |place| datum(&cells[place]))
}

/// The same of columns that are not all read.
fn key_of(plan: &Plan, value: impl Fn(usize) -> Option<pg_sys::Datum>) -> Option<Vec<u8>> {
    if !plan.key.iter().all(|&place| value(place).is_some()) {
        return None;
    }
    let mut text = Vec::with_capacity(64);
    let write = || plan.key_text.write(&mut text, value);
    if plan.is_key_plain {
        write()
    } else {
        settings::pinned(write)
    }
    Some(text)
}

/// A value, if there is one in the log.
pub fn datum(cell: &Cell<pg_sys::Datum>) -> Option<pg_sys::Datum> {
    match cell {
        Cell::Value(datum) => Some(*datum),
        Cell::Null | Cell::Unlogged => None,
    }
}
