//! Kinds of tables, of writes and of alterations: the law at each pull, and who is reset by what.

use postgres::Client;
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::stage::{IN_SHAPE, Stage};
use syncline_tests::{Cluster, Install};

#[test]
fn partitions_come_move_and_go_without_a_lost_row() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "partitions",
        "CREATE TABLE t (id int, f int, region int, PRIMARY KEY (region, id)) PARTITION BY LIST (region); \
         CREATE TABLE one PARTITION OF t FOR VALUES IN (1); \
         CREATE TABLE two (junk text, region int NOT NULL, f int, id int NOT NULL, more text); \
         ALTER TABLE two DROP COLUMN junk, DROP COLUMN more; ALTER TABLE t ATTACH PARTITION two FOR VALUES IN (2); \
         CREATE TABLE deep PARTITION OF t FOR VALUES IN (3, 4) PARTITION BY RANGE (id); \
         CREATE TABLE deep_low PARTITION OF deep FOR VALUES FROM (0) TO (100); \
         CREATE TABLE deep_high PARTITION OF deep FOR VALUES FROM (100) TO (200); \
         INSERT INTO t SELECT g, g % 2, g % 4 + 1 FROM generate_series(1, 20) g; \
         SELECT sync_track('t', filter_columns => '{f}')",
    );
    stage.tell(
        IN_SHAPE,
        &[
            (
                "UPDATE t SET region = 1 WHERE id = 1",
                &[r#"delete {"region": 2, "id": 1}"#, r#"upsert {"region": 1, "id": 1}"#],
            ),
            ("DELETE FROM two WHERE id = 5", &[r#"delete {"region": 2, "id": 5}"#]),
            ("UPDATE two SET f = 0 WHERE id = 9", &[r#"delete {"region": 2, "id": 9}"#]),
            ("INSERT INTO deep_high VALUES (150, 1, 4)", &[r#"upsert {"region": 4, "id": 150}"#]),
            (
                "UPDATE deep SET id = 50 WHERE id = 150",
                &[r#"delete {"region": 4, "id": 150}"#, r#"upsert {"region": 4, "id": 50}"#],
            ),
        ],
    );
    let mut follower = Follower::new(IN_SHAPE);
    stage.pull(&mut follower);
    for alteration in [
        "ALTER TABLE t DETACH PARTITION two",
        "ALTER TABLE t ATTACH PARTITION two FOR VALUES IN (2)",
        "DROP TABLE deep_low",
        "TRUNCATE one",
        "TRUNCATE t",
        "CREATE TABLE late (region int NOT NULL, f int, id int NOT NULL, _sync_version bigint NOT NULL DEFAULT 0); INSERT INTO late VALUES (7, 1, 1, 0); \
         ALTER TABLE t ATTACH PARTITION late FOR VALUES IN (7)",
    ] {
        stage.run("INSERT INTO t VALUES (60, 1, 1) ON CONFLICT DO NOTHING");
        stage.pull(&mut follower);
        stage.run(alteration);
        assert_eq!(stage.pull(&mut follower)[0], "reset schema", "{alteration}");
    }
    stage.run("CREATE TABLE three PARTITION OF t FOR VALUES IN (8); INSERT INTO three VALUES (1, 1, 8)");
    assert_eq!(stage.pull(&mut follower), [r#"upsert {"region": 8, "id": 1}"#], "an empty new partition resets nobody");
    stage.run("ALTER TABLE t DETACH PARTITION three CONCURRENTLY");
    assert_eq!(stage.pull(&mut follower)[0], "reset schema");
    stage.run("INSERT INTO three VALUES (2, 1, 8); DROP TABLE three");
    assert_eq!(stage.pull(&mut follower), Vec::<String>::new(), "a detached one is no longer ours");
}

#[test]
fn every_way_of_writing_is_seen() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "writes",
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 9); \
         CREATE TABLE t (id int PRIMARY KEY, f int, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, \
                         q int REFERENCES parent ON DELETE SET NULL, n int DEFAULT 0); \
         CREATE VIEW v AS SELECT id, f FROM t; \
         INSERT INTO t SELECT g, 1, g, g FROM generate_series(1, 6) g; SELECT sync_track('t', filter_columns => '{f}'); \
         CREATE TABLE source (id int, f int); INSERT INTO source VALUES (1, 0), (2, 1), (7, 1)",
    );
    stage.tell(
        IN_SHAPE,
        &[
            ("COPY t (id, f) FROM PROGRAM 'echo 20,1' (FORMAT csv)", &[r#"upsert {"id": 20}"#]),
            (
                "MERGE INTO t USING source s ON t.id = s.id WHEN MATCHED AND s.f = 0 THEN DELETE \
                 WHEN MATCHED THEN UPDATE SET n = 1 WHEN NOT MATCHED THEN INSERT (id, f) VALUES (s.id, s.f)",
                &[r#"delete {"id": 1}"#, r#"upsert {"id": 2}"#, r#"upsert {"id": 7}"#],
            ),
            ("DELETE FROM parent WHERE id = 3", &[r#"delete {"id": 3}"#]),
            ("UPDATE t SET p = NULL WHERE id = 4; DELETE FROM parent WHERE id = 4", &[r#"upsert {"id": 4}"#]),
            ("UPDATE t SET q = NULL WHERE id = 2; UPDATE parent SET id = 50 WHERE id = 2", &[r#"upsert {"id": 2}"#]),
            ("INSERT INTO t VALUES (5, 0) ON CONFLICT (id) DO UPDATE SET f = EXCLUDED.f", &[r#"delete {"id": 5}"#]),
            ("UPDATE v SET f = 1 WHERE id = 5", &[r#"upsert {"id": 5}"#]),
            ("DELETE FROM v WHERE id = 5", &[r#"delete {"id": 5}"#]),
            (
                "SET session_replication_role = replica; DELETE FROM t WHERE id = 6; INSERT INTO t VALUES (8, 1); \
                 RESET session_replication_role",
                &[r#"delete {"id": 6}"#, r#"upsert {"id": 8}"#],
            ),
            (
                "BEGIN; UPDATE t SET id = 100 WHERE id = 8; UPDATE t SET id = 8 WHERE id = 7; \
                 UPDATE t SET id = 7 WHERE id = 100; COMMIT",
                &[r#"upsert {"id": 8}"#, r#"upsert {"id": 7}"#],
            ),
            ("UPDATE t SET n = n WHERE id = 8", &[]),
            (
                "BEGIN; UPDATE t SET n = n + 1 WHERE id = 8; UPDATE t SET n = n WHERE id = 8; COMMIT",
                &[r#"upsert {"id": 8}"#],
            ),
            (
                "BEGIN; SAVEPOINT a; DELETE FROM t WHERE id = 8; ROLLBACK TO a; UPDATE t SET f = 3 WHERE id = 7; \
                 SAVEPOINT b; UPDATE t SET f = 1 WHERE id = 7; RELEASE b; COMMIT",
                &[r#"upsert {"id": 7}"#],
            ),
            (
                "WITH gone AS (DELETE FROM t WHERE id = 7 RETURNING id) INSERT INTO t SELECT id + 20, 1 FROM gone",
                &[r#"delete {"id": 7}"#, r#"upsert {"id": 27}"#],
            ),
            ("BEGIN; DELETE FROM t WHERE id = 8; INSERT INTO t VALUES (8, 1); COMMIT", &[r#"upsert {"id": 8}"#]),
            ("BEGIN; DELETE FROM t WHERE id = 8; INSERT INTO t VALUES (8, 0); COMMIT", &[r#"delete {"id": 8}"#]),
        ],
    );
}

#[test]
fn keys_and_filters_of_hard_types_are_told_by_their_bytes() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "bytes",
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE t (name text COLLATE blind, n numeric, x float8, f int, PRIMARY KEY (name, n, x)); \
         INSERT INTO t VALUES ('a', 1.0, 0, 1); SELECT sync_track('t', filter_columns => '{f}')",
    );
    let key = |name: &str, n: &str, x: &str| format!(r#"{{"name": "{name}", "n": {n}, "x": {x}}}"#);
    let (delete, upsert) = (|key: String| format!("delete {key}"), |key: String| format!("upsert {key}"));
    let steps = [
        ("UPDATE t SET name = 'A'", delete(key("a", "1.0", "0")), upsert(key("A", "1.0", "0"))),
        ("UPDATE t SET n = 1.00", delete(key("A", "1.0", "0")), upsert(key("A", "1.00", "0"))),
        (
            "BEGIN; DELETE FROM t; INSERT INTO t VALUES ('a', 1, 0, 1); COMMIT",
            delete(key("A", "1.00", "0")),
            upsert(key("a", "1", "0")),
        ),
    ];
    // JSON has no negative zero: the key's bytes change, its text does not.
    stage.tell(IN_SHAPE, &[("UPDATE t SET x = '-0'", &[r#"upsert {"name": "a", "n": 1.0, "x": 0}"#])]);
    for (sql, gone, come) in &steps {
        let mut follower = Follower::new(IN_SHAPE);
        stage.pull(&mut follower);
        stage.run(sql);
        assert_eq!(stage.pull(&mut follower), [gone.as_str(), come.as_str()], "{sql}");
    }

    stage.begin(
        "toast",
        "CREATE TABLE t (id text PRIMARY KEY, long text, more text, f int); ALTER TABLE t ALTER long SET STORAGE EXTERNAL; \
         INSERT INTO t VALUES ('k', repeat('x', 100000), repeat('y', 100000), 1); \
         SELECT sync_track('t', filter_columns => '{long,f}')",
    );
    stage.tell(
        r#"{"tables": {"t": {"columns": ["f"], "where": "long LIKE 'x%'"}}}"#,
        &[
            ("UPDATE t SET f = 2", &[r#"upsert {"id": "k"}"#]),
            ("UPDATE t SET long = 'y' || long", &[r#"delete {"id": "k"}"#]),
            ("UPDATE t SET long = repeat('x', 200000)", &[r#"upsert {"id": "k"}"#]),
            ("UPDATE t SET id = 'other'", &[r#"delete {"id": "k"}"#, r#"upsert {"id": "other"}"#]),
            ("DELETE FROM t", &[r#"delete {"id": "other"}"#]),
        ],
    );
}

#[test]
fn users_triggers_generated_columns_and_rules_do_not_hide_a_change() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "triggers",
        "CREATE TABLE t (id int PRIMARY KEY, f int, twice int GENERATED ALWAYS AS (f * 2) STORED); \
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.f := NEW.f - 10; RETURN NEW; END'; \
         CREATE TRIGGER \"~~late\" BEFORE INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.f >= 10) EXECUTE FUNCTION late(); \
         INSERT INTO t VALUES (1, 1), (2, 2); SELECT sync_track('t', filter_columns => '{f,twice}')",
    );
    stage.tell(
        r#"{"tables": {"t": {"where": "twice = 2"}}}"#,
        &[
            ("UPDATE t SET f = 2 WHERE id = 1", &[r#"delete {"id": 1}"#]),
            ("UPDATE t SET f = 11 WHERE id = 2", &[r#"upsert {"id": 2}"#]),
            ("INSERT INTO t VALUES (3, 11)", &[r#"upsert {"id": 3}"#]),
            ("UPDATE t SET f = 12 WHERE id = 3", &[r#"delete {"id": 3}"#]),
        ],
    );
    stage.run(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW._sync_version := 7; RETURN NEW; END'; \
         CREATE TRIGGER \"~~meddle\" BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION meddle()",
    );
    assert_eq!(state(&stage.client.batch_execute("UPDATE t SET f = 1").unwrap_err()), "55000");
    stage.begin(
        "rules",
        "CREATE TABLE t (id int PRIMARY KEY, f int, is_deleted boolean DEFAULT false); INSERT INTO t VALUES (1, 1), (2, 1); \
         CREATE RULE soft AS ON DELETE TO t DO INSTEAD UPDATE t SET is_deleted = true WHERE id = OLD.id; \
         SELECT sync_track('t', filter_columns => '{f,is_deleted}')",
    );
    stage.tell(
        r#"{"tables": {"t": {"where": "f = 1 AND NOT is_deleted"}}}"#,
        &[
            ("DELETE FROM t WHERE id = 1", &[r#"delete {"id": 1}"#]),
            ("UPDATE t SET is_deleted = false", &[r#"upsert {"id": 2}"#, r#"upsert {"id": 1}"#]),
        ],
    );
}

#[test]
fn tables_are_told_apart_by_more_than_their_names() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "names",
        "CREATE TABLE t (id int PRIMARY KEY, f int); INSERT INTO t VALUES (1, 1); SELECT sync_track('t', '{f}')",
    );
    let mut follower = Follower::new(IN_SHAPE);
    stage.pull(&mut follower);
    stage.run("CREATE TEMP TABLE t (id int PRIMARY KEY, f int); INSERT INTO pg_temp.t VALUES (9, 1)");
    assert_eq!(stage.pull(&mut follower), Vec::<String>::new(), "a temporary table shadows nothing");
    stage.run("DROP TABLE pg_temp.t; ALTER TABLE t RENAME TO old; CREATE TABLE t (LIKE old INCLUDING ALL); SELECT sync_track('t', '{f}')");
    assert_eq!(stage.pull(&mut follower), ["reset schema"], "another table under the name");
    stage.run("DROP TABLE t; ALTER TABLE old RENAME TO t");
    assert_eq!(stage.pull(&mut follower), ["reset schema", r#"upsert {"id": 1}"#]);
    stage.run("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, f int); SELECT sync_track('t', '{f}'); INSERT INTO t VALUES (2, 1)");
    assert_eq!(stage.pull(&mut follower), ["reset schema", r#"upsert {"id": 2}"#]);
    stage.run("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t (id int PRIMARY KEY, f int); SELECT sync_track('elsewhere.t', '{f}')");
    stage.run("SET search_path = elsewhere, names, public");
    assert_eq!(stage.pull(&mut follower), ["reset schema"], "the name means another table now");
    assert_eq!(follower.count(), 0);
    stage.begin(
        "odd",
        "CREATE TABLE \"ta\"\"b.le\n😀\" (\"k\"\"ey\n\" int PRIMARY KEY, \"f.'x\\\" int); \
         INSERT INTO \"ta\"\"b.le\n😀\" VALUES (1, 1); SELECT sync_track('\"ta\"\"b.le\n😀\"', ARRAY['f.''x\\'])",
    );
    stage.tell(
        r#"{"tables": {"x": {"table": "\"ta\"\"b.le\n😀\"", "where": "\"f.'x\\\" = 1"}}}"#,
        &[("DELETE FROM \"ta\"\"b.le\n😀\"", &["delete {\"k\\\"ey\\n\": 1}"])],
    );
}

#[test]
fn hundreds_of_open_subtransactions_are_one_writer() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin("many", "CREATE TABLE t (id int PRIMARY KEY, f int); SELECT sync_track('t', '{f}')");
    let mut follower = Follower::new(IN_SHAPE);
    stage.pull(&mut follower);
    let mut writer = cluster.connect();
    writer.batch_execute("SET search_path = many, public; BEGIN").unwrap();
    for id in 0..200 {
        writer.batch_execute(&format!("SAVEPOINT s{id}; INSERT INTO t VALUES ({id}, 1)")).unwrap();
        if id % 50 == 7 {
            stage.run(&format!("INSERT INTO t VALUES ({}, 1)", 1000 + id));
            assert_eq!(stage.pull(&mut follower).len(), 1);
        }
    }
    writer.batch_execute("ROLLBACK TO s150; COMMIT").unwrap();
    assert_eq!(stage.pull(&mut follower).len(), 150);
}

/// An UPDATE of nothing sends nothing; but a generated column may come out otherwise all the same.
#[test]
fn update_that_changes_nothing_sends_nothing() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "same",
        "CREATE TABLE t (id int PRIMARY KEY, f int, n numeric, b text); ALTER TABLE t ALTER b SET STORAGE external; \
         SELECT sync_track('t', '{f}'); INSERT INTO t VALUES (1, 1, 1.0, repeat('x', 9000)), (2, 1, NULL, 'y')",
    );
    stage.tell(
        IN_SHAPE,
        &[
            ("UPDATE t SET f = f, n = n, b = b", &[]),
            ("UPDATE t SET n = 1.00 WHERE id = 1", &[r#"upsert {"id": 1}"#]),
            ("UPDATE t SET b = b || 'z' WHERE id = 1", &[r#"upsert {"id": 1}"#]),
            (
                "INSERT INTO t VALUES (2, 1, NULL, 'y') ON CONFLICT (id) DO UPDATE SET n = excluded.n, b = excluded.b",
                &[],
            ),
        ],
    );
    stage.begin(
        "made",
        "CREATE FUNCTION made(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; \
         CREATE TABLE t (id int PRIMARY KEY, f int, g int GENERATED ALWAYS AS (made(f)) STORED); \
         INSERT INTO t VALUES (1, 1); SELECT sync_track('t', '{f}'); \
         CREATE OR REPLACE FUNCTION made(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
    );
    stage.tell(IN_SHAPE, &[("UPDATE t SET f = f", &[r#"upsert {"id": 1}"#])]);
}

/// A few new rows are read without a query, more of them by one; of columns whose texts depend on settings, by a query at their places.
#[test]
fn few_rows_come_as_many_do() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    let shape =
        r#"{"tables": {"t": {"where": "f = 1"}, "u": {}, "v": {"where": "half > 1.5"}, "w": {}}, "int8": "string"}"#;
    stage.begin(
        "few",
        "CREATE TABLE t (gone int, id bigint PRIMARY KEY, f int, b text, twice int GENERATED ALWAYS AS (f * 2) STORED); \
         ALTER TABLE t ALTER b SET STORAGE external, DROP COLUMN gone; \
         CREATE TABLE u (at timestamptz, day date, name varchar(9) PRIMARY KEY, j jsonb); \
         CREATE TABLE v (id int PRIMARY KEY, half float8); \
         CREATE TABLE w (took interval, id int PRIMARY KEY, paid money, days daterange, share float8); \
         SELECT sync_track('t', '{f}'), sync_track('u'), sync_track('v', '{half}'), sync_track('w'); \
         SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET extra_float_digits = -3",
    );
    let mut follower = Follower::new(shape);
    stage.pull(&mut follower);
    for (first, last) in [(1, 1), (2, 101), (102, 202), (203, 703)] {
        let rows = format!("generate_series({first}, {last}) g");
        stage.run(&format!("INSERT INTO t SELECT g, 1, 'row ' || g FROM {rows}"));
        assert_eq!(stage.pull(&mut follower).len(), last - first + 1);
        stage.run(&format!(
            "INSERT INTO t SELECT 1000 + g, g % 2, NULL FROM {rows}; \
             INSERT INTO u SELECT now(), '2024-02-29', 'n' || g, '{{\"a\": 1.50}}' FROM {rows}"
        ));
        stage.pull(&mut follower);
        stage.run(&format!(
            "INSERT INTO w SELECT '1 day 2 hours', g, 3.5::money, '[2024-02-28,2024-03-01]', g / 3.0::float8 FROM {rows}; \
             UPDATE w SET share = share / 7 WHERE id = {first}"
        ));
        assert_eq!(stage.pull(&mut follower).len(), last - first + 1);
        stage.run(&format!("UPDATE t SET b = repeat('x', 30000) WHERE id BETWEEN {first} AND {last}"));
        assert_eq!(stage.pull(&mut follower).len(), last - first + 1);
    }
    stage.run("INSERT INTO v VALUES (1, 1.1), (2, 2.000000000000001); INSERT INTO t VALUES (3000, 1, 'beside it')");
    assert_eq!(stage.pull(&mut follower).len(), 2);
    let mut late = cluster.connect();
    late.batch_execute("SET search_path = few, public; BEGIN; INSERT INTO t VALUES (2001, 1, 'late')").unwrap();
    stage.run("INSERT INTO t VALUES (2002, 1, 'early'), (2003, 0, 'never')");
    assert_eq!(stage.pull(&mut follower), [r#"upsert {"id": "2002"}"#]);
    late.batch_execute("COMMIT").unwrap();
    stage.run("UPDATE t SET b = 'later' WHERE id = 2002");
    let mut both = stage.pull(&mut follower);
    both.sort_unstable();
    assert_eq!(both, [r#"upsert {"id": "2001"}"#, r#"upsert {"id": "2002"}"#]);
}

/// A condition that reads no column is one all the same.
#[test]
fn few_rows_of_a_constant_condition_are_all_or_none() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin("constant", "CREATE TABLE t (id int PRIMARY KEY); SELECT sync_track('t')");
    let shape = |condition: &str| format!(r#"{{"tables": {{"t": {{"where": "{condition}"}}}}}}"#);
    let none: [&[&str]; 2] = [&[], &[]];
    let all: [&[&str]; 2] = [&[r#"upsert {"id": 1}"#], &[r#"delete {"id": 1}"#]];
    for (condition, [came, went]) in [("false", none), ("NOT true", none), ("true", all), ("NOT false", all)] {
        stage.tell(&shape(condition), &[("INSERT INTO t VALUES (1)", came), ("DELETE FROM t", went)]);
    }
}

/// What is in progress for the cursor and still is has left nothing to look for.
#[test]
fn transactions_that_stay_open_are_not_looked_up() {
    const OPEN: i64 = 200;
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &[("max_prepared_transactions", "300")]);
    let mut client = cluster.connect();
    client.batch_execute("CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int)").unwrap();
    client.batch_execute("SELECT sync_track('t'); INSERT INTO t SELECT g, 1 FROM generate_series(1, 1000) g").unwrap();
    for n in 1..=OPEN {
        // Between them others end: each stands in the snapshots for itself.
        let open = format!("BEGIN; INSERT INTO t VALUES ({}, 1); PREPARE TRANSACTION 'open {n}'", -n);
        client.batch_execute(&format!("{open}; UPDATE t SET f = f + 1 WHERE id = {n}")).unwrap();
    }
    let pull = |client: &mut Client, since: Option<&str>| -> (i64, String, i64) {
        let sql = "SELECT count(*) FILTER (WHERE op <> 'commit'), max(cursor) \
                   FROM sync_changes($1::text, '{\"tables\": {\"t\": {}}}')";
        let row = client.query_one(sql, &[&since]).unwrap();
        client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
        let scans = "SELECT sum(idx_scan)::int8 FROM pg_stat_all_indexes WHERE relname IN ('t', 'log')";
        (row.get(0), row.get(1), client.query_one(scans, &[]).unwrap().get(0))
    };
    let (_, since, before) = pull(&mut client, None);
    client.batch_execute("UPDATE t SET f = 0 WHERE id = 7").unwrap();
    let (count, since, after) = pull(&mut client, Some(&since));
    assert_eq!(count, 1);
    assert!(after - before < 10, "{} look-ups", after - before);
    for n in 1..=OPEN {
        let end = if n % 2 == 0 { "COMMIT" } else { "ROLLBACK" };
        client.batch_execute(&format!("{end} PREPARED 'open {n}'")).unwrap();
    }
    let (count, ..) = pull(&mut client, Some(&since));
    assert_eq!(count, OPEN / 2, "what has ended since is found");
}
