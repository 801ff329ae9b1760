//! From a filter's tree to SQL, read in two ways: what holds now, and what held at an earlier moment.
//!
//! A sub-select is a *level*. What a level was at an earlier moment is put together from its rows that nobody touched since and
//! the old rows out of the log. A level that nobody touched reads the same in both ways.

mod bind;
mod session;

use pgrx::pg_sys;

use crate::catalog::Tracked;
use crate::past::{Key, Past};
use crate::pg::relation::Attribute;
use crate::pg::spi::Param;
use crate::pg::types;

pub use bind::bind;
pub use session::{Session, define_settings};

/// Stands for the alias of the row in the SQL of a condition: the one character that no identifier has.
const ALIAS: char = '\0';

/// A condition with its values, from `$1` on.
pub struct Bound {
    /// The condition.
    pub node: Node,
    /// Its values.
    pub params: Vec<Param>,
    /// The values' types and canonical texts, for the shape's fingerprint.
    pub fingerprint: String,
    /// How many levels it has.
    pub levels: usize,
    /// How rows of its own table are told apart.
    pub key: Key,
}

/// A condition on a row.
pub enum Node {
    /// All of them.
    And(Vec<Node>),
    /// Any of them.
    Or(Vec<Node>),
    /// SQL over the row's own columns.
    Own(String),
    /// `column [NOT] IN (SELECT ...)`
    Member {
        /// The column, quoted.
        column: String,
        /// Where it is looked for.
        level: Box<Level>,
        /// `NOT IN`
        negated: bool,
    },
}

/// A sub-select: the values of one column in some rows of a table.
pub struct Level {
    /// Its place among the levels of the whole condition, the outer before the inner.
    pub number: usize,
    /// Its table.
    pub tracked: Tracked,
    /// The column whose values count.
    pub member: Attribute,
    /// The column's base type.
    pub typid: pg_sys::Oid,
    /// Of that type.
    array: pg_sys::Oid,
    /// The type's `=`.
    equal: String,
    key: Key,
    /// The condition on its rows.
    node: Node,
    /// All columns that it reads: key, member and filter.
    pub reads: Vec<Attribute>,
}

/// When a condition is asked for.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// In the snapshot of the call.
    Now,
    /// At an earlier moment.
    Past(&'a Past),
}

/// What has moved since a cursor: rows of relations, and from them values of levels.
pub struct Moved<'a> {
    /// The log's side.
    pub past: &'a Past,
    /// By the level's number: the parameter with the values that may have come or gone.
    arrays: Vec<Option<String>>,
    /// All parameters: the condition's, then the arrays.
    pub params: Vec<Param>,
}

impl Node {
    /// The condition as SQL over a row.
    pub fn sql(&self, alias: &str, view: View<'_>) -> String {
        let list = |parts: &[Self], between: &str| {
            let parts: Vec<String> = parts.iter().map(|part| part.sql(alias, view)).collect();
            format!("({})", parts.join(between))
        };
        match self {
            Self::And(parts) => list(parts, " AND "),
            Self::Or(parts) => list(parts, " OR "),
            Self::Own(sql) => sql.replace(ALIAS, alias),
            Self::Member { column, level, negated } => level.sql(&format!("{alias}.{column}"), *negated, view),
        }
    }

    /// Its levels and the columns that are looked for in them, without those inside.
    pub fn members(&self) -> Vec<(&str, &Level)> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::members).collect(),
            Self::Own(_) => Vec::new(),
            Self::Member { column, level, .. } => vec![(column, level)],
        }
    }

    /// All its levels, the outer before the inner.
    pub fn levels(&self) -> Vec<&Level> {
        let with_inner = |(_, level)| std::iter::once(level).chain(Level::node(level).levels());
        self.members().into_iter().flat_map(with_inner).collect()
    }
}

impl Moved<'_> {
    /// For a row: whether a value of the level that may have come or gone stands in the column; nothing if none has.
    pub fn touches(&self, level: &Level, column: &str) -> Option<String> {
        let array = self.arrays[level.number].as_ref()?;
        Some(format!("{column} {} ANY ({array})", level.equal))
    }

    /// Whether a value of any level may have come or gone.
    pub fn is_any(&self) -> bool {
        self.arrays.iter().any(Option::is_some)
    }
}

impl Level {
    fn node(&self) -> &Node {
        &self.node
    }

    fn sql(&self, value: &str, negated: bool, view: View<'_>) -> String {
        let row = format!("l{}", self.number);
        let table = self.tracked.relation.full_name();
        let exists = |from: &str, and: &str| {
            let (member, condition) = (types::column(&self.member), self.node.sql(&row, view));
            format!(
                "EXISTS (SELECT 1 FROM {from} AS {row} WHERE {row}.{member} {} {value} AND {condition}{and})",
                self.equal
            )
        };
        let not = if negated { "NOT " } else { "" };
        let past = match view {
            View::Past(past) if self.has_moved(past) => past,
            _ => return format!("({not}{})", exists(&table, "")),
        };
        let kept = exists(&table, &past.untouched(&self.tracked.relation, &self.key, &row));
        match past.old(&self.tracked.relation) {
            Some(old) => format!("({not}({kept} OR {}))", exists(&old, "")),
            None => format!("({not}{kept})"),
        }
    }

    /// Whether a row of its table, or of one inside it, was touched.
    fn has_moved(&self, past: &Past) -> bool {
        let is_touched = |level: &Self| past.is_touched(&level.tracked.relation);
        is_touched(self) || self.node.levels().into_iter().any(is_touched)
    }

    /// The query of the values that may have come or gone; `inner` are its own levels' values, as parameters.
    fn moved_values(&self, past: &Past, inner: &[Option<String>]) -> Option<String> {
        let relation = &self.tracked.relation;
        let (table, member) = (relation.full_name(), types::column(&self.member));
        let mut parts = past.touched_values(relation, &self.key, &member);
        for (column, level) in self.node.members() {
            if let Some(array) = &inner[level.number] {
                parts.push(format!(
                    "SELECT l.{member} FROM {table} AS l WHERE l.{column} {} ANY ({array})",
                    level.equal
                ));
            }
        }
        let union = parts.join(" UNION ALL ");
        (!parts.is_empty()).then(|| {
            format!(
                "SELECT array_agg(DISTINCT v)::{} FROM ({union}) AS q(v) WHERE v IS NOT NULL",
                types::full_name(self.array)
            )
        })
    }
}

impl Bound {
    /// What has moved at its levels, from the innermost outwards; `is_ours` as in `spi::Query`.
    pub fn moved<'a>(&self, past: &'a Past, is_ours: bool) -> Moved<'a> {
        let mut moved = Moved { past, arrays: vec![None; self.levels], params: self.params.clone() };
        // An inner level has the higher number.
        for level in self.node.levels().into_iter().rev() {
            let Some(sql) = level.moved_values(past, &moved.arrays) else { continue };
            let values = past.array(&sql, &moved.params, is_ours);
            moved.params.push(Param { typid: level.array, value: values });
            moved.arrays[level.number] = values.map(|_| format!("${}", moved.params.len()));
        }
        moved
    }
}
