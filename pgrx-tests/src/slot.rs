//! A client of the output plugin that reads its slot by SQL while nobody else writes, and checks the law at each step.

use std::collections::BTreeMap;

use postgres::{Client, SimpleQueryMessage};
use serde::Deserialize;
use serde_json::value::RawValue;

/// An object of the stream.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object<'a> {
    /// What it is.
    pub op: &'a str,
    /// The shape of a change.
    pub shape: Option<String>,
    /// The table of a change.
    pub relation: Option<String>,
    /// The key of a change, as it is written.
    #[serde(borrow)]
    pub key: Option<&'a RawValue>,
    /// The row of a change, or what a commit or a stale shape tells.
    #[serde(borrow)]
    pub value: Option<&'a RawValue>,
    /// Columns that the client has.
    #[serde(default)]
    pub unchanged: Vec<String>,
    /// The position of a commit.
    pub cursor: Option<&'a str>,
    /// The topic of a message.
    pub topic: Option<String>,
    /// What a message says.
    #[serde(borrow)]
    pub payload: Option<&'a RawValue>,
    /// Whether a message came with its transaction.
    pub transactional: Option<bool>,
}

/// What the value of a commit tells.
#[derive(Debug, Deserialize)]
pub struct Commit {
    /// The transaction.
    pub xid: u64,
    /// Where it ends.
    pub commit_lsn: String,
    /// The shapes that advance.
    pub shapes: Vec<String>,
}

/// What the value of a stale shape tells.
#[derive(Debug, Deserialize)]
pub struct Stale {
    /// The shape.
    pub shape: String,
    /// The transaction.
    pub xid: u64,
    /// Why.
    pub reason: String,
}

/// A row, by column, as it is written.
pub type Row = BTreeMap<String, String>;

/// The rows of a shape, by relation and key.
pub type Copy = BTreeMap<(String, String), Row>;

/// The columns of a row.
pub fn row(text: &str) -> Row {
    let columns: BTreeMap<String, &RawValue> = serde_json::from_str(text).expect("a row is an object");
    columns.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}

/// The text of a row, its columns in jsonb's order.
pub fn text(row: &Row) -> String {
    let mut columns: Vec<(&String, &String)> = row.iter().collect();
    columns.sort_by_key(|(name, _)| (name.len(), *name));
    let members: Vec<String> = columns.iter().map(|(name, value)| format!("{name:?}: {value}")).collect();
    format!("{{{}}}", members.join(", "))
}

/// Reads an object, which is one line.
pub fn object(line: &str) -> Object<'_> {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

impl Object<'_> {
    /// Applies a change to the copy of its shape.
    pub fn apply(&self, copy: &mut Copy) {
        let place = (self.relation.clone().unwrap_or_default(), self.key.map_or("", RawValue::get).to_owned());
        if self.op == "delete" {
            copy.remove(&place);
            return;
        }
        let mut now = row(self.value.expect("an upsert has a value").get());
        if !self.unchanged.is_empty() {
            let held = copy.get(&place).unwrap_or_else(|| panic!("{place:?} is not held, but has unchanged columns"));
            for name in &self.unchanged {
                let kept = held.get(name).unwrap_or_else(|| panic!("{place:?} has no column {name}"));
                assert!(now.insert(name.clone(), kept.clone()).is_none(), "{name} is unchanged and sent");
            }
        }
        copy.insert(place, now);
    }

    /// The object without what differs from run to run.
    pub fn summary(&self) -> String {
        let raw = |value: Option<&RawValue>| value.map_or(String::new(), |value| value.get().to_owned());
        let Self { op, shape, relation, .. } = self;
        let place = || format!("{} {}", shape.as_deref().unwrap_or("?"), relation.as_deref().unwrap_or("?"));
        match *op {
            "delete" => format!("{op} {} {}", place(), raw(self.key)),
            "upsert" if self.unchanged.is_empty() => format!("{op} {} {}", place(), raw(self.value)),
            "upsert" => format!("{op} {} {} unchanged {}", place(), raw(self.value), self.unchanged.join(",")),
            "stale" => {
                let stale: Stale = serde_json::from_str(&raw(self.value)).expect("what a stale shape tells");
                format!("stale {} {}", stale.shape, stale.reason)
            }
            "message" => format!(
                "message {} {} {}",
                self.topic.as_deref().unwrap_or("?"),
                // To serde a null is nothing.
                self.payload.map_or("null", RawValue::get),
                if self.transactional == Some(true) { "transactional" } else { "at once" }
            ),
            "commit" => {
                let commit: Commit = serde_json::from_str(&raw(self.value)).expect("what a commit tells");
                assert!(commit.xid > 2 && commit.commit_lsn.contains('/') && self.cursor.is_some(), "{self:?}");
                format!("commit {}", commit.shapes.join(","))
            }
            other => panic!("no object of the stream: {other}"),
        }
    }
}

/// A slot and what its client holds.
pub struct Slot {
    name: String,
    options: Vec<(String, String)>,
    shapes: Vec<(String, String)>,
    copies: BTreeMap<String, Copy>,
}

impl Slot {
    /// A new slot of this database; its client holds the rows of the shapes as they are now.
    pub fn new(client: &mut Client, name: &str, shapes: &[(&str, &str)]) -> Self {
        let sql = "SELECT pg_create_logical_replication_slot($1, 'syncline')::text";
        client.query_one(sql, &[&name]).unwrap_or_else(|error| panic!("{error:?}"));
        let shapes: Vec<_> = shapes.iter().map(|(id, shape)| ((*id).to_owned(), (*shape).to_owned())).collect();
        let members: Vec<String> = shapes.iter().map(|(id, shape)| format!("{id:?}: {shape}")).collect();
        let options = vec![("shapes".to_owned(), format!("{{{}}}", members.join(", ")))];
        let mut slot = Self { name: name.to_owned(), options, shapes, copies: BTreeMap::new() };
        for (id, shape) in slot.shapes.clone() {
            slot.copies.insert(id, truth(client, &shape));
        }
        slot
    }

    /// With another option.
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.options.push((option.to_owned(), value.to_owned()));
        self
    }

    /// The texts that the slot has for its client, who acknowledges them.
    pub fn read(&self, client: &mut Client) -> Result<Vec<String>, postgres::Error> {
        let options: Vec<&String> = self.options.iter().flat_map(|(name, value)| [name, value]).collect();
        let sql = "SELECT data FROM pg_logical_slot_get_changes($1, NULL, NULL, VARIADIC $2::text[])";
        Ok(client.query(sql, &[&self.name, &options])?.iter().map(|row| row.get(0)).collect())
    }

    /// Reads what has come, applies it, and compares: the objects, without what differs from run to run. A stale shape is
    /// taken anew.
    pub fn follow(&mut self, client: &mut Client) -> Vec<String> {
        let texts = self.read(client).unwrap_or_else(|error| panic!("{}: {error:?}", self.name));
        let mut summaries = Vec::new();
        for line in texts.iter().flat_map(|text| text.split('\n')) {
            let object = object(line);
            summaries.push(object.summary());
            match object.op {
                "delete" | "upsert" => {
                    let id = object.shape.as_deref().expect("a change has a shape");
                    object.apply(self.copies.get_mut(id).expect("the shape was asked for"));
                }
                "stale" => {
                    let stale: Stale = serde_json::from_str(object.value.map_or("", RawValue::get)).unwrap();
                    self.copies.remove(&stale.shape);
                }
                _ => {}
            }
        }
        for (id, shape) in &self.shapes {
            let now = truth(client, shape);
            let copy = self.copies.entry(id.clone()).or_insert_with(|| now.clone());
            assert_eq!(*copy, now, "shape {id}, after {summaries:?}");
        }
        summaries
    }

    /// Runs each step and follows: the objects must be these.
    pub fn tell(&mut self, client: &mut Client, steps: &[(&str, &[&str])]) {
        for (sql, expected) in steps {
            run(client, sql);
            assert_eq!(self.follow(client), *expected, "after {sql}");
        }
    }
}

/// Runs statements one by one, so that each is a transaction of its own unless they say otherwise.
pub fn run(client: &mut Client, sql: &str) {
    for statement in sql.split(";;") {
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// The rows of a shape now; none of a shape that cannot be pulled.
pub fn truth(client: &mut Client, shape: &str) -> Copy {
    let quoted = shape.replace('\'', "''");
    let sql =
        format!("SELECT relation, key::text, value::text FROM sync_preview('{quoted}'::jsonb) WHERE op = 'upsert'");
    let mut copy = Copy::new();
    for message in client.simple_query(&sql).into_iter().flatten() {
        if let SimpleQueryMessage::Row(found) = message {
            let text = |i: usize| found.get(i).unwrap_or_default().to_owned();
            copy.insert((text(0), text(1)), row(&text(2)));
        }
    }
    copy
}
