//! What the log tells of the rows that were touched since a cursor, as relations that queries can read.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use pgrx::pg_sys;
use syncline_delta::log::Place;
use syncline_delta::snapshot::Snapshot;

use crate::error::Result;
use crate::mutant::{self, Mutant};
use crate::pg::ephemeral::Ephemeral;
use crate::pg::memory::Scratch;
use crate::pg::relation::{Attribute, Relation, quoted};
use crate::pg::spi::{self, Param};
use crate::pg::{image, settings, types};
use crate::row::Object;
use crate::server;

/// A relation whose past is asked for, and the columns that are read of it.
pub struct Use<'a> {
    /// The tracked table.
    pub relation: &'a Relation,
    /// Attribute numbers, the key's among them.
    pub columns: BTreeSet<i16>,
}

/// How two rows of a relation are told to have one key.
pub struct Key(Vec<(String, String)>);

impl Key {
    /// Each column with its type's `=`; some types have none that may be used.
    pub fn of(relation: &Relation) -> Result<Self> {
        let column = |column: &Attribute| {
            let equal = types::key_equal(types::base(column.storage.typid))?;
            Ok((types::column(column), equal))
        };
        Ok(Self(relation.key_columns().map(column).collect::<Result<_>>()?))
    }

    fn same(&self, one: &str, other: &str) -> String {
        let same = |(column, equal): &(String, String)| format!("{one}.{column} {equal} {other}.{column}");
        self.0.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }
}

/// The touched rows of all relations that a shape reads.
pub struct Past {
    histories: Vec<History>,
}

/// The touched rows of one relation.
struct History {
    relation: pg_sys::Oid,
    /// The keys that have a log row.
    touched: Ephemeral,
    /// Of those that were there at the cursor, the columns that are read, as they were.
    old: Ephemeral,
}

/// What the log says of a row.
struct LogRow {
    place: Place,
    /// The key was not there before.
    enters: bool,
    old: Vec<u8>,
}

impl Past {
    /// Reads the log from `seen` on. Nothing if a log row does not tell what the shape must know: it was written
    /// before one of the columns was logged, or when it had another type.
    pub fn read(uses: &[Use<'_>], seen: &Snapshot) -> Option<Self> {
        let histories = uses.iter().map(|used| History::read(used, seen)).collect::<Option<Vec<_>>>()?;
        Some(Self { histories: histories.into_iter().filter(|history| !history.touched.is_empty()).collect() })
    }

    fn of(&self, relation: &Relation) -> Option<&History> {
        self.histories.iter().find(|history| history.relation == relation.oid)
    }

    /// Whether a row of the relation was touched.
    pub fn is_touched(&self, relation: &Relation) -> bool {
        self.of(relation).is_some()
    }

    /// ` AND …`: the row of this alias was not touched. Nothing to ask where no row was.
    pub fn untouched(&self, relation: &Relation, key: &Key, alias: &str) -> String {
        self.of(relation).map_or(String::new(), |history| {
            let (touched, same) = (name("touched", history.relation), key.same("k", alias));
            format!(" AND NOT EXISTS (SELECT 1 FROM {touched} AS k WHERE {same})")
        })
    }

    /// The name of the relation with the old rows, if there are any.
    pub fn old(&self, relation: &Relation) -> Option<String> {
        self.of(relation).filter(|history| !history.old.is_empty()).map(|history| name("old", history.relation))
    }

    /// Queries of a column's values in touched rows: now and at the cursor.
    pub fn touched_values(&self, relation: &Relation, key: &Key, column: &str) -> Vec<String> {
        let Some(history) = self.of(relation) else { return Vec::new() };
        let (touched, table, same) = (name("touched", history.relation), relation.full_name(), key.same("k", "l"));
        let mut queries = vec![format!("SELECT l.{column} FROM {touched} AS k JOIN {table} AS l ON {same}")];
        queries.extend(self.old(relation).map(|old| format!("SELECT l.{column} FROM {old} AS l")));
        queries
    }

    /// Runs a query that may read the old and touched rows; `is_ours` as in [`spi::Query`].
    pub fn query(&self, sql: &str, params: &[Param], is_ours: bool, each: &mut dyn FnMut(&spi::Row<'_>) -> bool) {
        spi::Query { sql, params, relations: &self.relations(), is_ours }.run(each);
    }

    /// The one array that such a query gives.
    pub fn array(&self, sql: &str, params: &[Param], is_ours: bool) -> Option<pg_sys::Datum> {
        spi::Query { sql, params, relations: &self.relations(), is_ours }.varlena()
    }

    fn relations(&self) -> Vec<&Ephemeral> {
        self.histories.iter().flat_map(|history| [&history.touched, &history.old]).collect()
    }
}

/// No table of a user has a name like that where it could be taken for ours: these go first.
fn name(what: &str, relation: pg_sys::Oid) -> String {
    quoted(&plain_name(what, relation))
}

fn plain_name(what: &str, relation: pg_sys::Oid) -> String {
    format!("{what} {}", relation.to_u32())
}

impl History {
    fn read(used: &Use<'_>, seen: &Snapshot) -> Option<Self> {
        let relation = used.relation;
        let mut history = Self {
            relation: relation.oid,
            touched: Ephemeral::new(&plain_name("touched", relation.oid), relation.oid),
            old: Ephemeral::new(&plain_name("old", relation.oid), relation.oid),
        };
        let rows = first_rows(used, seen)?;
        let mut memory = Scratch::new();
        for row in rows {
            memory.run(|| {
                let values = told(used, &row.old).unwrap_or_default();
                let in_key = |column: &&image::Column| relation.key.contains(&column.attribute);
                history.touched.put(values.iter().filter(in_key).map(|c| (c.attribute, c.value)));
                if !row.enters {
                    history.old.put(values.iter().map(|c| (c.attribute, c.value)));
                }
            });
        }
        Some(history)
    }
}

/// Of each key the log row that tells what was there at `seen`. Nothing if a log row does not tell all columns.
fn first_rows(used: &Use<'_>, seen: &Snapshot) -> Option<Vec<LogRow>> {
    let key = Object::new(used.relation.key_columns().enumerate(), false, false);
    let mut first: HashMap<Vec<u8>, LogRow> = HashMap::new();
    let mut is_told = true;
    log_rows(used.relation.oid, seen, &mut |row| {
        let Some(columns) = told(used, &row.old) else {
            is_told = false;
            return false;
        };
        let mut text = Vec::new();
        let value =
            |place: usize| columns.iter().find(|c| c.attribute == used.relation.key[place]).and_then(|c| c.value);
        key.write(&mut text, value);
        match first.entry(text) {
            Entry::Vacant(entry) => {
                entry.insert(row);
            }
            Entry::Occupied(mut entry) => {
                if precedes(&row.place, &entry.get().place) {
                    entry.insert(row);
                }
            }
        }
        true
    });
    is_told.then(|| first.into_values().collect())
}

fn precedes(one: &Place, other: &Place) -> bool {
    if mutant::is(Mutant::FirstByXid) && one.xid != other.xid { one.xid < other.xid } else { one.precedes(other) }
}

/// The columns that are read of a log row.
fn told(used: &Use<'_>, old: &[u8]) -> Option<Vec<image::Column>> {
    let attribute = |number: i16| used.relation.numbered(number).filter(|_| used.columns.contains(&number));
    let mut columns = image::decode(old, |number| attribute(number).is_some_and(|a| a.storage.by_value));
    columns.retain(|column| attribute(column.attribute).is_some());
    let typed = |column: &image::Column| attribute(column.attribute).is_some_and(|a| a.storage.typid == column.typid);
    (columns.len() == used.columns.len() && columns.iter().all(typed)).then_some(columns)
}

/// The log rows of a table that a snapshot does not see. They are only fetched with the owner's
/// rights; what runs on their values runs with the caller's.
fn log_rows(relation: pg_sys::Oid, seen: &Snapshot, each: &mut dyn FnMut(LogRow) -> bool) {
    const COLUMNS: &str = "xid::pg_catalog.text::pg_catalog.int8, seq, (pos - '0/0')::pg_catalog.int8, kind = 'e', old";
    let [xmax, xip] = server::bounds(seen);
    let mut rows = Vec::new();
    settings::as_owner(|| {
        spi::query(&server::log_sql(COLUMNS), &[Param::oid(relation), xmax, xip], &mut |row| {
            rows.push(LogRow {
                place: Place { xid: row.int8(0) as u64, seq: row.int8(1), pos: row.int8(2) as u64 },
                enters: row.bool(3),
                old: row.get(4).map(image::bytea).unwrap_or_default(),
            });
            true
        });
    });
    let mut memory = Scratch::new();
    for row in rows {
        if !memory.run(|| each(row)) {
            return;
        }
    }
}
