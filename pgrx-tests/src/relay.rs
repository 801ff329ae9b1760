//! A follower of several shapes on one slot: exactly the rules of `docs/stream.md`, over SQL functions that read the slot.

use std::collections::BTreeMap;

use postgres::{Client, Error};
use serde_json::value::RawValue;
use syncline_delta::cursor::{Cursor, Identity, Position};
use syncline_delta::snapshot::Snapshot;

use crate::slot::{Commit, Copy, Stale, object, row};

/// A transaction of the stream.
#[derive(Clone)]
struct Message {
    xid: u64,
    position: Position,
    /// The changes of each shape, one object a line.
    changes: BTreeMap<String, Vec<String>>,
    stale: Vec<String>,
}

/// What is held of one shape.
#[derive(Clone, Default)]
pub struct Held {
    /// The rows.
    pub rows: Copy,
    /// What they are as of; nothing if nothing was pulled yet.
    at: Option<(Position, Identity)>,
    /// While it pulls: what a pull must have seen.
    joining: Option<Snapshot>,
    buffer: Vec<Message>,
}

/// What survives the follower.
#[derive(Clone)]
struct Stored {
    shapes: BTreeMap<String, Held>,
    position: Option<Position>,
    seen: Snapshot,
}

/// What a follower did.
#[derive(Debug, Default)]
pub struct Count {
    /// Transactions applied.
    pub applied: u64,
    /// Shapes that became stale.
    pub stale: u64,
    /// Pulls that were compared with the truth of their snapshot.
    pub pulls: u64,
    /// Pulls that came too early.
    pub early: u64,
    /// Times it lost what it had not stored.
    pub crashes: u64,
}

/// A follower.
pub struct Relay {
    slot: String,
    texts: BTreeMap<String, String>,
    now: Stored,
    stored: Stored,
    /// What it did.
    pub count: Count,
}

/// A pull that did not answer, or a difference from the truth.
#[derive(Debug)]
pub enum Failure {
    /// The server said no.
    Server(Error),
    /// The law is broken.
    Law(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

/// A server may ask to try again: the snapshot is too old, or a deadlock.
fn is_retry(error: &Error) -> bool {
    error.code().is_some_and(|code| ["40001", "40P01"].contains(&code.code()))
}

impl Relay {
    /// Makes a slot and joins all shapes. `N` is read when the slot is ready.
    pub fn new(client: &mut Client, slot: &str, shapes: &[(String, String)]) -> Result<Self, Error> {
        client.query_one("SELECT pg_create_logical_replication_slot($1, 'syncline')::text", &[&slot])?;
        let next: i64 = client.query_one("SELECT pg_current_xact_id()::text::int8", &[])?.get(0);
        let seen = Snapshot::new(next.unsigned_abs(), []);
        let held = Held { joining: Some(seen.clone()), ..Held::default() };
        let shapes: BTreeMap<String, String> = shapes.iter().cloned().collect();
        let now = Stored { shapes: shapes.keys().map(|id| (id.clone(), held.clone())).collect(), position: None, seen };
        Ok(Self { slot: slot.to_owned(), texts: shapes, stored: now.clone(), now, count: Count::default() })
    }

    /// What it holds of a shape; nothing while that is being pulled.
    pub fn held(&self, id: &str) -> Option<&Copy> {
        self.now.shapes.get(id).filter(|held| held.joining.is_none()).map(|held| &held.rows)
    }

    /// Reads what the slot has, up to about so many transactions; how many there were.
    pub fn stream(&mut self, client: &mut Client, most: i32) -> Result<usize, Failure> {
        let members: Vec<String> = self.texts.iter().map(|(id, shape)| format!("{id:?}: {shape}")).collect();
        let shapes = format!("{{{}}}", members.join(", "));
        let (option, from) = match &self.now.position {
            Some(position) => ("since", position.to_string()),
            None => ("not_before", self.now.seen.xmax().to_string()),
        };
        let sql = "SELECT convert_from(data, 'UTF8') FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'shapes', $3, $4, $5)";
        let texts = client.query(sql, &[&self.slot, &most, &shapes, &option, &from])?;
        let mut open = (BTreeMap::<String, Vec<String>>::new(), Vec::new());
        let mut count = 0;
        for text in &texts {
            for line in text.get::<_, &str>(0).split('\n') {
                let object = object(line);
                let value = object.value.map_or("", RawValue::get);
                match object.op {
                    "delete" | "upsert" => {
                        open.0.entry(object.shape.unwrap_or_default()).or_default().push(line.to_owned());
                    }
                    "stale" => open.1.push(serde_json::from_str::<Stale>(value).expect("a stale shape").shape),
                    "commit" => {
                        let commit: Commit = serde_json::from_str(value).expect("a commit");
                        let position = object.cursor.unwrap_or_default().parse().expect("a position");
                        let (changes, stale) = std::mem::take(&mut open);
                        self.on(Message { xid: commit.xid, position, changes, stale });
                        count += 1;
                    }
                    other => return Err(Failure::Law(format!("{other} in the stream"))),
                }
            }
        }
        Ok(count)
    }

    fn join(&mut self, id: &str) {
        let seen = self.now.seen.clone();
        if let Some(held) = self.now.shapes.get_mut(id) {
            held.joining = Some(seen);
            held.buffer.clear();
        }
    }

    /// Joins every shape, as after a break of unknown length.
    pub fn join_all(&mut self) {
        let ids: Vec<String> = self.texts.keys().cloned().collect();
        ids.iter().for_each(|id| self.join(id));
    }

    fn on(&mut self, message: Message) {
        self.now.seen = message.position.snapshot.clone();
        self.now.position = Some(message.position.clone());
        let ids: Vec<String> = self.texts.keys().cloned().collect();
        for id in ids {
            let held = self.now.shapes.get_mut(&id).expect("each shape is held");
            if message.stale.contains(&id) && !held.sees(message.xid) {
                self.count.stale += 1;
                self.join(&id);
            } else if held.joining.is_some() {
                held.buffer.push(message.clone());
            } else {
                held.apply(&id, &message);
                self.count.applied += 1;
            }
        }
    }

    /// Pulls a shape that joins and compares with the truth of that snapshot.
    pub fn pull(&mut self, client: &mut Client, id: &str) -> Result<(), Failure> {
        let held = self.now.shapes.get_mut(id).expect("each shape is held");
        let Some(before) = held.joining.clone() else { return Ok(()) };
        let shape = &self.texts[id];
        let since = held.at.clone().map(|(position, identity)| Cursor { position, identity, round: None }.to_string());
        let sql = "SELECT op, relation, key::text, value::text, cursor FROM sync_changes($1::text, $2::text::jsonb) \
                   UNION ALL SELECT 'truth', relation, key::text, value::text, NULL FROM sync_preview($2::text::jsonb) \
                   WHERE op = 'upsert'";
        let rows = match client.query(sql, &[&since, shape]) {
            Err(error) if is_retry(&error) => {
                self.count.early += 1;
                return Ok(());
            }
            other => other?,
        };
        let (mut copy, mut truth, mut at, mut reset) = (held.rows.clone(), Copy::new(), None, "");
        for found in &rows {
            let text = |i: usize| found.get::<_, Option<&str>>(i).unwrap_or_default();
            let place = (text(1).to_owned(), text(2).to_owned());
            match text(0) {
                "truth" => drop(truth.insert(place, row(text(3)))),
                "reset" => {
                    reset = text(3);
                    copy.clear();
                }
                "delete" => drop(copy.remove(&place)),
                "upsert" => drop(copy.insert(place, row(text(3)))),
                _ => at = Some(text(4).parse::<Cursor>().expect("a commit has a cursor")),
            }
        }
        let at = at.ok_or_else(|| Failure::Law("a pull without a commit".to_owned()))?;
        if !at.position.snapshot.dominates(&before) {
            self.count.early += 1;
            return Ok(());
        }
        self.count.pulls += 1;
        if copy != truth {
            return Err(Failure::Law(format!("{id} {shape} since {since:?} {reset}: {copy:?}\ntruth {truth:?}")));
        }
        held.rows = copy;
        held.at = Some((at.position, at.identity));
        held.joining = None;
        for message in std::mem::take(&mut held.buffer) {
            held.apply(id, &message);
            self.count.applied += 1;
        }
        Ok(())
    }

    /// Stores all it has, and acknowledges only that.
    pub fn store(&mut self, client: &mut Client) -> Result<(), Error> {
        self.stored = self.now.clone();
        if let Some(position) = &self.stored.position {
            let lsn = format!("{:X}/{:X}", position.lsn >> 32, position.lsn & 0xffff_ffff);
            let sql = "SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)::text \
                       FROM pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn < $2::text::pg_lsn";
            client.query(sql, &[&self.slot, &lsn])?;
        }
        Ok(())
    }

    /// Loses what was not stored. Shapes that were joining join again.
    pub fn crash(&mut self) {
        self.now = self.stored.clone();
        self.count.crashes += 1;
        let joining: Vec<String> =
            self.now.shapes.iter().filter(|(_, held)| held.joining.is_some()).map(|(id, _)| id.clone()).collect();
        joining.iter().for_each(|id| self.join(id));
    }
}

impl Held {
    fn sees(&self, xid: u64) -> bool {
        self.at.as_ref().is_some_and(|(position, _)| position.snapshot.sees(xid))
    }

    fn apply(&mut self, id: &str, message: &Message) {
        if !self.sees(message.xid) {
            for line in message.changes.get(id).into_iter().flatten() {
                object(line).apply(&mut self.rows);
            }
        }
        let (position, _) = self.at.as_mut().expect("a shape that does not join was pulled");
        position.snapshot = position.snapshot.union(&message.position.snapshot);
        position.lsn = position.lsn.max(message.position.lsn);
    }
}
