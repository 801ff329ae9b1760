//! A client that takes all bytes of an answer and makes nothing of them.

use std::error::Error;
use std::io::Read;

use fallible_iterator::FallibleIterator;
use postgres::ToStatement;
use postgres::types::{BorrowToSql, FromSql, Type};

use super::measure::Session;

/// No parameters.
pub const NONE: &[i32] = &[];

/// The size of a value of any type, as it came.
struct Size(usize);

impl<'a> FromSql<'a> for Size {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.len()))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(0))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The bytes of all rows that a statement gives.
pub fn take<T, P>(session: &mut Session, statement: &T, params: &[P]) -> usize
where
    T: ?Sized + ToStatement,
    P: BorrowToSql + Clone,
{
    let mut rows = session.client.query_raw(statement, params.iter().cloned()).expect("a measured statement runs");
    let mut bytes = 0;
    while let Some(row) = rows.next().expect("a measured statement runs") {
        bytes += (0..row.len()).map(|column| row.get::<_, Size>(column).0).sum::<usize>();
    }
    bytes
}

/// The size of a document of a page, and the cursor behind it unless it is the last.
struct Page(usize, Option<String>);

impl<'a> FromSql<'a> for Page {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let start = std::str::from_utf8(&raw[..raw.len().min(1000)])
            .unwrap_or_else(|error| std::str::from_utf8(&raw[..error.valid_up_to()]).expect("it is text up to there"));
        let cursor = start.split('"').nth(3).ok_or("a document begins with its cursor")?;
        Ok(Self(raw.len(), (!start.contains("\"up_to_date\": true")).then(|| cursor.to_owned())))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The bytes of all pages of a first pull, by the default size of pages.
pub fn take_pages(session: &mut Session, shape: &str) -> usize {
    let sql = format!("SELECT sync_pull($1::text, '{shape}')");
    let statement = session.client.prepare(&sql).expect("a pull can be prepared");
    let (mut bytes, mut since) = (0, None);
    loop {
        let row = session.client.query_one(&statement, &[&since]).expect("a page comes");
        let Page(size, next) = row.get(0);
        bytes += size;
        if next.is_none() {
            return bytes;
        }
        since = next;
    }
}

/// The bytes of a COPY.
pub fn take_copy(session: &mut Session, sql: &str) -> usize {
    let mut reader = session.client.copy_out(sql).expect("a table can be copied");
    let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
    loop {
        match reader.read(&mut buffer).expect("a table can be copied") {
            0 => return bytes,
            read => bytes += read,
        }
    }
}
