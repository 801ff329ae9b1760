//! Every command that alters a table or what it is made of: who is reset by it, who is refused, and the law at each pull.
//!
//! Each line names a command and what it means to three clients: one whose shape reads all columns, one that reads
//! the key and `f`, and one that pulls under a snapshot from before the command. `delta`: goes on; `reset`: starts over;
//! else the SQLSTATE. `-`: the command cannot run beside an old snapshot, or in a transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postgres::Client;
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

/// A command, and what the three clients are told.
type Line = (&'static str, &'static str);

const ALL: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;
const SOME: &str = r#"{"tables": {"t": {"columns": ["f"], "where": "f = 1"}}}"#;

const TYPES: &str = "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE pair AS (x int, y int); CREATE DOMAIN word AS text; \
    CREATE TYPE inner_pair AS (x int); CREATE DOMAIN inner_word AS inner_pair; CREATE TYPE outer_pair AS (w inner_word[]); \
    CREATE TYPE unused AS (x int, y int); CREATE TYPE unused_mood AS ENUM ('a'); CREATE TABLE rows (x int, y int); ";

const PLAIN: &str = "CREATE TABLE t (id int PRIMARY KEY, f int, n int DEFAULT 0, s text, v varchar(10), m mood DEFAULT 'a', \
        p pair DEFAULT '(1,2)', w word, o outer_pair DEFAULT ROW(ARRAY[ROW(1)::inner_pair::inner_word]), r rows DEFAULT ROW(1, 2)::rows, \
        g int GENERATED ALWAYS AS (f * 2) STORED, u int NOT NULL GENERATED ALWAYS AS IDENTITY); \
    CREATE UNIQUE INDEX t_u ON t (u); \
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
    CREATE TRIGGER users AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing(); \
    CREATE RULE idle AS ON DELETE TO t WHERE OLD.id < 0 DO INSTEAD NOTHING; \
    CREATE TABLE parent (id int NOT NULL); CREATE TABLE referenced (id int PRIMARY KEY); \
    INSERT INTO t (id, f) SELECT i, i % 2 FROM generate_series(1, 20) i; SELECT sync_track('t', filter_columns => '{f}')";

const PARTITIONED: &str = "CREATE TABLE t (id int, f int, n int, region int, PRIMARY KEY (region, id)) PARTITION BY LIST (region); \
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

struct Stage<'a> {
    cluster: &'a Cluster<'a>,
    client: Client,
    base: &'a str,
}

fn told(result: Result<Vec<String>, postgres::Error>) -> String {
    match result {
        Ok(ops) if ops.first().is_some_and(|op| op.starts_with("reset")) => "reset".to_owned(),
        Ok(_) => "delta".to_owned(),
        Err(error) => state(&error),
    }
}

impl<'a> Stage<'a> {
    fn new(cluster: &'a Cluster<'a>, base: &'a str) -> Self {
        let mut client = cluster.connect();
        client.batch_execute("CREATE EXTENSION IF NOT EXISTS syncline SCHEMA public").unwrap();
        Self { cluster, client, base }
    }

    fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Two clients that hold a fresh table.
    fn begin(&mut self) -> [Follower; 2] {
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

    fn pull(&mut self, followers: &mut [Follower; 2]) -> [String; 2] {
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

fn check(base: &str, lines: &[Line]) {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    Stage::new(&cluster, base).check(lines);
}

#[test]
fn columns() {
    check(
        PLAIN,
        &[
            ("ALTER TABLE t ADD COLUMN c int", "reset delta delta"),
            ("ALTER TABLE t ADD COLUMN c int DEFAULT 7", "reset delta delta"),
            ("ALTER TABLE t ADD COLUMN c float8 DEFAULT random()", "reset delta 40001"),
            ("ALTER TABLE t ADD COLUMN c int GENERATED ALWAYS AS (n + 1) STORED", "reset delta 40001"),
            ("ALTER TABLE t ADD COLUMN IF NOT EXISTS n int", "delta delta delta"),
            ("ALTER TABLE t DROP COLUMN n", "reset delta delta"),
            ("ALTER TABLE t DROP COLUMN f CASCADE", "42703 42703 42703"),
            ("ALTER TABLE t DROP COLUMN id CASCADE", "55000 55000 55000"),
            ("ALTER TABLE t DROP COLUMN _sync_version", "55000 55000 55000"),
            (
                "ALTER TABLE t DROP COLUMN _sync_version; ALTER TABLE t ADD COLUMN _sync_version bigint NOT NULL DEFAULT 0",
                "reset reset 40001",
            ),
            ("ALTER TABLE t ALTER COLUMN n TYPE bigint", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN n TYPE int USING n + 1", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN v TYPE varchar(20)", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN s TYPE text COLLATE \"C\"", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN u DROP IDENTITY, ALTER COLUMN u TYPE bigint", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN _sync_version TYPE int", "55000 55000 55000"),
            ("ALTER TABLE t ALTER COLUMN _sync_version TYPE bigint USING 0", "reset reset 40001"),
            ("ALTER TABLE t ADD COLUMN c int, ALTER COLUMN n TYPE bigint", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN n TYPE bigint, DISABLE TRIGGER users", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN n SET DEFAULT 5", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN n DROP DEFAULT", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN n SET NOT NULL", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN u DROP IDENTITY, ALTER COLUMN u DROP NOT NULL", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN g DROP EXPRESSION", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN u SET GENERATED BY DEFAULT RESTART", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN u DROP IDENTITY IF EXISTS", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN n SET STATISTICS 10", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN n SET (n_distinct = 5)", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN n RESET (n_distinct)", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN s SET STORAGE EXTERNAL", "delta delta delta"),
            ("ALTER TABLE t ALTER COLUMN s SET COMPRESSION pglz", "delta delta delta"),
            ("ALTER TABLE t RENAME COLUMN n TO n2", "reset delta 40001"),
            ("ALTER TABLE t RENAME COLUMN n TO n2; ALTER TABLE t RENAME COLUMN n2 TO n", "reset delta 40001"),
            ("ALTER TABLE t RENAME COLUMN f TO f2", "42703 42703 42703"),
            (
                "ALTER TABLE t RENAME COLUMN f TO f2; UPDATE t SET f2 = 2 WHERE id = 13; ALTER TABLE t RENAME COLUMN f2 TO f",
                "reset reset 40001",
            ),
            ("ALTER TABLE t RENAME COLUMN id TO key", "reset reset 40001"),
            ("ALTER TABLE t RENAME COLUMN _sync_version TO v2", "55000 55000 55000"),
            (
                "ALTER TABLE t RENAME COLUMN _sync_version TO v2; ALTER TABLE t ADD COLUMN _sync_version bigint NOT NULL DEFAULT 0",
                "reset reset 40001",
            ),
        ],
    );
}

#[test]
fn keys_constraints_and_indexes() {
    check(
        PLAIN,
        &[
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (n >= 0)", "delta delta delta"),
            (
                "ALTER TABLE t ADD CONSTRAINT c CHECK (n >= 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT c",
                "delta delta delta",
            ),
            ("ALTER TABLE t ADD CONSTRAINT c UNIQUE (n, id)", "delta delta delta"),
            ("ALTER TABLE t ADD CONSTRAINT c UNIQUE USING INDEX t_u", "delta delta delta"),
            ("ALTER TABLE t ADD CONSTRAINT c EXCLUDE USING btree (id WITH =)", "delta delta delta"),
            (
                "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (n) REFERENCES referenced NOT VALID; ALTER TABLE t ALTER CONSTRAINT c DEFERRABLE",
                "delta delta delta",
            ),
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (n >= 0); ALTER TABLE t DROP CONSTRAINT c", "delta delta delta"),
            ("ALTER TABLE t RENAME CONSTRAINT t_pkey TO k", "delta delta delta"),
            ("ALTER TABLE t DROP CONSTRAINT t_pkey", "55000 55000 55000"),
            (
                "ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET id = 113 WHERE id = 13; ALTER TABLE t ADD PRIMARY KEY (id)",
                "reset reset 40001",
            ),
            ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (f, id)", "reset reset 40001"),
            (
                "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (u); UPDATE t SET id = 113 WHERE id = 13; \
                 ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)",
                "reset reset 40001",
            ),
            (
                "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD COLUMN k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
                "reset reset 40001",
            ),
            (
                "ALTER TABLE t REPLICA IDENTITY USING INDEX t_u; ALTER TABLE t DROP CONSTRAINT t_pkey",
                "reset reset reset",
            ),
            (
                "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY USING INDEX t_u",
                "reset reset 40001",
            ),
            (
                "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id) DEFERRABLE",
                "55000 55000 55000",
            ),
            (
                "ALTER TABLE t REPLICA IDENTITY USING INDEX t_u; ALTER TABLE t DROP CONSTRAINT t_pkey; \
                 UPDATE t SET id = 113 WHERE id = 13; ALTER TABLE t ADD PRIMARY KEY (id)",
                "reset reset 40001",
            ),
            ("ALTER TABLE t REPLICA IDENTITY FULL", "delta delta delta"),
            ("ALTER TABLE t REPLICA IDENTITY USING INDEX t_u", "delta delta delta"),
            ("ALTER TABLE t REPLICA IDENTITY NOTHING; ALTER TABLE t REPLICA IDENTITY DEFAULT", "delta delta delta"),
            ("CREATE INDEX ON t (n)", "delta delta delta"),
            ("CREATE INDEX CONCURRENTLY ON t (n)", "delta delta -"),
            ("DROP INDEX t_u", "delta delta delta"),
            ("DROP INDEX CONCURRENTLY t_u", "delta delta -"),
            ("DROP INDEX t__sync_version_idx", "delta delta delta"),
            ("ALTER INDEX t_u RENAME TO u2", "delta delta delta"),
            ("REINDEX TABLE t", "delta delta delta"),
            ("REINDEX TABLE CONCURRENTLY t", "delta delta -"),
            ("CLUSTER t USING t_pkey", "delta delta delta"),
            ("ALTER TABLE t CLUSTER ON t_pkey", "delta delta delta"),
            ("ALTER TABLE t SET WITHOUT CLUSTER", "delta delta delta"),
            ("VACUUM FULL t", "delta delta -"),
            ("VACUUM (FREEZE) t", "delta delta -"),
            ("ANALYZE t", "delta delta delta"),
            ("CREATE STATISTICS st ON n, f FROM t", "delta delta delta"),
            ("ALTER COLLATION pg_catalog.\"en-x-icu\" REFRESH VERSION", "delta delta delta"),
        ],
    );
}

#[test]
fn tables() {
    check(
        PLAIN,
        &[
            ("TRUNCATE t", "reset reset 40001"),
            ("TRUNCATE parent, t RESTART IDENTITY", "reset reset 40001"),
            ("DROP TABLE t", "42P01 42P01 42P01"),
            (
                "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, f int); SELECT sync_track('t', '{f}')",
                "reset reset 40001",
            ),
            ("SELECT sync_untrack('t')", "55000 55000 55000"),
            ("SELECT sync_untrack('t'); SELECT sync_track('t', '{f}')", "reset reset 40001"),
            ("SELECT sync_track('t', '{n}')", "delta delta delta"),
            ("ALTER TABLE t RENAME TO t2", "42P01 42P01 42P01"),
            ("ALTER TABLE t RENAME TO t2; ALTER TABLE t2 RENAME TO t", "delta delta delta"),
            ("ALTER TABLE t SET SCHEMA b", "delta delta delta"),
            ("ALTER SCHEMA a RENAME TO a2; ALTER SCHEMA a2 RENAME TO a", "delta delta delta"),
            ("ALTER TABLE t OWNER TO pg_database_owner", "delta delta delta"),
            ("ALTER TABLE t SET TABLESPACE pg_default", "delta delta delta"),
            ("ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE pg_default", "delta delta delta"),
            ("ALTER TABLE t SET ACCESS METHOD heap", "delta delta delta"),
            ("ALTER TABLE t SET (fillfactor = 50)", "delta delta delta"),
            ("ALTER TABLE t RESET (fillfactor)", "delta delta delta"),
            ("ALTER TABLE t SET WITHOUT OIDS", "delta delta delta"),
            ("ALTER TABLE t SET UNLOGGED", "55000 55000 55000"),
            ("ALTER TABLE t SET UNLOGGED; ALTER TABLE t SET LOGGED", "reset reset 40001"),
            ("ALTER TABLE t SET LOGGED", "reset reset 40001"),
            ("CREATE TABLE child () INHERITS (t)", "0A000 0A000 0A000"),
            ("ALTER TABLE t INHERIT parent", "0A000 0A000 0A000"),
            (
                "ALTER TABLE t INHERIT parent; ALTER TABLE parent RENAME id TO id2; ALTER TABLE parent RENAME id2 TO id; ALTER TABLE t NO INHERIT parent",
                "reset reset 40001",
            ),
            (
                "CREATE TABLE child (LIKE t INCLUDING ALL); INSERT INTO child (id, f) VALUES (70, 1); SELECT sync_track('child', '{f}'); \
                 ALTER TABLE child INHERIT t",
                "0A000 0A000 0A000",
            ),
            ("CREATE TABLE child () INHERITS (t); DROP TABLE child", "delta delta delta"),
            (
                "CREATE TABLE top (LIKE t INCLUDING GENERATED) PARTITION BY RANGE (id); ALTER TABLE top ATTACH PARTITION t DEFAULT",
                "0A000 0A000 0A000",
            ),
            (
                "CREATE TABLE top (LIKE t INCLUDING GENERATED) PARTITION BY RANGE (id); ALTER TABLE top ATTACH PARTITION t DEFAULT; \
                 DELETE FROM t WHERE id = 13; ALTER TABLE top DETACH PARTITION t",
                "reset reset 40001",
            ),
            (
                "CREATE TYPE same AS (id int, f int, n int, s text, v varchar(10), m mood, p pair, w word, o outer_pair, r rows, g int, \
                 u int, _sync_version bigint); ALTER TABLE t OF same",
                "delta delta delta",
            ),
            (
                "CREATE TYPE same AS (id int, f int, n int, s text, v varchar(10), m mood, p pair, w word, o outer_pair, r rows, g int, \
                 u int, _sync_version bigint); ALTER TABLE t OF same; ALTER TABLE t NOT OF",
                "delta delta delta",
            ),
            ("COMMENT ON TABLE t IS 'x'; COMMENT ON COLUMN t.n IS 'y'", "delta delta delta"),
            ("GRANT SELECT ON t TO pg_monitor; REVOKE SELECT ON t FROM pg_monitor", "delta delta delta"),
            ("GRANT SELECT (n) ON t TO pg_monitor", "delta delta delta"),
            ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "delta delta delta"),
            ("ALTER TABLE t FORCE ROW LEVEL SECURITY; ALTER TABLE t NO FORCE ROW LEVEL SECURITY", "delta delta delta"),
            ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", "delta delta delta"),
            (
                "CREATE POLICY c ON t USING (f = 1); ALTER POLICY c ON t USING (f = 2); DROP POLICY c ON t",
                "delta delta delta",
            ),
            ("CREATE RULE c AS ON UPDATE TO t WHERE OLD.id < 0 DO INSTEAD NOTHING", "delta delta delta"),
            ("ALTER TABLE t DISABLE RULE idle", "delta delta delta"),
            (
                "ALTER TABLE t ENABLE REPLICA RULE idle; ALTER TABLE t ENABLE ALWAYS RULE idle; ALTER TABLE t ENABLE RULE idle",
                "delta delta delta",
            ),
            ("DROP RULE idle ON t", "delta delta delta"),
            ("CREATE PUBLICATION c FOR TABLE t; DROP PUBLICATION c", "delta delta delta"),
            ("CREATE VIEW c AS SELECT * FROM t", "delta delta delta"),
        ],
    );
}

#[test]
fn triggers() {
    check(
        PLAIN,
        &[
            ("ALTER TABLE t DISABLE TRIGGER users", "delta delta delta"),
            ("ALTER TABLE t ENABLE TRIGGER users", "delta delta delta"),
            ("ALTER TABLE t ENABLE REPLICA TRIGGER users", "delta delta delta"),
            ("ALTER TABLE t ENABLE ALWAYS TRIGGER users", "delta delta delta"),
            ("DROP TRIGGER users ON t", "delta delta delta"),
            (
                "CREATE TRIGGER more BEFORE UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION nothing()",
                "delta delta delta",
            ),
            ("ALTER TRIGGER users ON t RENAME TO users2", "delta delta delta"),
            ("ALTER TABLE t DISABLE TRIGGER ALL", "55000 55000 55000"),
            ("ALTER TABLE t DISABLE TRIGGER USER", "55000 55000 55000"),
            (
                "ALTER TABLE t DISABLE TRIGGER ALL; DELETE FROM t WHERE id = 13; ALTER TABLE t ENABLE TRIGGER ALL",
                "reset reset 40001",
            ),
            (
                "ALTER TABLE t DISABLE TRIGGER USER; DELETE FROM t WHERE id = 13; ALTER TABLE t ENABLE TRIGGER USER",
                "reset reset 40001",
            ),
            ("ALTER TABLE t ENABLE TRIGGER ALL", "reset reset 40001"),
            ("ALTER TABLE t DISABLE TRIGGER \"~syncline_stamp\"", "55000 55000 55000"),
            ("ALTER TABLE t DISABLE TRIGGER syncline_log", "55000 55000 55000"),
            (
                "ALTER TABLE t DISABLE TRIGGER syncline_log; DELETE FROM t WHERE id = 13; ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_log",
                "reset reset 40001",
            ),
            (
                "ALTER TABLE t DISABLE TRIGGER syncline_log; DELETE FROM t WHERE id = 13; ALTER TABLE t ENABLE TRIGGER syncline_log",
                "reset reset 40001",
            ),
            ("ALTER TABLE t ENABLE REPLICA TRIGGER syncline_log", "reset reset 40001"),
            ("ALTER TABLE t ENABLE ALWAYS TRIGGER \"~syncline_stamp\"", "reset reset 40001"),
            ("ALTER TABLE t DISABLE TRIGGER syncline_truncate; TRUNCATE t", "reset reset 40001"),
            ("DROP TRIGGER syncline_log ON t", "55000 55000 55000"),
            ("DROP TRIGGER syncline_log ON t; UPDATE t SET f = 0; SELECT sync_track('t', '{f}')", "reset reset 40001"),
            ("ALTER TRIGGER syncline_log ON t RENAME TO mine", "55000 55000 55000"),
            (
                "ALTER TRIGGER syncline_log ON t RENAME TO mine; UPDATE t SET f = 0 WHERE id = 13; ALTER TRIGGER mine ON t RENAME TO syncline_log",
                "reset reset 40001",
            ),
            (
                "ALTER TRIGGER syncline_log ON t RENAME TO mine; ALTER TABLE t DISABLE TRIGGER mine; DELETE FROM t WHERE id = 13; \
                 ALTER TABLE t ENABLE ALWAYS TRIGGER mine; ALTER TRIGGER mine ON t RENAME TO syncline_log",
                "reset reset 40001",
            ),
            (
                "CREATE OR REPLACE TRIGGER syncline_log AFTER UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION syncline.log()",
                "55000 55000 55000",
            ),
        ],
    );
}

#[test]
fn types() {
    check(
        PLAIN,
        &[
            ("ALTER TYPE mood ADD VALUE 'c' BEFORE 'a'", "delta delta delta"),
            ("ALTER TYPE mood RENAME VALUE 'a' TO 'z'", "reset delta 40001"),
            ("ALTER TYPE unused_mood RENAME VALUE 'a' TO 'z'", "delta delta delta"),
            ("ALTER TYPE mood RENAME TO mood2", "delta delta delta"),
            ("ALTER TYPE mood SET SCHEMA b", "delta delta delta"),
            ("ALTER TYPE mood OWNER TO pg_database_owner", "delta delta delta"),
            ("ALTER TYPE pair ADD ATTRIBUTE z int", "reset delta 40001"),
            ("ALTER TYPE pair DROP ATTRIBUTE y", "reset delta 40001"),
            ("ALTER TYPE pair RENAME ATTRIBUTE x TO z", "reset delta 40001"),
            ("ALTER TYPE inner_pair ADD ATTRIBUTE z int", "reset delta 40001"),
            ("ALTER TYPE unused ADD ATTRIBUTE z int", "delta delta delta"),
            ("ALTER TYPE unused ALTER ATTRIBUTE x TYPE bigint", "delta delta delta"),
            ("ALTER TABLE rows ADD COLUMN z int", "reset delta 40001"),
            ("ALTER TABLE rows DROP COLUMN y", "reset delta 40001"),
            ("ALTER TABLE rows RENAME COLUMN x TO z", "reset delta 40001"),
            ("ALTER TABLE rows ALTER COLUMN x SET NOT NULL", "delta delta delta"),
            ("ALTER DOMAIN word SET DEFAULT 'x'", "delta delta delta"),
            ("ALTER DOMAIN word ADD CONSTRAINT c CHECK (VALUE <> '') NOT VALID", "delta delta delta"),
            ("ALTER DOMAIN word RENAME TO word2", "delta delta delta"),
            ("ALTER DOMAIN word SET SCHEMA b", "delta delta delta"),
            ("ALTER DOMAIN word OWNER TO pg_database_owner", "delta delta delta"),
            ("CREATE CAST (mood AS json) WITH INOUT", "delta delta delta"),
            (
                "CREATE FUNCTION j(mood) RETURNS json LANGUAGE sql IMMUTABLE AS 'SELECT ''1''::json'; \
                 CREATE CAST (mood AS json) WITH FUNCTION j(mood); DROP CAST (mood AS json)",
                "reset delta 40001",
            ),
            (
                "CREATE TYPE same AS (id int, f int, n int, s text, v varchar(10), m mood, p pair, w word, o outer_pair, r rows, g int, \
                 u int, _sync_version bigint); ALTER TABLE t OF same; ALTER TYPE same RENAME ATTRIBUTE f TO f2 CASCADE; \
                 UPDATE t SET f2 = 0 WHERE id = 13; ALTER TYPE same RENAME ATTRIBUTE f2 TO f CASCADE",
                "reset reset 40001",
            ),
            (
                "CREATE FUNCTION j(mood) RETURNS json LANGUAGE sql IMMUTABLE AS 'SELECT ''1''::json'; CREATE CAST (mood AS json) WITH FUNCTION j(mood)",
                "reset delta 40001",
            ),
        ],
    );
}

#[test]
fn partitions() {
    check(
        PARTITIONED,
        &[
            ("TRUNCATE t", "reset reset 40001"),
            ("TRUNCATE one", "reset reset 40001"),
            ("TRUNCATE deep_low", "reset reset 40001"),
            ("TRUNCATE deep", "reset reset 40001"),
            (
                "CREATE TABLE three PARTITION OF t FOR VALUES IN (8); INSERT INTO three VALUES (1, 1, 1, 8)",
                "delta delta delta",
            ),
            ("CREATE SCHEMA c CREATE TABLE three PARTITION OF a.t FOR VALUES IN (8)", "delta delta delta"),
            ("CREATE TABLE rest PARTITION OF t DEFAULT", "delta delta delta"),
            ("ALTER TABLE t ATTACH PARTITION empty FOR VALUES IN (7)", "delta delta 40001"),
            ("ALTER TABLE t ATTACH PARTITION full_one FOR VALUES IN (7)", "reset reset 40001"),
            ("ALTER TABLE t DETACH PARTITION one", "reset reset 40001"),
            ("ALTER TABLE t DETACH PARTITION deep", "reset reset 40001"),
            ("ALTER TABLE deep DETACH PARTITION deep_low", "reset reset 40001"),
            ("ALTER TABLE t DETACH PARTITION one CONCURRENTLY", "reset reset -"),
            ("DROP TABLE one", "reset reset 40001"),
            ("DROP TABLE deep", "reset reset 40001"),
            ("ALTER TABLE one RENAME TO uno", "delta delta delta"),
            ("ALTER TABLE one SET SCHEMA b", "delta delta delta"),
            ("ALTER TABLE t RENAME COLUMN n TO n2", "reset delta 40001"),
            ("ALTER TABLE t ALTER COLUMN n TYPE bigint", "reset delta 40001"),
            ("ALTER TABLE t ADD COLUMN c float8 DEFAULT random()", "reset delta 40001"),
            ("ALTER TABLE one ALTER COLUMN n SET DEFAULT 1", "delta delta delta"),
            ("ALTER TABLE one SET UNLOGGED", "55000 55000 55000"),
            ("ALTER TABLE one SET UNLOGGED; ALTER TABLE one SET LOGGED", "reset reset 40001"),
            ("ALTER TABLE one DISABLE TRIGGER users", "delta delta delta"),
            ("ALTER TABLE one DISABLE TRIGGER ALL", "55000 55000 55000"),
            (
                "ALTER TABLE one DISABLE TRIGGER ALL; DELETE FROM one; ALTER TABLE one ENABLE TRIGGER ALL",
                "reset reset 40001",
            ),
            ("ALTER TABLE ONLY t DISABLE TRIGGER ALL", "55000 55000 55000"),
            (
                "ALTER TABLE t DISABLE TRIGGER ALL; DELETE FROM t WHERE id = 13; ALTER TABLE t ENABLE TRIGGER ALL",
                "reset reset 40001",
            ),
            ("ALTER TRIGGER syncline_log ON t RENAME TO mine", "55000 55000 55000"),
            ("CREATE INDEX ON t (n)", "delta delta delta"),
            (
                "CREATE INDEX c ON ONLY t (n); CREATE INDEX c1 ON one (n); ALTER INDEX c ATTACH PARTITION c1",
                "delta delta delta",
            ),
            ("CLUSTER one USING one_pkey", "delta delta delta"),
            ("VACUUM FULL t", "delta delta -"),
            ("REINDEX TABLE t", "delta delta -"),
        ],
    );
}

#[test]
fn ways_of_running_a_command() {
    check(
        PLAIN,
        &[
            ("DO $$ BEGIN ALTER TABLE t ALTER COLUMN n TYPE bigint; TRUNCATE parent; END $$", "reset delta 40001"),
            ("DO $$ BEGIN EXECUTE 'TRUNCATE t'; END $$", "reset reset 40001"),
            (
                "CREATE FUNCTION run() RETURNS void LANGUAGE sql AS 'ALTER TABLE t RENAME COLUMN n TO n2'; SELECT run()",
                "reset delta 40001",
            ),
            (
                "CREATE FUNCTION run() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS \
                 'BEGIN ALTER TABLE a.t DISABLE TRIGGER ALL; DELETE FROM a.t WHERE id = 13; ALTER TABLE a.t ENABLE TRIGGER ALL; END'; SELECT run()",
                "reset reset 40001",
            ),
            ("SET LOCAL session_replication_role = replica; TRUNCATE t", "reset reset 40001"),
            ("SET LOCAL session_replication_role = replica; ALTER TABLE t RENAME COLUMN n TO n2", "reset delta 40001"),
            (
                "SET LOCAL session_replication_role = replica; ALTER TABLE t ALTER COLUMN n TYPE bigint; DELETE FROM t WHERE id = 13",
                "reset delta 40001",
            ),
        ],
    );
}

#[test]
fn partition_whose_detaching_was_interrupted_is_told_to_retry() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster, PARTITIONED);
    let mut followers = stage.begin();
    let mut reader = cluster.connect();
    reader.batch_execute("BEGIN; SELECT count(*) FROM a.t").unwrap();
    // Detaching waits for whoever has the old partitions in view.
    stage.run("SET lock_timeout = '50 ms'");
    assert_eq!(
        state(&stage.client.batch_execute("ALTER TABLE t DETACH PARTITION one CONCURRENTLY").unwrap_err()),
        "55P03"
    );
    reader.batch_execute("ROLLBACK").unwrap();
    assert_eq!(stage.pull(&mut followers), ["40001", "40001"]);
    stage.run("RESET lock_timeout; DELETE FROM one; ALTER TABLE t DETACH PARTITION one FINALIZE");
    assert_eq!(stage.pull(&mut followers), ["reset", "reset"]);
}

#[test]
fn partition_that_is_detached_while_a_pull_waits_for_it_is_a_retry() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster, PARTITIONED);
    let [mut follower, _] = stage.begin();
    let session = |begin: &str| {
        let mut client = cluster.connect();
        client.batch_execute(&format!("SET search_path = a, public; {begin}")).unwrap();
        client
    };
    let waits = |what: &str| {
        cluster.wait_until(&format!("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'a.{what}'::regclass AND mode LIKE 'AccessExcl%'"));
    };
    // One keeps the detaching in its first half, one in its second; the pull's snapshot is from before both.
    let mut reader = session("BEGIN; SELECT FROM t");
    let mut keeper = session("BEGIN; LOCK TABLE ONLY one IN ACCESS SHARE MODE");
    let mut puller = session("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    let mut detacher = session("SELECT 1");
    std::thread::scope(|scope| {
        scope.spawn(move || detacher.batch_execute("ALTER TABLE t DETACH PARTITION one CONCURRENTLY").unwrap());
        cluster.wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
        reader.batch_execute("COMMIT").unwrap();
        waits("one");
        let pulling = scope.spawn(|| told(follower.try_pull(&mut puller)));
        cluster.wait_until("SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND relation = 'a.one'::regclass");
        keeper.batch_execute("COMMIT").unwrap();
        assert_eq!(pulling.join().unwrap(), "40001");
    });
}

#[test]
fn partition_is_not_followed_on_its_own() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster, PARTITIONED);
    stage.begin();
    let mut follower = Follower::new(r#"{"tables": {"one": {}}}"#);
    assert_eq!(told(follower.try_pull(&mut stage.client)), "0A000");
}

#[test]
fn names_decide_only_where_a_table_is_found() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster, PLAIN);
    let [_, mut follower] = stage.begin();
    for (command, expected) in [
        ("ALTER TABLE t RENAME TO t2", "42P01"),
        ("DELETE FROM t2 WHERE id = 1; ALTER TABLE t2 RENAME TO t", "delta"),
        ("ALTER SCHEMA a RENAME TO c", "42P01"),
        ("DELETE FROM c.t WHERE id = 3; ALTER SCHEMA c RENAME TO a", "delta"),
        ("SET search_path = public", "42P01"),
        ("SET search_path = a, public; ALTER TABLE t ENABLE ROW LEVEL SECURITY", "delta"),
    ] {
        stage.run(command);
        assert_eq!(told(follower.try_pull(&mut stage.client)), expected, "{command}");
    }
    // What row security shows a role is part of its shape; missing rights refuse it, and reset nobody.
    stage.run("CREATE ROLE reader; GRANT USAGE ON SCHEMA a TO reader; SET ROLE reader");
    for (command, expected) in [
        ("SELECT 1", "42501"),
        ("RESET ROLE; GRANT SELECT ON t TO reader; SET ROLE reader", "reset"),
        ("RESET ROLE; CREATE POLICY mine ON t USING (f = 1 AND id > 10); SET ROLE reader", "reset"),
        ("RESET ROLE; UPDATE t SET f = 2 WHERE id = 13; SET ROLE reader", "delta"),
        ("RESET ROLE; ALTER POLICY mine ON t USING (f = 1); SET ROLE reader", "reset"),
        ("RESET ROLE; CREATE POLICY another ON t FOR UPDATE USING (f = 1); SET ROLE reader", "delta"),
        ("RESET ROLE; ALTER TABLE t DISABLE ROW LEVEL SECURITY; SET ROLE reader", "reset"),
        ("RESET ROLE; DROP POLICY mine ON t; SET ROLE reader", "delta"),
        (
            "RESET ROLE; REVOKE SELECT ON t FROM reader; GRANT SELECT (id, f, _sync_version) ON t TO reader; SET ROLE reader",
            "delta",
        ),
        ("RESET ROLE; REVOKE SELECT (f) ON t FROM reader; SET ROLE reader", "42501"),
    ] {
        stage.run(command);
        assert_eq!(told(follower.try_pull(&mut stage.client)), expected, "{command}");
    }
}

#[test]
fn column_added_with_a_default_is_logged_as_every_row_reads_it() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster, PLAIN);
    stage.begin();
    stage.run("ALTER TABLE t ADD COLUMN c int DEFAULT 7; SELECT sync_track('t', '{c}')");
    let mut follower = Follower::new(r#"{"tables": {"t": {"columns": ["c"], "where": "c = 7"}}}"#);
    follower.pull(&mut stage.client);
    stage
        .run("DELETE FROM t WHERE id = 1; UPDATE t SET c = 8 WHERE id = 2; ALTER TABLE t ALTER COLUMN c SET DEFAULT 9");
    stage.run("DELETE FROM t WHERE id = 3");
    let gone = [1, 2, 3].map(|id| format!("delete {{\"id\": {id}}}"));
    assert_eq!(follower.pull(&mut stage.client), gone);
}

/// What README calls a limit.
#[test]
fn epoch_is_rotated_after_event_triggers_were_disabled() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster, PLAIN);
    let [mut follower, _] = stage.begin();
    stage
        .run("ALTER EVENT TRIGGER syncline_ddl DISABLE; ALTER TABLE t DISABLE TRIGGER ALL; DELETE FROM t WHERE id = 1");
    assert_eq!(told(follower.try_pull(&mut stage.client)), "55000");
    stage.run(
        "ALTER TABLE t ENABLE TRIGGER ALL; ALTER TABLE t ENABLE ALWAYS TRIGGER \"~syncline_stamp\"; \
         ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_log; ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_truncate; \
         ALTER EVENT TRIGGER syncline_ddl ENABLE ALWAYS; SELECT sync_rotate_epoch()",
    );
    assert_eq!(told(follower.try_pull(&mut stage.client)), "reset");
}
