//! Random input: shapes and cursors that are valid, nearly valid, or nothing of the kind.

mod cursor;
mod filter;
mod shape;

pub use cursor::damaged;
pub use shape::{SCHEMA, Source, WRITES};
