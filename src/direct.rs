//! A few new rows, read and written without a query: starting one takes longer than they do.
//!
//! It serves tables whose condition asks for no other table, over columns whose values are compared and written the same under all
//! settings. For others their places serve a query. What is found is what the query of the same stage finds.

use pgrx::pg_sys;
use syncline_delta::snapshot::Xid;

use crate::catalog::Tracked;
use crate::pg::condition::Condition;
use crate::pg::lookup::{self, Key};
use crate::pg::relation::{Attribute, Relation};
use crate::pg::types;
use crate::query::{Bound, View};

/// The most rows of a table that it is worth it for.
pub const MOST: usize = 100;

/// Where the rows of a table are, and which of them count. It lives in the memory context that it was made in.
pub struct Direct {
    table: pg_sys::Oid,
    version: i16,
    /// Attribute numbers of what the condition reads.
    filter: Vec<i16>,
    condition: Option<Condition>,
    /// Attribute numbers of what is sent, by their place in it.
    columns: Vec<i16>,
}

/// A row: from a column's place among those that are sent to its value.
pub type Values<'a> = &'a dyn Fn(usize) -> Option<pg_sys::Datum>;

/// A row as it is sent.
pub struct Found<'a> {
    /// The table, as it is named in the output.
    pub relation: &'a str,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Found<'_> {
    /// In bytes.
    pub fn size(&self) -> usize {
        self.relation.len() + self.key.len() + self.value.len()
    }
}

impl Direct {
    /// Nothing for a table that takes a query.
    pub fn of(tracked: &Tracked, columns: &[Attribute], filter: &[&Attribute], bound: &Bound) -> Option<Self> {
        let relation = &tracked.relation;
        let is_readable = |column: &Attribute| types::is_safe(column) && column.generated != b'v';
        let serves = !relation.is_partitioned
            && !tracked.is_secured
            && bound.levels == 0
            && columns.iter().all(is_readable)
            && filter.iter().all(|column| is_readable(column));
        if !serves {
            return None;
        }
        let sql = bound.node.sql("t", View::NOW);
        let condition = || Condition::compile(relation.oid, &sql, &bound.params);
        Some(Self {
            table: relation.oid,
            version: relation.version()?.number,
            // One that reads no column is one all the same.
            condition: (sql != "TRUE").then(condition),
            filter: filter.iter().map(|column| column.number).collect(),
            columns: columns.iter().map(|column| column.number).collect(),
        })
    }

    /// Passes the rows with a version in one of these ranges that meet the condition to `each`, until that returns false. Whether
    /// those were all: there may be too many.
    pub fn read(&self, ranges: &[(Xid, Xid)], each: &mut dyn FnMut(Values<'_>) -> bool) -> bool {
        let (mut count, mut go_on) = (0, true);
        for &range in ranges {
            lookup::rows(self.table, &within(self.version, range), &mut |row| {
                let value = |attribute: i16| row.get(usize::try_from(attribute - 1).unwrap_or(0));
                let filter = self.filter.iter().map(|&attribute| (attribute, value(attribute)));
                count += 1;
                go_on = count <= MOST;
                if go_on && self.condition.as_ref().is_none_or(|condition| condition.holds(filter)) {
                    go_on = each(&|place| value(self.columns[place]));
                }
                go_on
            });
            if !go_on {
                break;
            }
        }
        go_on
    }
}

/// Where the rows with a version in one of these ranges are, unless they are too many. For a table without partitions.
pub fn places(relation: &Relation, ranges: &[(Xid, Xid)]) -> Option<Vec<pg_sys::ItemPointerData>> {
    let version = relation.version()?.number;
    let mut places = Vec::new();
    for &range in ranges {
        places.extend(lookup::places(relation.oid, &within(version, range), MOST - places.len())?);
    }
    Some(places)
}

/// The version is one of these.
fn within(version: i16, (from, to): (Xid, Xid)) -> [Key; 2] {
    [Key::int8_from(version, from), Key::int8_below(version, to)]
}
