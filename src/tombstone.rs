//! The AFTER trigger: what a row was, if a client may have to forget it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::{pg_guard, pg_sys};
use syncline_delta::Error;
use syncline_delta::log::{MAX_PER_TRANSACTION, Packed, sequence};

use crate::error::{Result, unwrap_or_raise};
use crate::mutant::{self, Mutant};
use crate::pending;
use crate::pg::function::{Call, entry_point};
use crate::pg::image::{self, Storage};
use crate::pg::relation::Attribute;
use crate::pg::trigger::{self, Event, RowEvent, Tuple};
use crate::pg::{relation, snapshot};

entry_point!(
    /// `syncline.log()`
    syncline_log,
    pg_finfo_syncline_log,
    |call: &mut Call| {
        unwrap_or_raise(log(call));
        pg_sys::Datum::from(0usize)
    }
);

/// The most bytes that are kept of a row, with room for the header: one datum ends at 1 GB.
const MAX_OLD: usize = (1 << 30) - (1 << 10);

/// The most bytes of it that stay allocated.
const MAX_KEPT: usize = 1 << 16;

/// A key or filter column of the relation at hand.
struct Logged {
    here: i16,
    tracked: i16,
    storage: Storage,
    in_key: bool,
}

/// What the row triggers need to know of a relation.
pub struct Layout {
    root: pg_sys::Oid,
    /// `syncline.log`: dropped only with the triggers, so the relation changes too.
    log: pg_sys::Oid,
    /// Number of `_sync_version` in the relation at hand.
    pub version: i16,
    /// The same column in the tracked table.
    tracked_version: Attribute,
    columns: Vec<Logged>,
    log_inserts: bool,
}

thread_local! {
    static LAYOUTS: RefCell<HashMap<pg_sys::Oid, Rc<Layout>>> = RefCell::default();
    /// Memory for what is kept of a row.
    static OLD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// The transaction that the count of log rows belongs to.
    static COUNT: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// Forgets a layout when its relation, or the table at its top, changes.
pub fn watch_invalidations() {
    #[pg_guard]
    unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, changed: pg_sys::Oid) {
        LAYOUTS.with_borrow_mut(|layouts| {
            layouts.retain(|&oid, layout| changed != pg_sys::InvalidOid && oid != changed && layout.root != changed);
        });
    }
    // SAFETY: the callback stays valid as long as the library is loaded, which is for ever.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::from(0usize)) };
}

/// The layout of a relation, from the cache or the catalog.
pub fn layout(oid: pg_sys::Oid) -> Result<Rc<Layout>> {
    if let Some(layout) = LAYOUTS.with_borrow(|layouts| layouts.get(&oid).cloned()) {
        return Ok(layout);
    }
    let layout = Rc::new(read_layout(oid)?);
    LAYOUTS.with_borrow_mut(|layouts| layouts.insert(oid, Rc::clone(&layout)));
    Ok(layout)
}

fn read_layout(oid: pg_sys::Oid) -> Result<Layout> {
    let root = relation::root(oid);
    let missing =
        || Error::rule("55000", "the table of a syncline trigger is not tracked").with_hint("Call sync_track.");
    let here = relation::read(oid).ok_or_else(missing)?;
    let top = if root == oid { here.clone() } else { relation::read(root).ok_or_else(missing)? };
    // Anybody may hang these triggers onto a table of his own: what they write there must be what is stored there.
    let version = here.version().ok_or_else(missing)?.number;
    let tracked_version = top.version().ok_or_else(missing)?.clone();
    let trigger = top.trigger(relation::LOG);
    let filter = trigger.map(|t| t.arguments.as_slice()).unwrap_or_default();
    let mut columns = Vec::new();
    for attribute in &top.attributes {
        let in_key = top.key.contains(&attribute.number);
        if !in_key && !filter.contains(&attribute.name) {
            continue;
        }
        let own = here.attribute(&attribute.name).ok_or_else(missing)?;
        columns.push(Logged { here: own.number, tracked: attribute.number, storage: own.storage, in_key });
    }
    let log = relation::internal("log");
    Ok(Layout { root, log, version, tracked_version, columns, log_inserts: trigger.is_some_and(|t| t.on_insert) })
}

fn log(call: &Call) -> Result<()> {
    let row = RowEvent::new(call, false)?;
    let layout = layout(row.relation())?;
    let xid = snapshot::own_xid();
    let first = row.first();
    if row.event != Event::Delete {
        let version = row.value(row.new_row(), layout.version);
        if version.map(|datum| datum.value() as u64) != Some(xid) && !row.is_unchanged() {
            return Err(Error::rule("55000", "a trigger changed column \"_sync_version\"")
                .with_hint("Leave the column to Syncline; no BEFORE trigger may sort after \"~syncline_stamp\"."));
        }
    }
    if row.event == Event::Insert && mutant::is(Mutant::NoInsertLog) {
        return Ok(());
    }
    if row.event == Event::Insert {
        return write(&row, &layout, xid, b'e', first);
    }
    let differs =
        |only_key: bool| {
            row.event == Event::Update
                && layout.columns.iter().filter(|c| c.in_key || !only_key).any(|c| {
                    !trigger::same_bytes(c.storage, row.value(first, c.here), row.value(row.new_row(), c.here))
                })
        };
    let made_by = first.made_by();
    if made_by.is_some() && !first.is_updated() && !row.is_rewritten() && !layout.log_inserts {
        // Inserted by this very transaction: at any cursor the key was not there. After ALTER TABLE has rewritten all
        // rows nobody can tell; better tell a key that was never committed than keep one that is gone.
        write(&row, &layout, xid, b'e', first)?;
    } else if row.event == Event::Delete {
        if !mutant::is(Mutant::NoDeleteTombstone) {
            write(&row, &layout, xid, b'd', first)?;
        }
    } else if differs(false) && !mutant::is(Mutant::NoFilterTombstone) {
        write(&row, &layout, xid, b'u', first)?;
    }
    if differs(true) && !mutant::is(Mutant::NoKeyEnter) {
        write(&row, &layout, xid, b'e', row.new_row())?;
    }
    Ok(())
}

fn next_count(xid: u64) -> Result<u32> {
    let (owner, count) = COUNT.get();
    let count = if owner == xid { count + 1 } else { 0 };
    if count >= MAX_PER_TRANSACTION {
        return Err(Error::rule("54000", "too many changes of keys and filter columns in one transaction"));
    }
    COUNT.set((xid, count));
    Ok(count)
}

fn write(row: &RowEvent<'_>, layout: &Layout, xid: u64, kind: u8, tuple: Tuple) -> Result<()> {
    // Kept from row to row: a statement may delete a million.
    let mut old = OLD.take();
    old.clear();
    for column in &layout.columns {
        image::encode(&mut old, column.tracked, column.storage, row.value(tuple, column.here));
    }
    // With it a reader knows, mostly without looking, that no other log row of the key comes before this one.
    let Attribute { number, storage, .. } = layout.tracked_version;
    if kind != b'e' && layout.columns.iter().all(|column| column.tracked != number) {
        image::encode(&mut old, number, storage, row.value(tuple, layout.version));
    }
    if old.len() > MAX_OLD {
        return Err(Error::Limit { what: "the old values of key and filter columns", limit: MAX_OLD });
    }
    let seq = sequence(tuple.made_by(), kind == b'e', next_count(xid)?);
    pending::add(layout.log, layout.root, Packed { seq, kind, old: &old });
    OLD.set(if old.capacity() <= MAX_KEPT { old } else { Vec::new() });
    Ok(())
}
