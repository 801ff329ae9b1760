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
    /// At an earlier moment, as what has moved since tells.
    Past(&'a Moved<'a>),
}

/// What has moved since an earlier moment: rows of relations, and from them values of levels.
pub struct Moved<'a> {
    /// The log's side.
    pub past: &'a Past,
    /// By the level's number.
    values: Vec<Option<Values>>,
}

/// Values of a level, as parameters: arrays.
struct Values {
    /// Where a row is looked for that may have entered or left.
    driving: Option<String>,
    /// Those that the level had then and has not now.
    left: Option<String>,
    /// Those that it has now and had not then.
    came: Option<String>,
}

/// Which values of levels rows are looked for with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Driving {
    /// Those that came or left between the two moments.
    Flipped,
    /// Those that may have come or left at any moment between.
    Touched,
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
    /// For a row: whether it stands at the level with a value that it is looked for with; nothing if there is none.
    pub fn touches(&self, level: &Level, column: &str) -> Option<String> {
        let array = self.values[level.number].as_ref()?.driving.as_ref()?;
        Some(level.is_one_of(column, array))
    }

    /// Whether there is a value of any level that rows are looked for with.
    pub fn is_any(&self) -> bool {
        self.values.iter().flatten().any(|values| values.driving.is_some())
    }
}

impl Level {
    fn node(&self) -> &Node {
        &self.node
    }

    fn is_one_of(&self, value: &str, array: &str) -> String {
        format!("{value} {} ANY ({array})", self.equal)
    }

    fn sql(&self, value: &str, negated: bool, view: View<'_>) -> String {
        let row = format!("l{}", self.number);
        let (member, condition) = (types::column(&self.member), self.node.sql(&row, View::Now));
        let table = self.tracked.relation.full_name();
        let now = format!(
            "EXISTS (SELECT 1 FROM {table} AS {row} WHERE {row}.{member} {} {value} AND {condition})",
            self.equal
        );
        let not = if negated { "NOT " } else { "" };
        let values = match view {
            View::Past(moved) => moved.values[self.number].as_ref(),
            View::Now => None,
        };
        let left = values.and_then(|values| values.left.as_ref()).map(|array| self.is_one_of(value, array));
        let came = values.and_then(|values| values.came.as_ref()).map(|array| self.is_one_of(value, array));
        let left = left.map(|left| format!("{left} OR ")).unwrap_or_default();
        let came = came.map(|came| format!(" AND NOT {came}")).unwrap_or_default();
        format!("({not}({left}{now}{came}))")
    }

    /// The query of the values that may have come or gone, given the inner levels' ones.
    fn touched_values(&self, moved: &Moved<'_>) -> Option<String> {
        let relation = &self.tracked.relation;
        let (table, member) = (relation.full_name(), types::column(&self.member));
        let mut parts = moved.past.touched_values(relation, &self.key, &member);
        for (column, level) in self.node.members() {
            if let Some(touches) = moved.touches(level, &format!("l.{column}")) {
                parts.push(format!("SELECT l.{member} FROM {table} AS l WHERE {touches}"));
            }
        }
        let (union, array) = (parts.join(" UNION ALL "), types::full_name(self.array));
        (!parts.is_empty())
            .then(|| format!("SELECT array_agg(DISTINCT v)::{array} FROM ({union}) AS q(v) WHERE v IS NOT NULL"))
    }

    /// The query of those among `touched` that came or left: all, those that left, those that came.
    fn flipped_values(&self, moved: &Moved<'_>, touched: &str) -> String {
        let relation = &self.tracked.relation;
        let (table, member) = (relation.full_name(), types::column(&self.member));
        let is_touched = self.is_one_of(&format!("l.{member}"), touched);
        let (now, past) = (self.node.sql("l", View::Now), self.node.sql("l", View::Past(moved)));
        let untouched = moved.past.untouched(relation, &self.key, "l");
        let mut rows = vec![
            format!("SELECT l.{member}, TRUE FROM {table} AS l WHERE {is_touched} AND {now}"),
            format!("SELECT l.{member}, FALSE FROM {table} AS l WHERE {is_touched} AND {past}{untouched}"),
        ];
        rows.extend(
            moved.past.old(relation).map(|old| format!("SELECT l.{member}, FALSE FROM {old} AS l WHERE {past}")),
        );
        let array = types::full_name(self.array);
        format!(
            "SELECT array_agg(v)::{array}, array_agg(v) FILTER (WHERE NOT came)::{array}, \
             array_agg(v) FILTER (WHERE came)::{array} \
             FROM (SELECT v, bool_and(is_now) FROM ({}) AS q(v, is_now) WHERE v IS NOT NULL \
             GROUP BY v HAVING bool_and(is_now) OR NOT bool_or(is_now)) AS q(v, came)",
            rows.join(" UNION ALL ")
        )
    }
}

impl Bound {
    /// What has moved at its levels, from the innermost outwards. Arrays of values are added to the parameters, the first of
    /// which are those of the condition; `is_ours` as in `spi::Query`.
    pub fn moved<'a>(&self, past: &'a Past, driving: Driving, params: &mut Vec<Param>, is_ours: bool) -> Moved<'a> {
        let mut moved = Moved { past, values: (0..self.levels).map(|_| None).collect() };
        if past.is_empty() {
            return moved;
        }
        // An inner level has the higher number.
        for level in self.node.levels().into_iter().rev() {
            let Some(sql) = level.touched_values(&moved) else { continue };
            let added = |array: pg_sys::Datum, params: &mut Vec<Param>| {
                params.push(Param { typid: level.array, value: Some(array) });
                format!("${}", params.len())
            };
            let [Some(touched)] = past.arrays(&sql, params, is_ours) else { continue };
            let touched = added(touched, params);
            let sql = level.flipped_values(&moved, &touched);
            let [flipped, left, came] =
                past.arrays(&sql, params, is_ours).map(|array| array.map(|array| added(array, params)));
            let driving = if driving == Driving::Flipped { flipped } else { Some(touched) };
            moved.values[level.number] = Some(Values { driving, left, came });
        }
        moved
    }
}
