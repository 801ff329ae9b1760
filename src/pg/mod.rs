//! Safe wrappers around what Postgres offers. Beside the entry points, all unsafe code lives here.

pub mod condition;
pub mod decoding;
pub mod ephemeral;
pub mod function;
pub mod guard;
pub mod image;
pub mod memory;
pub mod relation;
pub mod rights;
pub mod settings;
pub mod snapshot;
pub mod spi;
pub mod transaction;
pub mod trigger;
pub mod tuplestore;
pub mod types;
