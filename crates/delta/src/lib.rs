//! The pure domain of Syncline. No Postgres, no I/O, no clock.
#![forbid(unsafe_code)]

pub mod change;
pub mod cursor;
pub mod digest;
pub mod error;
pub mod filter;
pub mod json;
pub mod log;
pub mod round;
pub mod shape;
pub mod snapshot;
pub mod stream;
pub mod varint;
mod visible;

pub use error::Error;
