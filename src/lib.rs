//! Syncline: consistent deltas of your own tables with plain SQL.
use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/syncline.sql", name = "syncline", bootstrap);
