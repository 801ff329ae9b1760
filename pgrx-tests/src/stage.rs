//! Stories about tables, told step by step: what a client gets after each.

use postgres::Client;

use crate::Cluster;
use crate::follower::Follower;

/// One database, in which each story has a schema of its own.
pub struct Stage {
    /// A superuser's session.
    pub client: Client,
}

impl Stage {
    /// A database with the extension.
    pub fn new(cluster: &Cluster<'_>) -> Self {
        let mut client = cluster.connect();
        client.batch_execute("CREATE EXTENSION syncline SCHEMA public").expect("the extension can be created");
        Self { client }
    }

    /// A schema of its own with what the story begins with.
    pub fn begin(&mut self, name: &str, sql: &str) {
        self.run(&format!("CREATE SCHEMA {name}; SET search_path = {name}, public; {sql}"));
    }

    /// Runs statements, of which none fails.
    pub fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Pulls: the changes.
    pub fn pull(&mut self, follower: &mut Follower) -> Vec<String> {
        follower.pull(&mut self.client)
    }

    /// Runs each step and pulls: the changes must be these.
    pub fn tell(&mut self, shape: &str, steps: &[(&str, &[&str])]) {
        let mut follower = Follower::new(shape);
        self.pull(&mut follower);
        for (sql, expected) in steps {
            self.run(sql);
            assert_eq!(self.pull(&mut follower), *expected, "after {sql}");
        }
    }
}

/// A shape of the table that most stories are about.
pub const IN_SHAPE: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;
