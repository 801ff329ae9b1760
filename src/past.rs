//! What the log tells of the rows that were touched since a cursor, as relations that queries can read.

use pgrx::pg_sys;
use syncline_delta::filter::Comparison;
use syncline_delta::snapshot::Snapshot;

use crate::error::Result;
use crate::log::{self, Untold, Use};
use crate::pg::ephemeral::Ephemeral;
use crate::pg::memory::Scratch;
use crate::pg::relation::{Attribute, Relation, quoted};
use crate::pg::spi::{self, Param};
use crate::pg::{image, types};

/// How two rows of a relation are told to have one key.
pub struct Key(Vec<Column>);

struct Column {
    sql: String,
    /// The type's `=`.
    equal: String,
    /// Equal values may have several texts.
    has_texts: bool,
}

impl Key {
    /// Each column with its type's `=`; some types have none that may be used.
    pub fn of(relation: &Relation) -> Result<Self> {
        let column = |column: &Attribute| {
            let typid = types::base(column.storage.typid);
            let equal = types::key_operator(typid, Comparison::Eq)?;
            let has_texts = !types::equal_is_identical(typid, column.collation);
            Ok(Column { sql: types::column(column), equal, has_texts })
        };
        Ok(Self(relation.key_columns().map(column).collect::<Result<_>>()?))
    }

    /// Whether it is this column alone, and no two of its values that are equal differ.
    pub fn is_just(&self, column: &str) -> bool {
        matches!(self.0.as_slice(), [only] if only.sql == column && !only.has_texts)
    }

    fn same(&self, one: &str, other: &str) -> String {
        let same = |Column { sql, equal, .. }: &Column| format!("{one}.{sql} {equal} {other}.{sql}");
        self.0.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }

    /// The same, with the same text: a client tells 1.0 from 1.00, and so do keys in its copy.
    pub fn identical(&self, one: &str, other: &str) -> String {
        let text =
            |alias: &str, column: &Column| format!("pg_catalog.to_jsonb({alias}.{})::pg_catalog.text", column.sql);
        let texts = self
            .0
            .iter()
            .filter(|column| column.has_texts)
            .map(|column| format!(" AND {} OPERATOR(pg_catalog.=) {}", text(one, column), text(other, column)));
        std::iter::once(self.same(one, other)).chain(texts).collect()
    }
}

/// The touched rows of the relations that a shape reads.
pub struct Past {
    seen: Snapshot,
    /// Tells the relations of one past from those of another in the same query.
    label: &'static str,
    histories: Vec<History>,
}

/// The touched rows of one relation.
struct History {
    relation: pg_sys::Oid,
    /// The keys that have a log row.
    touched: Ephemeral,
    /// Of those that were there at the snapshot, the columns that are read, as they were.
    old: Ephemeral,
    /// Of those, the ones that were touched after the target of the round only.
    kept: Ephemeral,
}

impl Past {
    /// What happened since `seen`, as far as it is added; `label` as in the names of its relations.
    pub fn since(seen: &Snapshot, label: &'static str) -> Self {
        Self { seen: seen.clone(), label, histories: Vec::new() }
    }

    /// Reads the log of a relation, unless that was done. `target` is where the round leads.
    pub fn add(&mut self, used: &Use<'_>, target: &Snapshot) -> std::result::Result<(), Untold> {
        if !self.is_touched(used.relation) {
            let history = self.read(used, target)?;
            self.histories.extend((!history.touched.is_empty()).then_some(history));
        }
        Ok(())
    }

    /// Whether no relation that was added has a touched row.
    pub fn is_empty(&self) -> bool {
        self.histories.is_empty()
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
            let (touched, same) = (self.name("touched", history.relation), key.same("k", alias));
            format!(" AND NOT EXISTS (SELECT 1 FROM {touched} AS k WHERE {same})")
        })
    }

    /// The name of the relation with the old rows, if there are any.
    pub fn old(&self, relation: &Relation) -> Option<String> {
        self.of(relation).filter(|history| !history.old.is_empty()).map(|history| self.name("old", history.relation))
    }

    /// The name of the relation with those old rows that the target of the round still had, if there are any.
    pub fn kept(&self, relation: &Relation) -> Option<String> {
        self.of(relation).filter(|history| !history.kept.is_empty()).map(|history| self.name("kept", history.relation))
    }

    /// `FROM …`: the touched rows as they are now, as `l`, if there are any.
    pub fn touched_rows(&self, relation: &Relation, key: &Key) -> Option<String> {
        let touched = self.name("touched", self.of(relation)?.relation);
        Some(format!("FROM {touched} AS k JOIN {} AS l ON {}", relation.full_name(), key.same("k", "l")))
    }

    /// The arrays of the one row that a query gives which may read its relations; `is_ours` as in [`spi::Query`].
    pub fn arrays<const N: usize>(&self, sql: &str, params: &[Param], is_ours: bool) -> [Option<pg_sys::Datum>; N] {
        spi::Query { sql, params, relations: &self.relations(), is_ours }.varlenas()
    }

    /// The relations that queries may read.
    pub fn relations(&self) -> Vec<&Ephemeral> {
        self.histories.iter().flat_map(|history| [&history.touched, &history.old, &history.kept]).collect()
    }

    /// No table of a user has a name like that where it could be taken for ours: these go first.
    fn name(&self, what: &str, relation: pg_sys::Oid) -> String {
        quoted(&self.plain_name(what, relation))
    }

    fn plain_name(&self, what: &str, relation: pg_sys::Oid) -> String {
        format!("{what}{} {}", self.label, relation.to_u32())
    }

    fn read(&self, used: &Use<'_>, target: &Snapshot) -> std::result::Result<History, Untold> {
        let relation = used.relation;
        let store = |what: &str| Ephemeral::new(&self.plain_name(what, relation.oid), relation.oid);
        let mut history =
            History { relation: relation.oid, touched: store("touched"), old: store("old"), kept: store("kept") };
        let rows = log::first_rows(used, &self.seen)?;
        let mut memory = Scratch::new();
        for row in rows {
            memory.run(|| {
                let values = log::told(used, &row.old).unwrap_or_default();
                let in_key = |column: &&image::Column| relation.key.contains(&column.attribute);
                history.touched.put(values.iter().filter(in_key).map(|c| (c.attribute, c.value)));
                if !row.enters {
                    history.old.put(values.iter().map(|c| (c.attribute, c.value)));
                    if !target.sees(row.place.xid) {
                        history.kept.put(values.iter().map(|c| (c.attribute, c.value)));
                    }
                }
            });
        }
        Ok(history)
    }
}
