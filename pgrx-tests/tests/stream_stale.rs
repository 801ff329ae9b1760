//! What the stream cannot tell: it says so, and goes on. After each step the client that pulled holds the shape's rows.

use postgres::Client;
use syncline_tests::slot::{Slot, run};
use syncline_tests::{Cluster, Install};

/// Reads all columns, whatever they are.
const ALL: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;
/// Reads the key and `f`.
const FEW: &str = r#"{"tables": {"t": {"columns": ["id"], "where": "f = 1"}}}"#;
/// Another table.
const OTHER: &str = r#"{"tables": {"o": {}}}"#;

const TABLES: &str = "CREATE EXTENSION IF NOT EXISTS syncline SCHEMA public; CREATE TYPE mood AS ENUM ('sad', 'ok'); \
     CREATE TABLE t (id int PRIMARY KEY, f int, n int, m mood, u int UNIQUE NOT NULL); \
     INSERT INTO t SELECT g, g % 2, g, 'ok', g FROM generate_series(1, 6) g; SELECT sync_track('t', '{f}'); \
     CREATE TABLE o (id int PRIMARY KEY); SELECT sync_track('o')";

/// Runs each command in a schema of its own: which shapes become stale by it, `a` (all), `f` (few) and `o` (other). Then a
/// row is written, which each shape that still can be pulled gets.
fn check(client: &mut Client, commands: &[(&str, &str)]) {
    for (i, (command, expected)) in commands.iter().enumerate() {
        run(client, &format!("CREATE SCHEMA s{i}; SET search_path = s{i}, public; {TABLES}"));
        let mut slot = Slot::new(client, &format!("s{i}"), &[("a", ALL), ("f", FEW), ("o", OTHER)]);
        run(client, command);
        let summaries = slot.follow(client);
        let stale: Vec<&str> = summaries.iter().filter_map(|line| line.strip_prefix("stale ")).collect();
        let shapes: String = ["a", "f", "o"]
            .into_iter()
            .filter(|id| stale.iter().any(|line| line.split(' ').next() == Some(*id)))
            .collect();
        assert_eq!(shapes, *expected, "{command}: {summaries:?}");
        run(client, "CREATE TABLE IF NOT EXISTS o (id int PRIMARY KEY); INSERT INTO o VALUES (1)");
        slot.follow(client);
        run(client, &format!("SELECT pg_drop_replication_slot('s{i}'); DROP SCHEMA s{i} CASCADE"));
    }
}

#[test]
fn each_barrier_makes_the_shapes_stale_that_read_what_it_touches() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    check(
        &mut client,
        &[
            ("TRUNCATE t", "af"),
            ("BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 1, 1, 'ok', 1); COMMIT", "af"),
            ("SELECT sync_untrack('t')", "af"),
            ("SELECT sync_untrack('t');; UPDATE t SET f = 2 WHERE id = 1;; SELECT sync_track('t', '{f}')", "af"),
            ("ALTER TABLE t ALTER COLUMN n TYPE bigint", "af"),
            ("ALTER TABLE t ALTER COLUMN f TYPE bigint", "af"),
            ("ALTER TABLE t ADD COLUMN c int DEFAULT 7", "af"),
            ("ALTER TABLE t DROP COLUMN n", "af"),
            ("ALTER TABLE t DROP COLUMN f CASCADE", "af"),
            ("ALTER TABLE t RENAME COLUMN f TO g", "af"),
            ("ALTER TABLE t RENAME TO t2", "afo"),
            ("ALTER TABLE t RENAME TO t2;; ALTER TABLE o RENAME TO t", "afo"),
            ("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'", "a"),
            ("ALTER TYPE mood ADD VALUE 'well'", ""),
            (
                "ALTER TABLE t DISABLE TRIGGER USER;; UPDATE t SET f = 0 WHERE id = 1;; ALTER TABLE t ENABLE TRIGGER ALL",
                "af",
            ),
            ("DROP TABLE t", "afo"),
            ("SELECT sync_rotate_epoch()", "afo"),
            ("VACUUM FULL t", ""),
            ("CREATE INDEX ON t (n)", ""),
            ("GRANT SELECT ON t TO PUBLIC", ""),
            ("SELECT sync_track('t', '{n}')", ""),
            ("SELECT sync_prune('0')", ""),
        ],
    );
}

#[test]
fn a_schema_that_takes_anothers_name_makes_its_shapes_stale() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, "CREATE EXTENSION syncline");
    for schema in ["blue", "green"] {
        run(
            &mut client,
            &format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (id int PRIMARY KEY); SELECT sync_track('{schema}.t')"
            ),
        );
    }
    run(&mut client, "INSERT INTO blue.t VALUES (1); INSERT INTO green.t VALUES (2)");
    let mut slot = Slot::new(&mut client, "s", &[("a", r#"{"tables": {"t": {"table": "blue.t"}}}"#)]);
    run(&mut client, "BEGIN; ALTER SCHEMA blue RENAME TO old; ALTER SCHEMA green RENAME TO blue; COMMIT");
    assert_eq!(slot.follow(&mut client), ["stale a barrier", "commit "]);
    slot.tell(
        &mut client,
        &[("INSERT INTO blue.t VALUES (3)", &[r#"upsert a t {"id": 3}"#, "commit a"]), ("DELETE FROM old.t", &[])],
    );
}

#[test]
fn a_slot_that_lags_behind_a_renamed_column_sends_what_came_before_and_never_stops() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLES);
    let mut slot = Slot::new(&mut client, "s", &[("a", ALL), ("o", OTHER)]);
    // All of it is decoded when the table is another one already.
    run(
        &mut client,
        "UPDATE t SET n = 10 WHERE id = 1;; ALTER TABLE t RENAME COLUMN f TO g;; UPDATE t SET n = 11 WHERE id = 1;; \
         INSERT INTO o VALUES (1);; ALTER TABLE t DROP COLUMN g CASCADE;; UPDATE t SET n = 12 WHERE id = 1;; DROP TABLE t",
    );
    assert_eq!(
        slot.follow(&mut client),
        [
            r#"upsert a t {"f": 1, "m": "ok", "n": 10, "u": 1, "id": 1}"#,
            "commit a,o",
            "stale a barrier",
            "commit o",
            "stale a schema",
            "commit o",
            r#"upsert o o {"id": 1}"#,
            "commit a,o",
            "stale a barrier",
            "commit o",
            "stale a schema",
            "commit o",
            "stale a barrier",
            "stale o barrier",
            "commit ",
        ]
    );
    run(&mut client, "CREATE TABLE t (id int PRIMARY KEY, f int, n text);; SELECT sync_track('t', '{f}')");
    assert_eq!(slot.follow(&mut client), ["stale a barrier", "commit o"]);
    slot.tell(
        &mut client,
        &[("INSERT INTO t VALUES (1, 1, 'x')", &[r#"upsert a t {"f": 1, "n": "x", "id": 1}"#, "commit a,o"])],
    );
}

#[test]
fn a_constant_that_a_column_of_another_type_refuses_does_not_stop_the_slot() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, s text, n int); SELECT sync_track('t', '{s}')",
    );
    let word = r#"{"tables": {"t": {"where": "s = 'word'"}}}"#;
    let mut slot = Slot::new(&mut client, "s", &[("w", word), ("n", r#"{"tables": {"t": {"columns": ["n"]}}}"#)]);
    slot.tell(
        &mut client,
        &[
            (
                "INSERT INTO t VALUES (1, 'word', 1)",
                &[r#"upsert w t {"n": 1, "s": "word", "id": 1}"#, r#"upsert n t {"n": 1, "id": 1}"#, "commit w,n"],
            ),
            ("ALTER TABLE t ALTER COLUMN s TYPE int USING 7", &["stale w barrier", "stale n barrier", "commit "]),
            ("UPDATE t SET n = 2", &["stale w schema", r#"upsert n t {"n": 2, "id": 1}"#, "commit n"]),
            ("ALTER TABLE t ALTER COLUMN s TYPE text USING 'word'", &["stale w barrier", "stale n barrier", "commit "]),
            (
                "UPDATE t SET n = 3",
                &[r#"upsert w t {"n": 3, "s": "word", "id": 1}"#, r#"upsert n t {"n": 3, "id": 1}"#, "commit w,n"],
            ),
        ],
    );
}

#[test]
fn partitions_with_rows_that_come_and_go_make_shapes_stale() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE p (id int, r int, PRIMARY KEY (r, id)) PARTITION BY LIST (r); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); SELECT sync_track('p'); INSERT INTO p VALUES (1, 1); \
         CREATE TABLE p2 (id int NOT NULL, r int NOT NULL, _sync_version bigint NOT NULL DEFAULT 0); INSERT INTO p2 VALUES (2, 2)",
    );
    let mut slot = Slot::new(&mut client, "s", &[("p", r#"{"tables": {"p": {}}}"#)]);
    slot.tell(
        &mut client,
        &[
            ("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2)", &["stale p barrier", "commit "]),
            (
                "UPDATE p SET id = 3 WHERE r = 2",
                &[r#"delete p p {"r": 2, "id": 2}"#, r#"upsert p p {"r": 2, "id": 3}"#, "commit p"],
            ),
            ("ALTER TABLE p DETACH PARTITION p2", &["stale p barrier", "commit "]),
            ("DELETE FROM p2", &[]),
            ("TRUNCATE p1", &["stale p barrier", "commit "]),
            ("INSERT INTO p VALUES (4, 1)", &[r#"upsert p p {"r": 1, "id": 4}"#, "commit p"]),
            ("DROP TABLE p1", &["stale p barrier", "commit "]),
            ("CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3)", &["stale p barrier", "commit "]),
            ("INSERT INTO p3 (id, r) VALUES (5, 3)", &[r#"upsert p p {"r": 3, "id": 5}"#, "commit p"]),
        ],
    );
}

#[test]
fn what_other_tables_decide_is_pulled() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE m (p int, who text, PRIMARY KEY (p, who)); CREATE TABLE g (who text PRIMARY KEY, n int); \
         CREATE TABLE i (id int PRIMARY KEY, p int, open boolean, n int); SELECT sync_track('m', log_inserts => true); \
         SELECT sync_track('g', log_inserts => true); SELECT sync_track('i', '{p,open}'); \
         INSERT INTO m VALUES (1, 'ann'); INSERT INTO i VALUES (1, 1, true), (2, 2, true), (3, 1, false)",
    );
    let shape = r#"{"tables": {"i": {"where": "open AND p IN (SELECT p FROM m WHERE who IN (SELECT who FROM g))"}, "g": {"where": "who = 'bob'"}}}"#;
    let mut slot = Slot::new(&mut client, "s", &[("r", shape), ("m", r#"{"tables": {"m": {}}}"#)]);
    slot.tell(
        &mut client,
        &[
            // A change of a level.
            ("INSERT INTO g VALUES ('ann')", &["stale r parent", "commit m"]),
            ("UPDATE g SET n = 1", &["stale r parent", "commit m"]),
            ("DELETE FROM m", &["stale r parent", r#"delete m m {"p": 1, "who": "ann"}"#, "commit m"]),
            (
                "INSERT INTO m VALUES (2, 'ann')",
                &["stale r parent", r#"upsert m m {"p": 2, "who": "ann"}"#, "commit m"],
            ),
            // A row that its own columns do not rule out.
            ("UPDATE i SET n = 1 WHERE id = 2", &["stale r parent", "commit m"]),
            ("UPDATE i SET open = false WHERE id = 2", &["stale r parent", "commit m"]),
            ("INSERT INTO i VALUES (4, 9, true)", &["stale r parent", "commit m"]),
            // Ruled out before and after.
            ("UPDATE i SET n = 2 WHERE id = 3", &[]),
            ("UPDATE i SET p = 2 WHERE id = 3", &[]),
            ("INSERT INTO i VALUES (5, 2, NULL)", &[]),
            ("DELETE FROM i WHERE id = 5", &[]),
        ],
    );
}

#[test]
fn a_transaction_larger_than_the_memory_for_it_is_pulled() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLES);
    run(&mut client, "SET syncline.stream_memory = '1MB'");
    let mut slot = Slot::new(&mut client, "s", &[("a", ALL), ("o", OTHER)]);
    slot.tell(
        &mut client,
        &[
            (
                "BEGIN; INSERT INTO t SELECT g, 1, g, 'ok', g FROM generate_series(100, 20000) g; INSERT INTO o VALUES (1); COMMIT",
                &["stale a size", "stale o size", "commit "],
            ),
            ("INSERT INTO o VALUES (2)", &[r#"upsert o o {"id": 2}"#, "commit a,o"]),
            ("DELETE FROM t WHERE id > 50", &["stale a size", "commit o"]),
        ],
    );
}

#[test]
fn rows_that_no_shape_wants_take_none_of_that_memory() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLES);
    run(&mut client, "SET syncline.stream_memory = '1MB'");
    let mut slot = Slot::new(&mut client, "s", &[("a", ALL)]);
    let many = "INSERT INTO t SELECT g, 2, g, 'ok', g FROM generate_series(100, 20000) g";
    slot.tell(
        &mut client,
        &[
            (many, &[]),
            ("UPDATE t SET n = -1 WHERE f = 2", &[]),
            // Among them is one that comes, and one that is known by then.
            (
                "BEGIN; UPDATE t SET f = 1 WHERE id = 100; UPDATE t SET n = -2 WHERE id > 50; UPDATE t SET f = 2 WHERE id = 3; COMMIT",
                &[
                    r#"delete a t {"id": 3}"#,
                    r#"upsert a t {"f": 1, "m": "ok", "n": -2, "u": 100, "id": 100}"#,
                    "commit a",
                ],
            ),
            ("DELETE FROM t WHERE id > 50", &[r#"delete a t {"id": 100}"#, "commit a"]),
        ],
    );
}

#[test]
fn code_of_users_types_does_not_run_while_decoding() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TABLE seen (n int); CREATE TYPE shout; \
         CREATE FUNCTION shout_in(cstring) RETURNS shout LANGUAGE internal IMMUTABLE STRICT AS 'textin'; \
         CREATE FUNCTION shout_out(shout) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'; \
         CREATE TYPE shout (INPUT = shout_in, OUTPUT = shout_out, LIKE = text); \
         CREATE FUNCTION as_json(shout) RETURNS json LANGUAGE sql AS 'SELECT pg_catalog.to_json(count(*)) FROM seen'; \
         CREATE CAST (shout AS json) WITH FUNCTION as_json(shout); CREATE TYPE pair AS (a citext, b hstore);  \
         CREATE TABLE t (id int PRIMARY KEY, f citext, p pair, s shout); SELECT sync_track('t', '{f}')",
    );
    let native = r#"{"tables": {"t": {"columns": ["f", "p"], "where": "f = 'ÄB'"}}}"#;
    let mut slot = Slot::new(&mut client, "s", &[("n", native), ("s", r#"{"tables": {"t": {}}}"#)]);
    slot.tell(
        &mut client,
        &[(
            "INSERT INTO t VALUES (1, 'äb', '(x,\"a=>b\")', 'hey')",
            &["stale s schema", r#"upsert n t {"f": "äb", "p": {"a": "x", "b": {"a": "b"}}, "id": 1}"#, "commit n"],
        )],
    );
}

#[test]
fn a_value_that_cannot_be_written_makes_its_shape_stale_and_no_other() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    // Compiled, and with an error for each number that is no label of an enum.
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TYPE odd; CREATE TYPE mood AS ENUM ('ok'); \
         CREATE FUNCTION odd_in(cstring) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'int4in'; \
         CREATE FUNCTION odd_out(odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'enum_out'; \
         CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, LIKE = int4); \
         CREATE TABLE t (id int PRIMARY KEY, n int, o odd); SELECT sync_track('t')",
    );
    let label: String = client.query_one("SELECT oid::text FROM pg_enum", &[]).unwrap().get(0);
    let few = r#"{"tables": {"t": {"columns": ["n"]}}}"#;
    let mut slot = Slot::new(&mut client, "s", &[("a", r#"{"tables": {"t": {}}}"#), ("f", few)]);
    slot.tell(
        &mut client,
        &[
            ("INSERT INTO t VALUES (1, 1, '7')", &["stale a schema", r#"upsert f t {"n": 1, "id": 1}"#, "commit f"]),
            (
                &format!("UPDATE t SET o = '{label}'"),
                &[r#"upsert a t {"n": 1, "o": "ok", "id": 1}"#, r#"upsert f t {"n": 1, "id": 1}"#, "commit a,f"],
            ),
        ],
    );
}
