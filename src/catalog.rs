//! Which table a shape means, and whether its triggers watch it.

use pgrx::pg_sys;
use syncline_delta::Error;

use crate::error::Result;
use crate::mutant::{self, Mutant};
use crate::pg::relation::{self, Relation};

/// A tracked table, locked with all its partitions until the end of the transaction.
pub struct Tracked {
    /// Its definition.
    pub relation: Relation,
    /// Whether row security restricts what this role sees of it.
    pub is_secured: bool,
}

impl Tracked {
    /// The columns whose old values are logged, beside the key.
    pub fn filter_columns(&self) -> &[String] {
        self.relation.trigger(relation::LOG).map(|t| t.arguments.as_slice()).unwrap_or_default()
    }

    /// Resolves a name among the tracked tables.
    pub fn resolve(schema: Option<&str>, name: &str) -> Result<Self> {
        let schemas = match schema {
            Some(name) => relation::schema(name).into_iter().collect(),
            None => relation::search_path(),
        };
        let mut untracked = false;
        for schema in schemas {
            let Some(oid) = relation::find(schema, name) else { continue };
            let tree = relation::tree(oid);
            // Read after the lock: what is read now stays.
            let Some(found) = relation::read(oid) else { continue };
            if found.trigger(relation::STAMP).is_none() && found.trigger(relation::LOG).is_none() {
                untracked = true;
                continue;
            }
            check(&found, &tree)?;
            return Ok(Self {
                is_secured: relation::row_security(found.oid) && !mutant::is(Mutant::PolicyIgnored),
                relation: found,
            });
        }
        Err(if untracked {
            Error::rule("55000", format!("table \"{}\" is not tracked", name))
                .with_hint(format!("SELECT sync_track('{}')", name.replace('\'', "''")))
        } else {
            Error::rule("42P01", format!("tracked table \"{}\" does not exist", name))
        })
    }
}

/// Refuses a table where a write could have gone by unseen.
fn check(root: &Relation, tree: &[pg_sys::Oid]) -> Result<()> {
    if root.detaching {
        return Err(detached(root));
    }
    if root.key.is_empty() || root.version().is_none() {
        return Err(Error::rule("55000", format!("table \"{}\" has lost its key or its version column", root.name.1))
            .with_hint("Restore them and call sync_track."));
    }
    if root.is_partition {
        return Err(Error::rule("0A000", format!("table \"{}\" is a partition", root.name.1))
            .with_detail("What left it is logged for the table that it belongs to.")
            .with_hint("Pull from that table, with a condition on its partition key."));
    }
    if root.inherits || tree.len() > 1 && !root.is_partitioned {
        return Err(Error::rule("0A000", format!("table \"{}\" takes part in plain inheritance", root.name.1))
            .with_detail("Rows and definitions change there without a trace.")
            .with_hint("Use partitions instead of inheritance."));
    }
    for &oid in tree {
        let member = if oid == root.oid { Some(root.clone()) } else { relation::read(oid) };
        let Some(member) = member else { continue };
        if !member.is_permanent {
            let table = member.full_name();
            return Err(Error::rule("55000", format!("table {table} is unlogged"))
                .with_detail("A crash would empty it without a trace.")
                .with_hint(format!("ALTER TABLE {table} SET LOGGED")));
        }
        for name in [relation::STAMP, relation::LOG, relation::TRUNCATE] {
            if member.trigger(name).map(|t| t.enabled) != Some(b'A') {
                // Detached concurrently while the pull waited for its lock.
                if relation::root(oid) != root.oid {
                    return Err(detached(root));
                }
                let table = member.full_name();
                return Err(Error::rule(
                    "55000",
                    format!("trigger \"{name}\" of table {table} is missing or not enabled always"),
                )
                .with_detail("Changes may have been missed.")
                .with_hint(format!(
                    "ALTER TABLE {table} ENABLE ALWAYS TRIGGER \"{name}\"; if it is missing, call sync_track."
                )));
            }
        }
    }
    Ok(())
}

fn detached(root: &Relation) -> Error {
    Error::rule("40001", format!("a partition of \"{}\" is being detached", root.name.1))
        .with_hint("Try again when that is done.")
}
