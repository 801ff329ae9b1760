//! Syncline: consistent deltas of your own tables with plain SQL.
//!
//! Read `crates/delta` first: why no row is lost is decided there, without Postgres. Here is the boundary.

mod catalog;
mod changes;
mod ddl;
mod digest;
mod direct;
mod error;
mod kept;
mod log;
mod mutant;
mod output;
mod past;
mod pending;
mod pg;
mod plan;
mod policy;
mod preview;
mod query;
mod round;
mod row;
mod scan;
mod server;
mod shapes;
mod stamp;
mod stream;
mod tombstone;
mod track;
mod wait;

#[cfg(any(test, feature = "pg_test"))]
mod tests;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/syncline.sql", name = "syncline", bootstrap);

/// Called by Postgres when the library is loaded.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    query::define_settings();
    shapes::define_settings();
    mutant::define_settings();
    stream::define_settings();
    tombstone::watch_invalidations();
    pending::watch_transactions();
    pg::definitions::watch();
    pg::rights::watch_analysis();
    pg::waiters::watch_commits();
}

/// What `cargo pgrx test` asks for by this name.
#[cfg(test)]
pub mod pg_test {
    /// Nothing is to be done once per run.
    pub fn setup(_options: Vec<&str>) {}

    /// No settings but the server's own.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        Vec::new()
    }
}
