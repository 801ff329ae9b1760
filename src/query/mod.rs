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
    Member(Member),
}

/// `column [NOT] IN (SELECT ...)`
pub struct Member {
    /// The column, quoted.
    column: String,
    /// Where it is looked for.
    pub level: Box<Level>,
    /// `NOT IN`
    negated: bool,
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

/// How a condition is read.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// At an earlier moment, as what has moved since tells; if not, in the snapshot of the call.
    past: Option<&'a Moved<'a>>,
    /// A level by its number, and whether the row is known to meet the condition on it.
    known: Option<(usize, bool)>,
}

/// What has moved since an earlier moment: rows of relations, and from them values of levels.
pub struct Moved<'a> {
    /// The log's side.
    pub past: &'a Past,
    /// Which values rows are looked for with.
    driving: Driving,
    /// By the level's number.
    values: Vec<Option<Values>>,
}

/// Values of a level, as parameters: arrays.
struct Values {
    /// Those that may have come or left at any moment between, where they had to be looked for.
    touched: Option<String>,
    /// Those that came or left between the two moments.
    flipped: Option<String>,
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

/// What may have become of a row's membership.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is in the shape now and was not.
    Entered,
    /// It was in the shape and is not now.
    Left,
}

/// Rows that one condition on a level may have let in or out.
pub struct Driven<'a> {
    /// Which they are: SQL.
    pub sql: String,
    /// Whether they meet that condition now, and did then, if that is known.
    turn: Option<(usize, Turn)>,
    moved: &'a Moved<'a>,
}

impl<'a> Driven<'a> {
    /// How the condition reads for them now.
    pub fn now(&self) -> View<'static> {
        View { past: None, known: self.turn.map(|(level, turn)| (level, turn == Turn::Entered)) }
    }

    /// How it read for them then.
    pub fn then(&self) -> View<'a> {
        View { past: Some(self.moved), known: self.turn.map(|(level, turn)| (level, turn == Turn::Left)) }
    }
}

impl<'a> View<'a> {
    /// In the snapshot of the call.
    pub const NOW: View<'static> = View { past: None, known: None };

    /// At an earlier moment, as what has moved since tells.
    pub fn past(moved: &'a Moved<'a>) -> Self {
        View { past: Some(moved), known: None }
    }
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
            Self::Member(member) => member.sql(alias, view),
        }
    }

    /// Its conditions on levels, without those inside.
    pub fn members(&self) -> Vec<&Member> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::members).collect(),
            Self::Own(_) => Vec::new(),
            Self::Member(member) => vec![member],
        }
    }

    /// All its levels, the outer before the inner.
    pub fn levels(&self) -> Vec<&Level> {
        let levels = self.members().into_iter().map(|member| &*member.level);
        levels.flat_map(|level| std::iter::once(level).chain(level.node.levels())).collect()
    }
}

impl Member {
    /// The column with its row's alias.
    pub fn column(&self, alias: &str) -> String {
        format!("{alias}.{}", self.column)
    }

    fn sql(&self, alias: &str, view: View<'_>) -> String {
        let level = &self.level;
        match view.known {
            Some((number, is_met)) if number == level.number => (if is_met { "TRUE" } else { "FALSE" }).to_owned(),
            _ => level.sql(&self.column(alias), self.negated, view.past),
        }
    }
}

impl<'a> Moved<'a> {
    /// The rows of an alias that may have entered or left with a value that came to or left a level; nothing if
    /// there are none.
    ///
    /// No NOT stands over a condition on a level. So a row enters only if one of these became true, and a row that is found by
    /// the values for which it did needs no look at the level any more.
    pub fn driven(&'a self, member: &Member, alias: &str, turn: Turn) -> Option<Driven<'a>> {
        let level = &member.level;
        let values = self.values[level.number].as_ref()?;
        let (array, turn) = match self.driving {
            Driving::Touched => (values.touched.as_ref()?, None),
            Driving::Flipped => {
                let has_come = (turn == Turn::Entered) != member.negated;
                let array = if has_come { &values.came } else { &values.left };
                (array.as_ref()?, Some((level.number, turn)))
            }
        };
        Some(Driven { sql: level.is_one_of(&member.column(alias), array), turn, moved: self })
    }

    /// For a row: whether it stands at the level with a value for which it may have entered or left; nothing if there
    /// is none.
    fn touches(&self, member: &Member, alias: &str) -> Option<String> {
        let values = self.values[member.level.number].as_ref()?;
        Some(member.level.is_one_of(&member.column(alias), self.array(values)?))
    }

    fn array<'v>(&self, values: &'v Values) -> Option<&'v String> {
        if self.driving == Driving::Touched { values.touched.as_ref() } else { values.flipped.as_ref() }
    }

    /// Whether there is a value of any level that rows are looked for with.
    pub fn is_any(&self) -> bool {
        self.values.iter().flatten().any(|values| self.array(values).is_some())
    }
}

impl Level {
    fn is_one_of(&self, value: &str, array: &str) -> String {
        format!("{value} {} ANY ({array})", self.equal)
    }

    fn sql(&self, value: &str, negated: bool, past: Option<&Moved<'_>>) -> String {
        let row = format!("l{}", self.number);
        let (member, condition) = (types::column(&self.member), self.node.sql(&row, View::NOW));
        let table = self.tracked.relation.full_name();
        let now = format!(
            "EXISTS (SELECT 1 FROM {table} AS {row} WHERE {row}.{member} {} {value} AND {condition})",
            self.equal
        );
        let not = if negated { "NOT " } else { "" };
        let values = past.and_then(|moved| moved.values[self.number].as_ref());
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
        let touched = moved.past.touched_rows(relation, &self.key).into_iter();
        let old = moved.past.old(relation).map(|old| format!("FROM {old} AS l"));
        let mut parts: Vec<String> = touched.chain(old).map(|rows| format!("SELECT l.{member} {rows}")).collect();
        for inner in self.node.members() {
            if let Some(touches) = moved.touches(inner, "l") {
                parts.push(format!("SELECT l.{member} FROM {table} AS l WHERE {touches}"));
            }
        }
        let (union, array) = (parts.join(" UNION ALL "), types::full_name(self.array));
        (!parts.is_empty())
            .then(|| format!("SELECT array_agg(DISTINCT v)::{array} FROM ({union}) AS q(v) WHERE v IS NOT NULL"))
    }

    /// Queries of the member's values in rows that have one of `touched`: now, which is then TRUE, and at the earlier moment.
    fn rows_with(&self, moved: &Moved<'_>, touched: &str) -> Vec<String> {
        let relation = &self.tracked.relation;
        let (table, member) = (relation.full_name(), types::column(&self.member));
        let is_touched = self.is_one_of(&format!("l.{member}"), touched);
        let (now, past) = (self.node.sql("l", View::NOW), self.node.sql("l", View::past(moved)));
        let untouched = moved.past.untouched(relation, &self.key, "l");
        vec![
            format!("SELECT l.{member}, TRUE FROM {table} AS l WHERE {is_touched} AND {now}"),
            format!("SELECT l.{member}, FALSE FROM {table} AS l WHERE {is_touched} AND {past}{untouched}"),
        ]
    }

    /// The same of all rows that have changed or turned, which is enough where no two rows have the same value.
    fn rows_that_turned(&self, moved: &Moved<'_>) -> Vec<String> {
        let relation = &self.tracked.relation;
        let (table, member) = (relation.full_name(), types::column(&self.member));
        let untouched = moved.past.untouched(relation, &self.key, "l");
        let mut rows = Vec::new();
        for inner in self.node.members() {
            for (turn, is_now) in [(Turn::Entered, "TRUE"), (Turn::Left, "FALSE")] {
                let Some(driven) = moved.driven(inner, "l", turn) else { continue };
                let (now, then) = (self.node.sql("l", driven.now()), self.node.sql("l", driven.then()));
                let (is, is_not) = if turn == Turn::Entered { (now, then) } else { (then, now) };
                rows.push(format!(
                    "SELECT l.{member}, {is_now} FROM {table} AS l \
                     WHERE {} AND {is} AND {is_not} IS NOT TRUE{untouched}",
                    driven.sql
                ));
            }
        }
        let now = self.node.sql("l", View::NOW);
        let touched = moved.past.touched_rows(relation, &self.key);
        rows.extend(touched.map(|touched| format!("SELECT l.{member}, TRUE {touched} WHERE {now}")));
        rows
    }

    /// The query of the values that came or left, of those that these queries find: all, those that left, those that came.
    fn flipped_values(&self, moved: &Moved<'_>, mut rows: Vec<String>) -> String {
        let (relation, member) = (&self.tracked.relation, types::column(&self.member));
        let past = self.node.sql("l", View::past(moved));
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
        let mut moved = Moved { past, driving, values: (0..self.levels).map(|_| None).collect() };
        if past.is_empty() {
            return moved;
        }
        let added = |array: Option<pg_sys::Datum>, typid, params: &mut Vec<Param>| {
            array.map(|value| {
                params.push(Param { typid, value: Some(value) });
                format!("${}", params.len())
            })
        };
        // An inner level has the higher number.
        for level in self.node.levels().into_iter().rev() {
            let mut touched = None;
            let rows = if driving == Driving::Flipped && level.key.is_just(&types::column(&level.member)) {
                level.rows_that_turned(&moved)
            } else if let Some(sql) = level.touched_values(&moved) {
                let [values] = past.arrays(&sql, params, is_ours);
                touched = added(values, level.array, params);
                touched.as_ref().map(|touched| level.rows_with(&moved, touched)).unwrap_or_default()
            } else {
                Vec::new()
            };
            if rows.is_empty() {
                continue;
            }
            let sql = level.flipped_values(&moved, rows);
            let [flipped, left, came] =
                past.arrays(&sql, params, is_ours).map(|array| added(array, level.array, params));
            moved.values[level.number] = Some(Values { touched, flipped, left, came });
        }
        moved
    }
}
