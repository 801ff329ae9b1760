//! The objects of the stream, one JSON text each, and how they are put together for a write.
//!
//! ```text
//! {"op": "delete", "shape": id, "relation": name, "key": {...}}
//! {"op": "upsert", "shape": id, "relation": name, "key": {...}, "value": {...}}       and "unchanged": [column, ...]
//! {"op": "stale", "value": {"shape": id, "xid": n, "reason": word}}
//! {"op": "message", "topic": text, "payload": ..., "transactional": bool}
//! {"op": "commit", "cursor": position, "value": {"up_to_date": true, "xid": n, "commit_lsn": text, "commit_time": text,
//!  "shapes": [id, ...]}}
//! ```

use super::Reason;
use crate::json;
use crate::snapshot::Xid;

/// The most bytes of a write, unless one object alone is larger.
pub const BATCH: usize = 64 << 10;

/// The room that a text begins with.
const FIRST: usize = 1 << 10;

/// Objects, one a line, in texts of at most [`BATCH`] bytes; none is split.
#[derive(Debug, Default)]
pub struct Batches {
    done: Vec<Vec<u8>>,
    open: Vec<u8>,
    size: usize,
}

impl Batches {
    /// Appends an object.
    pub fn push(&mut self, object: &[u8]) {
        self.write(|out| out.extend_from_slice(object));
    }

    /// Appends the object that `object` writes behind what is there.
    pub fn write(&mut self, object: impl FnOnce(&mut Vec<u8>)) {
        let before = self.open.len();
        if before == 0 {
            self.open.reserve(FIRST);
        } else {
            self.open.push(b'\n');
        }
        let start = self.open.len();
        object(&mut self.open);
        self.size += self.open.len() - start;
        if before > 0 && self.open.len() > BATCH {
            let last = self.open.split_off(start);
            self.open.truncate(before);
            self.done.push(std::mem::replace(&mut self.open, last));
        }
    }

    /// Appends the objects of others, by whole texts.
    pub fn append(&mut self, other: Self) {
        self.size += other.size;
        for text in other.finish() {
            if self.open.is_empty() {
                self.open = text;
            } else if self.open.len() + 1 + text.len() <= BATCH {
                self.open.push(b'\n');
                self.open.extend_from_slice(&text);
            } else {
                self.done.push(std::mem::replace(&mut self.open, text));
            }
        }
    }

    /// The bytes of all objects.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// The texts to write.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.open.is_empty() {
            self.done.push(self.open);
        }
        self.done
    }
}

/// What begins every change of one table of one shape, up to its key.
pub fn change(op: &str, shape: &str, relation: &str) -> Vec<u8> {
    let mut out = format!("{{\"op\": \"{op}\", \"shape\": ").into_bytes();
    json::string(&mut out, shape.as_bytes());
    out.extend_from_slice(b", \"relation\": ");
    json::string(&mut out, relation.as_bytes());
    out.extend_from_slice(b", \"key\": ");
    out
}

/// What ends an upsert, behind its value.
pub fn unchanged<'a>(out: &mut Vec<u8>, columns: impl Iterator<Item = &'a str>) {
    let mut between: &[u8] = b", \"unchanged\": [";
    let mut any = false;
    for column in columns {
        out.extend_from_slice(between);
        json::string(out, column.as_bytes());
        between = b", ";
        any = true;
    }
    out.extend_from_slice(if any { b"]}" } else { b"}" });
}

/// A shape cannot be followed through this transaction.
pub fn stale(shape: &str, xid: Xid, reason: Reason) -> Vec<u8> {
    let mut out = b"{\"op\": \"stale\", \"value\": {\"shape\": ".to_vec();
    json::string(&mut out, shape.as_bytes());
    out.extend_from_slice(format!(", \"xid\": {xid}, \"reason\": \"{}\"}}}}", reason.as_str()).as_bytes());
    out
}

/// A message; the payload is JSON.
pub fn message(topic: &str, payload: &[u8], transactional: bool) -> Vec<u8> {
    let mut out = b"{\"op\": \"message\", \"topic\": ".to_vec();
    json::string(&mut out, topic.as_bytes());
    out.extend_from_slice(b", \"payload\": ");
    out.extend_from_slice(payload);
    out.extend_from_slice(format!(", \"transactional\": {transactional}}}").as_bytes());
    out
}

/// Topic and payload of a message that was written into the log at once: the topic's length in bytes, a colon, the topic,
/// the payload. Anybody may write such messages, so nothing is taken on trust: the payload must be JSON on one line.
pub fn published(content: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(content).ok()?;
    let (length, rest) = text.split_once(':')?;
    let (topic, payload) = rest.split_at_checked(crate::snapshot::parse_decimal(length)?.try_into().ok()?)?;
    let is_line = !payload.bytes().any(|byte| matches!(byte, b'\n' | b'\r'));
    (is_line && serde_json::from_str::<serde::de::IgnoredAny>(payload).is_ok()).then_some((topic, payload))
}

/// The end of a transaction.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The position, as text.
    pub cursor: &'a str,
    /// The transaction.
    pub xid: Xid,
    /// Where it ends in the write-ahead log.
    pub lsn: u64,
    /// Microseconds since the beginning of 2000.
    pub time: i64,
    /// The shapes that it brings up to date.
    pub shapes: Vec<&'a str>,
}

impl Commit<'_> {
    /// The object.
    pub fn object(&self) -> Vec<u8> {
        let Self { cursor, xid, lsn, time, shapes } = self;
        let mut out = Vec::with_capacity(256 + cursor.len());
        out.extend_from_slice(b"{\"op\": \"commit\", \"cursor\": \"");
        out.extend_from_slice(cursor.as_bytes());
        out.extend_from_slice(b"\", \"value\": {\"up_to_date\": true, \"xid\": ");
        out.extend_from_slice(itoa::Buffer::new().format(*xid).as_bytes());
        out.extend_from_slice(format!(", \"commit_lsn\": \"{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff).as_bytes());
        out.extend_from_slice(b"\", \"commit_time\": ");
        json::timestamp(&mut out, *time, "+00:00");
        out.extend_from_slice(b", \"shapes\": [");
        for (i, shape) in shapes.iter().enumerate() {
            if i > 0 {
                out.extend_from_slice(b", ");
            }
            json::string(&mut out, shape.as_bytes());
        }
        out.extend_from_slice(b"]}}");
        out
    }
}
