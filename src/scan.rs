//! Candidates in an order that a later page can go on with.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::filter::Comparison;

use crate::error::Result;
use crate::output::Output;
use crate::pg::ephemeral::Ephemeral;
use crate::pg::function::{input, output};
use crate::pg::relation::Attribute;
use crate::pg::spi::{self, Param};
use crate::pg::types;

/// The columns that candidates are ordered by. No two have the same values in all of them.
pub struct Order(Vec<Column>);

struct Column {
    /// With the alias of the row.
    sql: String,
    typid: pg_sys::Oid,
    greater: String,
    equal: String,
}

impl Order {
    /// By columns of row `t`, given as SQL without the alias, with their base types.
    pub fn new(columns: impl IntoIterator<Item = (String, pg_sys::Oid)>) -> Result<Self> {
        let column = |(sql, typid)| {
            let operator = |comparison| types::key_operator(typid, comparison);
            Ok(Column { sql, typid, greater: operator(Comparison::Gt)?, equal: operator(Comparison::Eq)? })
        };
        Ok(Self(columns.into_iter().map(column).collect::<Result<_>>()?))
    }

    /// By the key alone, or by something and then the key.
    pub fn by_key<'a>(first: Option<(String, pg_sys::Oid)>, key: impl Iterator<Item = &'a Attribute>) -> Result<Self> {
        let key = key.map(|column| (format!("t.{}", types::column(column)), types::base(column.storage.typid)));
        Self::new(first.into_iter().chain(key))
    }

    /// The columns, for the end of a select list.
    fn list(&self) -> String {
        self.0.iter().map(|column| format!(", {}", column.sql)).collect()
    }

    /// `ORDER BY …`: they stand behind `width` other columns.
    fn clause(&self, width: usize) -> String {
        let places: Vec<String> = (1..=self.0.len()).map(|n| (width + n).to_string()).collect();
        format!(" ORDER BY {}", places.join(", "))
    }

    /// ` AND …`: the row comes behind these values, which become parameters.
    fn after(&self, values: &[String], params: &mut Vec<Param>) -> Result<String> {
        if values.len() != self.0.len() {
            return Err(Error::Cursor { detail: "Its page does not fit the shape." });
        }
        let first = params.len();
        params.extend(
            self.0
                .iter()
                .zip(values)
                .map(|(column, text)| Param { typid: column.typid, value: Some(input(column.typid, text, -1)) }),
        );
        let value = |n: usize| format!("${}", first + n + 1);
        let greater = &self.0[0].greater;
        if self.0.iter().all(|column| column.greater == *greater) {
            let columns: Vec<&str> = self.0.iter().map(|column| column.sql.as_str()).collect();
            let values: Vec<String> = (0..values.len()).map(value).collect();
            return Ok(format!(" AND ROW({}) {greater} ROW({})", columns.join(", "), values.join(", ")));
        }
        // Operators of several schemas do not make one row comparison.
        let mut behind = String::from("FALSE");
        for (n, column) in self.0.iter().enumerate().rev() {
            let Column { sql, greater, equal, .. } = column;
            behind = format!("({sql} {greater} {0} OR ({sql} {equal} {0} AND {behind}))", value(n));
        }
        Ok(format!(" AND {behind}"))
    }

    /// The values of a row that has them behind `width` other columns.
    fn values(&self, row: &spi::Row<'_>, width: usize) -> Vec<String> {
        let text = |(n, column): (usize, &Column)| {
            let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
            // SAFETY: a catalog look-up for an existing type.
            unsafe { pg_sys::getTypeOutputInfo(column.typid, &mut function, &mut varlena) };
            row.get(width + n).map_or_else(String::new, |datum| output(function, datum))
        };
        self.0.iter().enumerate().map(text).collect()
    }
}

/// A query of candidates.
pub struct Scan<'a> {
    /// What is selected, separated by commas, and how many columns that is.
    pub columns: (String, usize),
    /// `FROM … AS t WHERE …`: the candidates are those of all of them.
    pub sources: Vec<String>,
    /// Their parameters.
    pub params: Vec<Param>,
    /// Relations of this call that they read.
    pub relations: Vec<&'a Ephemeral>,
    /// As in [`spi::Query`].
    pub is_ours: bool,
    /// Matters only if not all goes into the page.
    pub order: Order,
}

impl Scan<'_> {
    /// Passes candidates behind a place to `each` until the page is full: then the place of the last one is the result.
    pub fn run(
        &self,
        mut place: Option<Vec<String>>,
        page: &mut Output<'_>,
        each: &mut dyn FnMut(&mut Output<'_>, &spi::Row<'_>) -> Result<()>,
    ) -> Result<Option<Vec<String>>> {
        let width = self.columns.1;
        loop {
            let room = page.room();
            let mut params = self.params.clone();
            let sql = self.sql(place.as_deref(), room, &mut params)?;
            let query = spi::Query { sql: &sql, params: &params, relations: &self.relations, is_ours: self.is_ours };
            let (mut count, mut last, mut result) = (0, None, Ok(()));
            query.run(&mut |row| {
                count += 1;
                if let Err(error) = each(page, row) {
                    result = Err(error);
                    return false;
                }
                if page.is_full() || room == Some(count) {
                    last = Some(self.order.values(row, width));
                }
                !page.is_full()
            });
            result?;
            if page.is_full() {
                return Ok(last);
            }
            if room != Some(count) {
                return Ok(None);
            }
            // What was sent already, for another level, took no room.
            place = last;
        }
    }

    fn sql(&self, place: Option<&[String]>, room: Option<u64>, params: &mut Vec<Param>) -> Result<String> {
        let after = place.map(|values| self.order.after(values, params)).transpose()?.unwrap_or_default();
        let (columns, width) = &self.columns;
        let list = if room.is_some() { self.order.list() } else { String::new() };
        let select = |source: &String| format!("SELECT {columns}{list} {source}{after}");
        let mut sql = self.sources.iter().map(select).collect::<Vec<_>>().join(" UNION ALL ");
        if let Some(room) = room {
            params.push(Param::int8(i64::try_from(room).unwrap_or(i64::MAX)));
            sql.push_str(&format!("{} LIMIT ${}", self.order.clause(*width), params.len()));
        }
        Ok(sql)
    }
}
