//! Commands that alter tables, each run beside clients that check the law: what `tests/ddl.rs` tells of every command.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postgres::Client;

use crate::follower::Follower;
use crate::histories::state;
use crate::{Cluster, Install};

/// A command, and what the three clients are told.
pub type Line = (&'static str, &'static str);

const ALL: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;
const SOME: &str = r#"{"tables": {"t": {"columns": ["f"], "where": "f = 1"}}}"#;

const TYPES: &str = "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE pair AS (x int, y int); CREATE DOMAIN word AS text; \
    CREATE TYPE inner_pair AS (x int); CREATE DOMAIN inner_word AS inner_pair; CREATE TYPE outer_pair AS (w inner_word[]); \
    CREATE TYPE unused AS (x int, y int); CREATE TYPE unused_mood AS ENUM ('a'); CREATE TABLE rows (x int, y int); ";

/// A table with columns of all kinds that commands alter.
pub const PLAIN: &str = "CREATE TABLE t (id int PRIMARY KEY, f int, n int DEFAULT 0, s text, v varchar(10), m mood DEFAULT 'a', \
        p pair DEFAULT '(1,2)', w word, o outer_pair DEFAULT ROW(ARRAY[ROW(1)::inner_pair::inner_word]), r rows DEFAULT ROW(1, 2)::rows, \
        g int GENERATED ALWAYS AS (f * 2) STORED, u int NOT NULL GENERATED ALWAYS AS IDENTITY); \
    CREATE UNIQUE INDEX t_u ON t (u); \
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
    CREATE TRIGGER users AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing(); \
    CREATE RULE idle AS ON DELETE TO t WHERE OLD.id < 0 DO INSTEAD NOTHING; \
    CREATE TABLE parent (id int NOT NULL); CREATE TABLE referenced (id int PRIMARY KEY); \
    INSERT INTO t (id, f) SELECT i, i % 2 FROM generate_series(1, 20) i; SELECT sync_track('t', filter_columns => '{f}')";

/// A partitioned table, and two that may become partitions.
pub const PARTITIONED: &str = "CREATE TABLE t (id int, f int, n int, region int, PRIMARY KEY (region, id)) PARTITION BY LIST (region); \
    CREATE TABLE one PARTITION OF t FOR VALUES IN (1); CREATE TABLE two PARTITION OF t FOR VALUES IN (2); \
    CREATE TABLE none PARTITION OF t FOR VALUES IN (5); \
    CREATE TABLE deep PARTITION OF t FOR VALUES IN (3) PARTITION BY RANGE (id); \
    CREATE TABLE deep_low PARTITION OF deep FOR VALUES FROM (0) TO (10); \
    CREATE TABLE deep_high PARTITION OF deep FOR VALUES FROM (10) TO (2000); \
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
    CREATE TRIGGER users AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing(); \
    INSERT INTO t SELECT i, i % 2, 0, i % 3 + 1 FROM generate_series(1, 20) i; SELECT sync_track('t', filter_columns => '{f}'); \
    CREATE TABLE empty (LIKE t INCLUDING ALL); CREATE TABLE full_one (LIKE t INCLUDING ALL); INSERT INTO full_one VALUES (1, 1, 1, 7)";

/// Rows leave the shape, go, change and come.
const BEFORE: &str = "UPDATE t SET f = 2 WHERE id = 1; DELETE FROM t WHERE id = 3; UPDATE t SET f = 1 WHERE id = 2; \
    UPDATE t SET id = 105 WHERE id = 5";
const AFTER: &str = "UPDATE t SET f = 2 WHERE id = 7; DELETE FROM t WHERE id = 9; UPDATE t SET f = 1 WHERE id = 4; \
    UPDATE t SET id = 111 WHERE id = 11; DELETE FROM t WHERE id = 2";

/// A session in a server, and the table that a story begins with.
pub struct Stage<'a> {
    cluster: &'a Cluster<'a>,
    /// The session that alters and pulls.
    pub client: Client,
    base: &'a str,
}

/// `delta`, `reset` or the SQLSTATE.
pub fn told(result: Result<Vec<String>, postgres::Error>) -> String {
    match result {
        Ok(ops) if ops.first().is_some_and(|op| op.starts_with("reset")) => "reset".to_owned(),
        Ok(_) => "delta".to_owned(),
        Err(error) => state(&error),
    }
}

impl<'a> Stage<'a> {
    /// A session; its tables are made by `begin`.
    pub fn new(cluster: &'a Cluster<'a>, base: &'a str) -> Self {
        let mut client = cluster.connect();
        client.batch_execute("CREATE EXTENSION IF NOT EXISTS syncline SCHEMA public").unwrap();
        Self { cluster, client, base }
    }

    /// Runs what cannot fail.
    pub fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Two clients that hold a fresh table.
    pub fn begin(&mut self) -> [Follower; 2] {
        self.run("ROLLBACK; DROP SCHEMA IF EXISTS a CASCADE; DROP SCHEMA IF EXISTS b CASCADE; DROP SCHEMA IF EXISTS c CASCADE; CREATE SCHEMA a; CREATE SCHEMA b");
        self.run(&format!("SET search_path = a, b, public; {TYPES} {}", self.base));
        self.followers()
    }

    fn followers(&mut self) -> [Follower; 2] {
        [ALL, SOME].map(|shape| {
            let mut follower = Follower::new(shape);
            follower.pull(&mut self.client);
            follower
        })
    }

    /// What each of the two is told.
    pub fn pull(&mut self, followers: &mut [Follower; 2]) -> [String; 2] {
        followers.each_mut().map(|follower| told(follower.try_pull(&mut self.client)))
    }

    /// The command between writes of its own transaction; nothing if it cannot run in one.
    fn together(&mut self, command: &str) -> Option<[String; 2]> {
        let mut followers = self.begin();
        self.run(&format!("BEGIN; {BEFORE}"));
        if let Err(error) = self.client.batch_execute(command) {
            self.run("ROLLBACK");
            assert_eq!(state(&error), "25001", "{command}: {error:?}");
            return None;
        }
        let written = self.client.batch_execute(&format!("SAVEPOINT s; {AFTER}"));
        let failed = written.err().map(|error| format!("{error:?}"));
        self.run(if failed.is_some() { "ROLLBACK TO s; COMMIT" } else { "COMMIT" });
        let told = self.pull(&mut followers);
        // Who cannot write what he wrote before is not left with a table that is pulled as before.
        assert!(failed.is_none() || !told.contains(&"delta".to_owned()), "{command}: {failed:?}");
        Some(told)
    }

    /// The command between other transactions, and a client under a snapshot from before.
    fn apart(&mut self, command: &str, beside_old: bool) -> ([String; 2], String) {
        let mut followers = self.begin();
        self.run(BEFORE);
        let mut late = self.followers();
        let (held, mut old) = (late[0].count(), self.cluster.connect());
        if beside_old {
            old.batch_execute("SET search_path = a, b, public; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
                .unwrap();
        }
        self.run(command);
        let under_old = if beside_old {
            let result = late[1].try_pull(&mut old);
            let word = told(result);
            if word == "delta" || word == "reset" {
                assert_eq!(late[1].count(), held, "{command}: what the old snapshot held");
            }
            word
        } else {
            "-".to_owned()
        };
        drop(old);
        let told = self.pull(&mut followers);
        if self.client.batch_execute(AFTER).is_ok() {
            self.pull(&mut followers);
        }
        (told, under_old)
    }

    fn found(&mut self, command: &str) -> String {
        let together = self.together(command);
        let ([all, some], old) = self.apart(command, together.is_some());
        let found = format!("{all} {some} {old}");
        match together {
            Some(together) if together != [all, some] => format!("{found}, in one transaction {}", together.join(" ")),
            _ => found,
        }
    }

    fn check(&mut self, lines: &[Line]) {
        let (mut wrong, mut count) = (Vec::new(), 0);
        for &(command, expected) in lines {
            // The next line is worth seeing too.
            let found = catch_unwind(AssertUnwindSafe(|| self.found(command)));
            let found = found.unwrap_or_else(|panic| {
                panic
                    .downcast_ref::<String>()
                    .map_or("?".to_owned(), |text| text.lines().take(3).collect::<Vec<_>>().join(" "))
            });
            if found != expected {
                wrong.push(format!("{command}\n    is {found}\n    not {expected}"));
            }
            count += 1;
        }
        assert!(count > 0 && wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// Runs each line's command and compares what the clients are told; panics with all lines that differ.
pub fn check(base: &str, lines: &[Line]) {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    Stage::new(&cluster, base).check(lines);
}
