//! Where a delta goes, and how much of it.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::change::Op;
use syncline_delta::cursor::Reset;
use syncline_delta::json;

use crate::error::Result;
use crate::pg::buffer::Buffer;
use crate::pg::tuplestore::Tuplestore;

/// The most that a page carries; nothing: all there is.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    /// Deletes and upserts.
    pub rows: Option<u64>,
    /// Of the document. The change that reaches it ends the page, and there always is one.
    pub bytes: Option<u64>,
}

/// Takes changes, and a commit at the end.
pub trait Sink {
    /// One change.
    fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8]) -> Result<()>;
    /// The end.
    fn commit(&mut self, cursor: &str, up_to_date: bool);
    /// Forgets all that was put.
    fn clear(&mut self);
}

/// A page on its way to a sink.
pub struct Output<'a> {
    sink: &'a mut dyn Sink,
    limits: Limits,
    rows: u64,
    bytes: u64,
}

/// What a document needs around relation, key and value of a change.
const FRAME: u64 = 48;

impl<'a> Output<'a> {
    /// An empty page.
    pub fn new(sink: &'a mut dyn Sink, limits: Limits) -> Self {
        Self { sink, limits, rows: 0, bytes: 0 }
    }

    /// Appends a delete or an upsert.
    pub fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.rows += 1;
        self.bytes += FRAME + (relation.len() + key.len() + value.len()) as u64;
        self.sink.put(op, relation, key, value)
    }

    /// Begins with a reset, whatever was put before.
    pub fn reset(&mut self, reason: Reset) -> Result<()> {
        self.sink.clear();
        (self.rows, self.bytes) = (0, 0);
        let value = format!("{{\"reason\": \"{}\"}}", reason.as_str());
        self.sink.put(Op::Reset, "", b"", value.as_bytes())
    }

    /// Ends it.
    pub fn commit(&mut self, cursor: &str, up_to_date: bool) {
        self.sink.commit(cursor, up_to_date);
    }

    /// How many changes it takes at most before it is full; nothing: any number.
    pub fn room(&self) -> Option<u64> {
        let rows = self.limits.rows.map(|most| most.saturating_sub(self.rows));
        let bytes = self.limits.bytes.map(|most| most.saturating_sub(self.bytes).div_ceil(FRAME));
        rows.into_iter().chain(bytes).min()
    }

    /// Whether so many changes go in, whose relations, keys and values have so many bytes, and leave room for another one.
    pub fn has_room_for(&self, changes: usize, bytes: usize) -> bool {
        let (changes, bytes) = (changes as u64, bytes as u64);
        self.limits.rows.is_none_or(|most| self.rows + changes < most)
            && self.limits.bytes.is_none_or(|most| self.bytes + FRAME * changes + bytes < most)
    }

    /// Whether no change goes in any more.
    pub fn is_full(&self) -> bool {
        self.room() == Some(0)
    }
}

/// Rows of a set-returning function.
pub struct Rows {
    store: Tuplestore,
    scratch: Vec<u64>,
}

impl Rows {
    /// Into the function's result.
    pub fn new(store: Tuplestore) -> Self {
        Self { store, scratch: Vec::new() }
    }

    /// Appends a row; an empty text is NULL.
    pub fn row(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8], cursor: &str) {
        let texts = [op.as_str().as_bytes(), relation.as_bytes(), key, value, cursor.as_bytes()];
        self.store.put(&mut self.scratch, texts);
    }
}

impl Sink for Rows {
    fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.row(op, relation, key, value, "");
        Ok(())
    }

    fn commit(&mut self, cursor: &str, up_to_date: bool) {
        let value = format!("{{\"up_to_date\": {up_to_date}}}");
        self.row(Op::Commit, "", b"", value.as_bytes(), cursor);
    }

    fn clear(&mut self) {
        self.store.clear();
    }
}

/// The most bytes that one JSON datum can have.
const MAX_DOCUMENT: usize = 1 << 30;

/// The delta as one JSON document.
pub struct Document {
    changes: Buffer,
    /// What the last change began with, up to its key.
    beginning: Beginning,
    reset: bool,
    up_to_date: bool,
    cursor: String,
}

/// `, {"op": "upsert", "relation": "issues"`: the same for many changes in a row.
#[derive(Default)]
struct Beginning {
    of: Option<(Op, String)>,
    text: Vec<u8>,
}

impl Beginning {
    fn set(&mut self, op: Op, relation: &str) {
        if self.of.as_ref().is_some_and(|of| of.0 == op && of.1 == relation) {
            return;
        }
        self.text.clear();
        self.text.extend_from_slice(b", {\"op\": \"");
        self.text.extend_from_slice(op.as_str().as_bytes());
        self.text.push(b'"');
        if !relation.is_empty() {
            self.text.extend_from_slice(b", \"relation\": ");
            json::string(&mut self.text, relation.as_bytes());
        }
        self.of = Some((op, relation.to_owned()));
    }
}

impl Document {
    /// An empty one, in the current memory context, for a page of so much.
    pub fn new(limits: Limits) -> Self {
        // A change may be longer than what is counted, and the last one exceeds the limit.
        let expected = limits.bytes.and_then(|most| usize::try_from(most + most / 8).ok());
        Self {
            changes: Buffer::new(expected.unwrap_or(0)),
            beginning: Beginning::default(),
            reset: false,
            up_to_date: false,
            cursor: String::new(),
        }
    }

    /// A `json` datum of it.
    pub fn finish(self) -> Result<pg_sys::Datum> {
        let Self { mut changes, reset, up_to_date, cursor, .. } = self;
        let mut head =
            format!("{{\"cursor\": \"{cursor}\", \"up_to_date\": {up_to_date}, \"reset\": {reset}, \"changes\": ");
        // With so many blanks the changes stay where they are.
        while head.len() % 4 != 3 {
            head.push(' ');
        }
        head.push('[');
        if head.len() + changes.len() + 2 > MAX_DOCUMENT - 1024 {
            return Err(Error::Limit { what: "delta", limit: MAX_DOCUMENT });
        }
        changes.put(&[b"]}"]);
        Ok(changes.into_text(head.as_bytes()))
    }
}

impl Sink for Document {
    fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.reset |= op == Op::Reset;
        let length = self.changes.len();
        // Room for the names of the members and for the cursor.
        if length + key.len() + value.len() > MAX_DOCUMENT - (1 << 20) {
            return Err(Error::Limit { what: "delta", limit: MAX_DOCUMENT });
        }
        self.beginning.set(op, relation);
        // No comma before the first one.
        let beginning = &self.beginning.text[if length == 0 { 2 } else { 0 }..];
        let name = |name: &'static [u8], text: &[u8]| if text.is_empty() { &[] } else { name };
        let (key_name, value_name) = (name(b", \"key\": ", key), name(b", \"value\": ", value));
        self.changes.put(&[beginning, key_name, key, value_name, value, b"}"]);
        Ok(())
    }

    fn commit(&mut self, cursor: &str, up_to_date: bool) {
        cursor.clone_into(&mut self.cursor);
        self.up_to_date = up_to_date;
    }

    fn clear(&mut self) {
        self.changes.clear();
    }
}

/// Takes nothing but the fact that there is a change.
#[derive(Default)]
pub struct Found(pub bool);

impl Sink for Found {
    fn put(&mut self, _: Op, _: &str, _: &[u8], _: &[u8]) -> Result<()> {
        self.0 = true;
        Ok(())
    }

    fn commit(&mut self, _: &str, _: bool) {}

    fn clear(&mut self) {}
}
