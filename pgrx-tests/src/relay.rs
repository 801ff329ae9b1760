//! A follower of several shapes on one slot: exactly the rules of `docs/stream.md`. It reads the slot by SQL functions, or
//! by a replication connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postgres::{Client, Error};
use serde_json::value::RawValue;
use syncline_delta::cursor::{Cursor, Identity, Position};
use syncline_delta::digest::Digest;
use syncline_delta::snapshot::Snapshot;

use crate::Cluster;
use crate::replication::{Broken, Replication};
use crate::slot::{Commit, Copy, Object, Stale, object, row, text};

/// A transaction of the stream.
#[derive(Clone)]
struct Message {
    xid: u64,
    position: Position,
    /// The changes of each shape, one object a line.
    changes: BTreeMap<String, Vec<String>>,
    stale: Vec<String>,
}

/// A transaction that has not come whole yet.
#[derive(Default)]
struct Open {
    changes: BTreeMap<String, Vec<String>>,
    stale: Vec<String>,
    /// The changes that came: shape, relation, key.
    places: BTreeSet<[String; 3]>,
    /// The shapes whose upserts have begun.
    upserting: BTreeSet<String>,
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
    /// Deltas to what was streamed that led to the truth.
    pub checks: u64,
    /// Times that a slot was new.
    pub begun: u64,
    /// Times it lost what it had not stored.
    pub crashes: u64,
}

/// A follower.
pub struct Relay {
    slot: String,
    texts: BTreeMap<String, String>,
    now: Stored,
    stored: Stored,
    open: Open,
    /// What it did.
    pub count: Count,
}

/// A pull that did not answer, or a difference from the truth.
#[derive(Debug)]
pub enum Failure {
    /// The server said no.
    Server(Error),
    /// The replication connection ended.
    Stream(Broken),
    /// The law is broken.
    Law(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::Stream(broken)
    }
}

/// A server may ask to try again: the snapshot is too old, or a deadlock.
fn is_retry(error: &Error) -> bool {
    error.code().is_some_and(|code| ["40001", "40P01"].contains(&code.code()))
}

/// The next transaction id. On a standby, where nobody gets one, all that ended before its slot was ready is visible.
const NEXT: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_snapshot_xmax(pg_current_snapshot()) \
                    ELSE pg_current_xact_id() END::text::int8";

impl Relay {
    /// Makes a slot and joins all shapes. `N` is read when the slot is ready.
    pub fn new(client: &mut Client, slot: &str, shapes: &[(String, String)]) -> Result<Self, Error> {
        let mut relay = Self::joined(slot, shapes, Snapshot::nothing());
        relay.resume(client)?;
        relay.stored = relay.now.clone();
        Ok(relay)
    }

    /// Joins all shapes on a slot that is there. What is in neither the slot nor in `seen` is lost: see the rules.
    pub fn joined(slot: &str, shapes: &[(String, String)], seen: Snapshot) -> Self {
        let held = Held { joining: Some(seen.clone()), ..Held::default() };
        let texts: BTreeMap<String, String> = shapes.iter().cloned().collect();
        let now = Stored { shapes: texts.keys().map(|id| (id.clone(), held.clone())).collect(), position: None, seen };
        let (stored, open, count) = (now.clone(), Open::default(), Count::default());
        Self { slot: slot.to_owned(), texts, stored, now, open, count }
    }

    /// Looks whether the slot goes on from here, makes it if it is gone, and begins anew if it does not.
    pub fn resume(&mut self, client: &mut Client) -> Result<(), Error> {
        let sql = "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = $1";
        let confirmed = client.query_opt(sql, &[&self.slot])?.map(|found| found.get::<_, i64>(0).unsigned_abs());
        if confirmed.is_none() {
            client.query_one("SELECT pg_create_logical_replication_slot($1, 'syncline')::text", &[&self.slot])?;
        }
        match (confirmed, &self.now.position) {
            (Some(confirmed), Some(position)) if position.lsn >= confirmed => {}
            _ => self.begin(client)?,
        }
        Ok(())
    }

    /// Begins anew on a slot that is ready, with the rows that it has.
    pub fn begin(&mut self, client: &mut Client) -> Result<(), Error> {
        let next: i64 = client.query_one(NEXT, &[])?.get(0);
        self.now.seen = Snapshot::new(next.unsigned_abs(), []);
        self.now.position = None;
        self.join_all();
        self.count.begun += 1;
        Ok(())
    }

    /// Gets another shape from here on; who reads the slot must tell it so.
    pub fn add(&mut self, id: &str, shape: &str) {
        self.texts.insert(id.to_owned(), shape.to_owned());
        self.join(id);
    }

    /// Starts a replication connection from where it is.
    pub fn connect(&mut self, server: &Cluster<'_>) -> Result<Replication, Failure> {
        self.open = Open::default();
        let (shapes, [option, from]) = (self.shapes(), self.from());
        Ok(Replication::start(server, &self.slot, &[("shapes", &shapes), (&*option, &*from)])?)
    }

    fn shapes(&self) -> String {
        let members: Vec<String> = self.texts.iter().map(|(id, shape)| format!("{id:?}: {shape}")).collect();
        format!("{{{}}}", members.join(", "))
    }

    /// The option that tells the plugin what has been read, and its value.
    fn from(&self) -> [std::borrow::Cow<'static, str>; 2] {
        match &self.now.position {
            Some(position) => ["since".into(), position.to_string().into()],
            None => ["not_before".into(), self.now.seen.xmax().to_string().into()],
        }
    }

    /// Where it has read to.
    pub fn position(&self) -> Option<&Position> {
        self.now.position.as_ref()
    }

    /// What it holds of a shape; nothing while that is being pulled.
    pub fn held(&self, id: &str) -> Option<&Copy> {
        self.now.shapes.get(id).filter(|held| held.joining.is_none()).map(|held| &held.rows)
    }

    /// Reads what the slot has, up to about so many transactions; how many there were.
    pub fn stream(&mut self, client: &mut Client, most: i32) -> Result<usize, Failure> {
        self.open = Open::default();
        let (shapes, [option, from]) = (self.shapes(), self.from());
        let sql = "SELECT convert_from(data, 'UTF8') FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'shapes', $3, $4, $5)";
        let texts = client.query(sql, &[&self.slot, &most, &shapes, &&*option, &&*from])?;
        let mut count = 0;
        for text in &texts {
            count += self.take(text.get(0))?;
        }
        Ok(count)
    }

    /// Reads what comes until nothing does for so long; how many transactions there were.
    pub fn read(&mut self, replication: &mut Replication, patience: Duration) -> Result<usize, Failure> {
        let mut count = 0;
        while let Some(text) = replication.read(patience)? {
            count += self.take(&text)?;
        }
        Ok(count)
    }

    /// Takes what the plugin wrote at once; how many transactions it ends.
    fn take(&mut self, text: &str) -> Result<usize, Failure> {
        let mut count = 0;
        for line in text.split('\n') {
            let object = object(line);
            let value = object.value.map_or("", RawValue::get);
            match object.op {
                "delete" | "upsert" => self.open.change(&object, line).map_err(Failure::Law)?,
                "stale" => self.open.stale.push(serde_json::from_str::<Stale>(value).expect("a stale shape").shape),
                "commit" => {
                    let commit: Commit = serde_json::from_str(value).expect("a commit");
                    let position = object.cursor.unwrap_or_default().parse().expect("a position");
                    let Open { changes, stale, .. } = std::mem::take(&mut self.open);
                    self.on(Message { xid: commit.xid, position, changes, stale });
                    count += 1;
                }
                other => return Err(Failure::Law(format!("{other} in the stream"))),
            }
        }
        Ok(count)
    }

    fn join(&mut self, id: &str) {
        let held = self.now.shapes.entry(id.to_owned()).or_default();
        held.joining = Some(self.now.seen.clone());
        held.buffer.clear();
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
        let pulled = held.pull(client, id, &self.texts[id])?;
        let Some(pulled) = pulled.filter(|pulled| pulled.at.position.snapshot.dominates(&before)) else {
            self.count.early += 1;
            return Ok(());
        };
        self.count.pulls += 1;
        held.rows = pulled.rows;
        held.at = Some((pulled.at.position, pulled.at.identity));
        held.joining = None;
        for message in std::mem::take(&mut held.buffer) {
            held.apply(id, &message);
            self.count.applied += 1;
        }
        Ok(())
    }

    /// Whether what it holds of a shape and the delta to that come to the truth. Nothing is changed by it.
    pub fn check(&mut self, client: &mut Client, id: &str) -> Result<(), Failure> {
        let held = &self.now.shapes[id];
        if held.joining.is_none() && held.pull(client, id, &self.texts[id])?.is_some_and(|pulled| !pulled.is_reset) {
            self.count.checks += 1;
        }
        Ok(())
    }

    /// What `sync_digest` must say of a shape: rows and hash.
    pub fn digest(&self, id: &str) -> Option<(i64, String)> {
        let mut digest = Digest::default();
        for ((relation, key), row) in self.held(id)? {
            digest.add(relation, key.as_bytes(), text(row).as_bytes());
        }
        Some((digest.rows as i64, digest.hex()))
    }

    /// Stores all it has; what may be acknowledged then.
    pub fn save(&mut self) -> Option<u64> {
        self.stored = self.now.clone();
        self.stored.position.as_ref().map(|position| position.lsn)
    }

    /// Stores all it has, and acknowledges only that.
    pub fn store(&mut self, client: &mut Client) -> Result<(), Error> {
        if let Some(lsn) = self.save() {
            let lsn = format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff);
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
        let is_joining = |id: &&String| self.now.shapes.get(*id).is_none_or(|held| held.joining.is_some());
        let joining: Vec<String> = self.texts.keys().filter(is_joining).cloned().collect();
        joining.iter().for_each(|id| self.join(id));
    }
}

impl Open {
    /// At most one change for each key, deletes first.
    fn change(&mut self, object: &Object<'_>, line: &str) -> Result<(), String> {
        let shape = object.shape.clone().unwrap_or_default();
        let (relation, key) = (object.relation.clone().unwrap_or_default(), object.key.map_or("", RawValue::get));
        if !self.places.insert([shape.clone(), relation, key.to_owned()]) {
            return Err(format!("two changes of a key: {line}"));
        }
        if object.op == "upsert" {
            self.upserting.insert(shape.clone());
        } else if self.upserting.contains(&shape) {
            return Err(format!("a delete behind upserts: {line}"));
        }
        self.changes.entry(shape).or_default().push(line.to_owned());
        Ok(())
    }
}

/// What a pull led to.
struct Pulled {
    rows: Copy,
    at: Cursor,
    is_reset: bool,
}

impl Held {
    fn sees(&self, xid: u64) -> bool {
        self.at.as_ref().is_some_and(|(position, _)| position.snapshot.sees(xid))
    }

    /// The rows after a pull, which must be the truth of its snapshot; nothing if it is to be tried again.
    fn pull(&self, client: &mut Client, id: &str, shape: &str) -> Result<Option<Pulled>, Failure> {
        let since = self.at.clone().map(|(position, identity)| Cursor { position, identity, round: None }.to_string());
        let sql = "SELECT op, relation, key::text, value::text, cursor FROM sync_changes($1::text, $2::text::jsonb) \
                   UNION ALL SELECT 'truth', relation, key::text, value::text, NULL FROM sync_preview($2::text::jsonb) \
                   WHERE op = 'upsert'";
        let found = match client.query(sql, &[&since, &shape]) {
            Err(error) if is_retry(&error) => return Ok(None),
            other => other?,
        };
        let (mut rows, mut truth, mut at, mut reset) = (self.rows.clone(), Copy::new(), None, "");
        for found in &found {
            let text = |i: usize| found.get::<_, Option<&str>>(i).unwrap_or_default();
            let place = (text(1).to_owned(), text(2).to_owned());
            match text(0) {
                "truth" => drop(truth.insert(place, row(text(3)))),
                "reset" => {
                    reset = text(3);
                    rows.clear();
                }
                "delete" => drop(rows.remove(&place)),
                "upsert" => drop(rows.insert(place, row(text(3)))),
                _ => at = Some(text(4).parse::<Cursor>().expect("a commit has a cursor")),
            }
        }
        // Nothing at all is a delta too: nothing changed, and the cursor stays.
        let unchanged = || self.at.clone().map(|(position, identity)| Cursor { position, identity, round: None });
        let at = at.or_else(unchanged).ok_or_else(|| Failure::Law("a pull without a commit".to_owned()))?;
        if rows != truth {
            return Err(Failure::Law(format!("{id} {shape} since {since:?} {reset}: {rows:?}\ntruth {truth:?}")));
        }
        Ok(Some(Pulled { rows, at, is_reset: !reset.is_empty() }))
    }

    fn apply(&mut self, id: &str, message: &Message) {
        if !self.sees(message.xid) {
            for line in message.changes.get(id).into_iter().flatten() {
                object(line).apply(&mut self.rows);
            }
        }
        let (position, _) = self.at.as_mut().expect("a shape that does not join was pulled");
        let snapshot = position.snapshot.union(&message.position.snapshot);
        // Where the later of them was read: a promoted standby goes on in another timeline.
        let later = if message.position.lsn > position.lsn { &message.position } else { &*position };
        *position = Position { snapshot, ..later.clone() };
    }
}
