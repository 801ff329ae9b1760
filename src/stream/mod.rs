//! The output plugin: shapes as a stream of changes out of the write-ahead log.
//!
//! Row changes of a transaction are collected per table and netted at its commit, as a pull nets what it finds; what that
//! means is decided in `syncline_delta::stream`. Whatever cannot be told exactly makes the shape `stale`: its client pulls.
//! No error comes from what users do to their tables: it would stop the slot for ever.

mod applied;
mod collected;
mod relations;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};
use syncline_delta::Error;
use syncline_delta::cursor::Position;
use syncline_delta::snapshot::Snapshot;
use syncline_delta::stream::object::{self, Batches, Commit};
use syncline_delta::stream::options::Options;

use crate::error::{Result, unwrap_or_raise};
use crate::mutant::{self, Mutant};
use crate::pg::decoding::{self, Context, Opened, Transaction};
use crate::pg::function::{Call, entry_point};
use crate::pg::memory::Area;
use crate::pg::{settings, snapshot};
use collected::Collected;
use relations::Relations;

entry_point!(
    /// `syncline.flush()`
    syncline_flush,
    pg_finfo_syncline_flush,
    |_: &mut Call| {
        snapshot::make_durable(snapshot::insert_lsn());
        pg_sys::Datum::from(0usize)
    }
);

/// The prefix of messages that `sync_publish` writes at once.
const PUBLISHED: &std::ffi::CStr = c"syncline.message";

/// After how many changes the client is told that decoding goes on.
const PROGRESS: u32 = 100;

static MEMORY: GucSetting<i32> = GucSetting::<i32>::new(65_536);

/// Defines `syncline.stream_memory`.
pub fn define_settings() {
    GucRegistry::define_int_guc(
        c"syncline.stream_memory",
        c"memory for the changes of one transaction that the output plugin nets",
        c"a larger transaction makes the shapes that it touches stale",
        &MEMORY,
        64,
        1 << 20,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
}

/// The bytes that one transaction's changes may take.
fn memory() -> usize {
    usize::try_from(MEMORY.get()).unwrap_or(0) << 10
}

/// What lives as long as the decoding.
struct State {
    options: Options,
    relations: Relations,
    /// What a client has seen that has read everything so far.
    position: Option<Snapshot>,
    epoch: Option<u64>,
    /// For the values of the transaction that is decoded.
    area: Area,
    transaction: Option<Collected>,
    change_count: u32,
}

/// Called by Postgres when a slot with this plugin is opened.
///
/// # Safety
///
/// Postgres passes a struct to be filled.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: the caller's promise. Without callbacks for prepared and streamed transactions both come whole, at their commit.
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.message_cb = Some(message);
    callbacks.commit_cb = Some(commit);
    callbacks.shutdown_cb = Some(shutdown);
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(
    context: *mut pg_sys::LogicalDecodingContext,
    _options: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    // SAFETY: Postgres passes the context of the decoding that begins.
    let context = unsafe { Context::new(context) };
    let state = unwrap_or_raise(State::new(&context, is_init));
    context.begin(state);
}

/// Memory goes with the context, also where this is not reached.
#[pg_guard]
unsafe extern "C-unwind" fn shutdown(_context: *mut pg_sys::LogicalDecodingContext) {}

#[pg_guard]
unsafe extern "C-unwind" fn begin(context: *mut pg_sys::LogicalDecodingContext, txn: *mut pg_sys::ReorderBufferTXN) {
    // SAFETY: Postgres passes live pointers; the state is what `startup` kept.
    let (state, transaction) = unsafe { (Context::new(context).state::<State>(), Transaction::new(txn)) };
    state.begin(&transaction);
}

#[pg_guard]
unsafe extern "C-unwind" fn change(
    context: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: see `begin`; the relation is open, and the change is one of its rows.
    let (context, state, relation, change) = unsafe {
        let (context, relation) = (Context::new(context), Opened::new(relation));
        (context, context.state::<State>(), relation, relation.change(change))
    };
    state.tick(&context);
    if let (Some(collected), Some(change)) = (&mut state.transaction, change) {
        collected.change(&state.options, &mut state.relations, state.area, relation, change);
        context.write(&collected.overdue(), false);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    context: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    count: i32,
    relations: *mut pg_sys::Relation,
    _change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: see `begin`; the array has `count` open relations.
    let (context, truncated) =
        unsafe { (Context::new(context), std::slice::from_raw_parts(relations, usize::try_from(count).unwrap_or(0))) };
    // SAFETY: see `begin`.
    let state = unsafe { context.state::<State>() };
    state.tick(&context);
    if let Some(collected) = &mut state.transaction {
        for &relation in truncated {
            // SAFETY: it is open.
            let relation = unsafe { Opened::new(relation) };
            collected.truncate(&state.options.shapes, &mut state.relations, relation);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn message(
    context: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    _lsn: pg_sys::XLogRecPtr,
    transactional: bool,
    prefix: *const std::ffi::c_char,
    size: pg_sys::Size,
    content: *const std::ffi::c_char,
) {
    // SAFETY: see `begin`; the prefix is a C string, and the content has `size` bytes.
    let (context, is_ours, content) = unsafe {
        let is_ours = !transactional && std::ffi::CStr::from_ptr(prefix) == PUBLISHED;
        (Context::new(context), is_ours, std::slice::from_raw_parts(content.cast::<u8>(), size))
    };
    // SAFETY: see `begin`.
    let state = unsafe { context.state::<State>() };
    if let (true, Some((topic, payload))) = (is_ours, object::published(content))
        && state.options.wants(topic)
    {
        context.write(&[object::message(topic, payload.as_bytes(), false)], true);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    context: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    _lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: see `begin`.
    let (context, transaction) = unsafe { (Context::new(context), Transaction::new(txn)) };
    // SAFETY: see `begin`.
    let state = unsafe { context.state::<State>() };
    let texts = unwrap_or_raise(state.commit(&transaction));
    context.write(&texts, true);
    context.progress(texts.is_empty());
}

impl State {
    fn new(context: &Context, is_init: bool) -> Result<Self> {
        let pairs = context.options();
        let options = Options::parse(pairs.iter().map(|(name, value)| (name.as_str(), value.as_deref())))?;
        if let (Some((id, table)), false) = (options.unqualified(), settings::has_search_path()) {
            return Err(Error::rule("22023", format!("shape \"{id}\" names table \"{table}\" without its schema"))
                .with_detail("This connection has an empty search path.")
                .with_hint("Write schema.table: pg_recvlogical empties the search path."));
        }
        if let Some(since) = &options.since {
            check_since(since, if is_init { 0 } else { context.confirmed() })?;
        }
        let position = match (&options.since, options.not_before) {
            (Some(since), _) => Some(since.snapshot.clone()),
            (None, first) => first.map(|xid| Snapshot::new(xid, [])),
        };
        Ok(Self {
            options,
            relations: Relations::new(context.area(c"syncline relations")),
            position,
            epoch: None,
            area: context.area(c"syncline transaction"),
            transaction: None,
            change_count: 0,
        })
    }

    /// Called for every change, as decoding a large transaction may take longer than a client waits for a sign.
    fn tick(&mut self, context: &Context) {
        self.change_count += 1;
        if self.change_count.is_multiple_of(PROGRESS) {
            context.progress(false);
        }
    }

    fn begin(&mut self, transaction: &Transaction<'_>) {
        self.area.empty();
        self.transaction = None;
        let xid = transaction.xid();
        // What had ended when the transaction began has been decoded, if the slot has it at all.
        let floor = transaction.floor().map(|floor| Snapshot::new(floor, []));
        self.position = match (self.position.take(), floor) {
            (Some(position), Some(floor)) if position.xmin() < floor.xmin() => Some(position.union(&floor)),
            (position, floor) => position.or(floor),
        };
        let is_seen = self.options.since.as_ref().is_some_and(|since| since.snapshot.sees(xid));
        let is_echo = self.options.without_origin.is_some() && transaction.origin() == self.options.without_origin;
        if !is_seen {
            self.transaction = Some(Collected::new(xid, self.options.shapes.len(), is_echo));
        }
    }

    fn commit(&mut self, transaction: &Transaction<'_>) -> Result<Vec<Vec<u8>>> {
        let Some(mut collected) = self.transaction.take() else { return Ok(Vec::new()) };
        let position = self.position.take().unwrap_or_else(|| Snapshot::new(collected.xid, []));
        // One transaction too many is not counted as seen: the next heartbeat will.
        let mut position = position.with(collected.xid).unwrap_or_else(|position| position);
        if let Some(heartbeat) = &collected.heartbeat {
            position = position.union(heartbeat);
        }
        if mutant::is(Mutant::StreamWatermark) {
            position = position.union(&Snapshot::new(collected.xid + 1, []));
        }
        self.position = Some(position);
        self.relations.refresh();
        if collected.is_epoch_changed || self.epoch.is_none() {
            self.learn_epoch(&mut collected)?;
        }
        let mut out = Batches::default();
        let advance = collected.finish(&self.options, self.area, &mut out);
        if !out.is_empty() || collected.heartbeat.is_some() {
            let cursor = self.cursor(transaction.end()).to_string();
            let shapes = advance.into_iter().map(|place| self.options.shapes[place].0.as_str()).collect();
            let (xid, lsn, time) = (collected.xid, transaction.end(), transaction.time());
            out.push(&Commit { cursor: &cursor, xid, lsn, time, shapes }.object());
        }
        drop(collected);
        self.area.empty();
        self.relations.end_transaction();
        Ok(out.finish())
    }

    fn learn_epoch(&mut self, collected: &mut Collected) -> Result<()> {
        let epoch = decoding::epoch();
        if collected.is_epoch_changed {
            collected.all_stale();
        } else if let (Some(epoch), Some(since)) = (epoch, &self.options.since)
            && epoch != since.epoch
        {
            return Err(Error::rule("55000", "option \"since\" is of another epoch")
                .with_hint("Start anew: give \"not_before\" instead, and pull every shape."));
        }
        self.epoch = epoch.or(self.epoch);
        Ok(())
    }

    fn cursor(&self, lsn: u64) -> Position {
        let seen = self.position.clone().unwrap_or_else(|| Snapshot::new(0, []));
        Position { lsn, ..snapshot::position(self.epoch.unwrap_or(0), seen) }
    }
}

/// A slot does not send again what was acknowledged: a client that has less has lost something.
fn check_since(since: &Position, confirmed: u64) -> Result<()> {
    let here = snapshot::position(0, Snapshot::new(0, []));
    if (since.system, since.database) != (here.system, here.database) {
        return Err(Error::rule("55000", "option \"since\" is of another cluster or database")
            .with_hint("Start anew: give \"not_before\" instead, and pull every shape."));
    }
    if !since.is_in_history(&here, snapshot::standby(), snapshot::switch_point) {
        return Err(Error::rule("55000", "option \"since\" is of a history that this server does not have")
            .with_detail("What it has seen may not have happened here, and other transactions have those ids.")
            .with_hint("Start anew: give \"not_before\" instead, and pull every shape."));
    }
    if since.lsn < confirmed {
        return Err(Error::rule("55000", "option \"since\" is older than what was acknowledged to the slot")
            .with_detail("The slot does not send again what lies between.")
            .with_hint("Start anew: give \"not_before\" instead, and pull every shape."));
    }
    Ok(())
}
