//! The net effect of a transaction on the keys of one table.
//!
//! Row changes are replayed into one slot per key: INSERT makes a slot, a changed key moves it, DELETE clears it.
//! A row carries its columns along: one that a later change left out of the log, because it is large and unchanged, has the
//! value of the version before. What a key was before the transaction tells its first log row (`crate::log`);
//! without one its key and filter columns are what they were.

use std::collections::HashMap;
use std::rc::Rc;

use super::Reason;

/// The value of a column, as far as the write-ahead log tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<V> {
    /// A large value that this change did not touch.
    Unlogged,
    /// NULL
    Null,
    /// A value.
    Value(V),
}

/// The key of a row, as text.
pub type Key = Rc<[u8]>;

/// What a key holds after the changes so far.
#[derive(Debug)]
struct Slot<V> {
    /// The key under which the transaction found this row; nothing if it made the row.
    origin: Option<Key>,
    cells: Vec<Cell<V>>,
}

/// What happened to a key.
#[derive(Debug)]
struct Touch<V> {
    /// Whether its first change made it; nothing before a change is known.
    is_new: Option<bool>,
    now: Option<Slot<V>>,
    /// The order of its earliest log row, and what that says: the columns, or that the key was not there.
    first: Option<(i64, Option<Vec<Cell<V>>>)>,
}

impl<V> Default for Touch<V> {
    fn default() -> Self {
        Self { is_new: None, now: None, first: None }
    }
}

/// The changes of one transaction to one table.
#[derive(Debug)]
pub struct Net<V> {
    touches: HashMap<Key, Touch<V>>,
    has_passed: bool,
}

impl<V> Default for Net<V> {
    fn default() -> Self {
        Self { touches: HashMap::new(), has_passed: false }
    }
}

impl<V: Copy> Net<V> {
    /// How many keys were touched.
    pub fn len(&self) -> usize {
        self.touches.len()
    }

    /// Whether no key was touched.
    pub fn is_empty(&self) -> bool {
        self.touches.is_empty()
    }

    /// Whether anything was told of the key.
    pub fn has(&self, key: &[u8]) -> bool {
        self.touches.contains_key(key)
    }

    /// Leaves out a row that came, or changed under its key, where nothing was told of the key and these hold: no shape wants
    /// the row as it is now, and all its columns are in the log, so that no later version can leave one out that this one
    /// changed. What the key was still tells its first log row, and without one it was and is in no shape.
    pub fn pass(&mut self) {
        self.has_passed = true;
    }

    fn key(&self, key: &[u8]) -> Key {
        self.touches.get_key_value(key).map_or_else(|| Rc::from(key), |(key, _)| Rc::clone(key))
    }

    fn touch(&mut self, key: &Key, is_new: bool) -> &mut Touch<V> {
        let touch = self.touches.entry(Rc::clone(key)).or_default();
        touch.is_new.get_or_insert(is_new);
        touch
    }

    /// A row came.
    pub fn insert(&mut self, key: &[u8], cells: Vec<Cell<V>>) {
        let key = self.key(key);
        self.touch(&key, true).now = Some(Slot { origin: None, cells });
    }

    /// The first change of a key is told, and leaves it as it is; nothing is done if it is not the first.
    fn update_untouched(&mut self, key: &[u8], cells: Vec<Cell<V>>) -> Option<Vec<Cell<V>>> {
        if self.has(key) {
            return Some(cells);
        }
        let key: Key = Rc::from(key);
        let now = Some(Slot { origin: Some(Rc::clone(&key)), cells });
        self.touches.insert(key, Touch { is_new: Some(false), now, first: None });
        None
    }

    /// The row of key `from` is now this one, under key `to`.
    pub fn update(&mut self, from: &[u8], to: &[u8], cells: Vec<Cell<V>>) {
        let cells = if from == to { self.update_untouched(to, cells) } else { Some(cells) };
        let Some(mut cells) = cells else { return };
        let (from, to) = (self.key(from), self.key(to));
        let source = self.touch(&from, false);
        let origin = match source.now.take() {
            Some(before) => {
                for (cell, before) in cells.iter_mut().zip(&before.cells) {
                    if matches!(cell, Cell::Unlogged) {
                        *cell = *before;
                    }
                }
                before.origin
            }
            None => Some(Rc::clone(&from)),
        };
        self.touch(&to, from != to).now = Some(Slot { origin, cells });
    }

    /// The row went.
    pub fn delete(&mut self, key: &[u8]) {
        let key = self.key(key);
        self.touch(&key, false).now = None;
    }

    /// A log row of the key: its columns, or that the key was not there; `seq` as in `crate::log::sequence`.
    pub fn log(&mut self, key: &[u8], seq: i64, was: Option<Vec<Cell<V>>>) {
        let key = self.key(key);
        let touch = self.touches.entry(key).or_default();
        if touch.first.as_ref().is_none_or(|(first, _)| seq < *first) {
            touch.first = Some((seq, was));
        }
    }

    /// What became of each key, in the keys' order.
    pub fn finish(mut self) -> Vec<Outcome<V>> {
        // A column that no version of a row had in the log is what it was when the transaction found the row.
        let lacks = |row: &mut Slot<V>| row.cells.iter().any(|cell| matches!(cell, Cell::Unlogged));
        let mut rows: Vec<(Key, Slot<V>)> = self
            .touches
            .iter_mut()
            .filter_map(|(key, touch)| Some((Rc::clone(key), touch.now.take_if(lacks)?)))
            .collect();
        for (_, row) in &mut rows {
            let origin = row.origin.as_ref().and_then(|origin| self.touches.get(origin));
            if let Some((_, Some(was))) = origin.and_then(|touch| touch.first.as_ref()) {
                for (cell, was) in row.cells.iter_mut().zip(was) {
                    if matches!(cell, Cell::Unlogged) {
                        *cell = *was;
                    }
                }
            }
        }
        for (key, row) in rows {
            self.touches.entry(key).or_default().now = Some(row);
        }
        let has_passed = self.has_passed;
        let mut outcomes: Vec<Outcome<V>> =
            self.touches.into_iter().map(|(key, touch)| Outcome::of(key, touch, has_passed)).collect();
        outcomes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        outcomes
    }
}

/// What a key was before the transaction.
#[derive(Debug, PartialEq, Eq)]
enum Before<V> {
    /// Not there.
    Absent,
    /// A row whose key and filter columns were these.
    Row(Vec<Cell<V>>),
    /// A row with the same key and filter columns as now.
    Same,
    /// The log does not tell, though it should.
    Unknown,
}

/// What became of a key.
#[derive(Debug)]
pub struct Outcome<V> {
    /// The key.
    pub key: Key,
    before: Before<V>,
    /// The row that it has now.
    pub row: Option<Vec<Cell<V>>>,
    /// Whether that row has been under this key since before the transaction.
    stayed: bool,
}

/// What a shape's client has to do for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it does not have the row and does not get it.
    Nothing,
    /// Drop the row.
    Delete,
    /// Take the row; what is not in the log it has.
    Upsert,
    /// Pull.
    Stale(Reason),
}

impl<V: Copy> Outcome<V> {
    /// Key and filter columns of the row that the key was before, if the log tells them. It does for every delete.
    pub fn before(&self) -> Option<&[Cell<V>]> {
        match &self.before {
            Before::Row(cells) => Some(cells),
            Before::Absent | Before::Same | Before::Unknown => None,
        }
    }

    fn of(key: Key, touch: Touch<V>, has_passed: bool) -> Self {
        let stayed = touch.now.as_ref().is_some_and(|row| row.origin.as_ref() == Some(&key));
        // A log row without a change is that of one that was left out.
        let is_new = touch.is_new.or(has_passed.then_some(false));
        let before = match (is_new, touch.first) {
            (Some(true), _) | (Some(false), Some((_, None))) => Before::Absent,
            (Some(false), Some((_, Some(was)))) => Before::Row(was),
            (Some(false), None) if stayed => Before::Same,
            _ => Before::Unknown,
        };
        Self { key, before, row: touch.now.map(|slot| slot.cells), stayed }
    }

    /// The decision for a shape that filters by `filter` and sends `output` (places of cells); `holds` tells whether the
    /// filter is true of a row and is asked only if all its columns are known.
    pub fn decide(&self, filter: &[usize], output: &[usize], mut holds: impl FnMut(&[Cell<V>]) -> bool) -> Decision {
        let known = |cells: &[Cell<V>]| filter.iter().all(|&column| !matches!(cells[column], Cell::Unlogged));
        let now = match &self.row {
            None => false,
            Some(cells) if known(cells) => holds(cells),
            Some(_) => return Decision::Stale(Reason::Toast),
        };
        let held = match &self.before {
            Before::Absent => false,
            Before::Same => now,
            Before::Row(cells) if known(cells) => holds(cells),
            Before::Row(_) | Before::Unknown => return Decision::Stale(Reason::Schema),
        };
        match &self.row {
            Some(cells) if now => {
                let complete = output.iter().all(|&column| !matches!(cells[column], Cell::Unlogged));
                if complete || held && self.stayed { Decision::Upsert } else { Decision::Stale(Reason::Toast) }
            }
            _ if held => Decision::Delete,
            _ => Decision::Nothing,
        }
    }
}
