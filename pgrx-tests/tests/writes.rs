//! Writes that come from elsewhere: users' triggers of every kind, bulk statements, partitions that rows move between,
//! and what a logical-replication subscriber applies.

use std::io::Write as _;
use std::time::{Duration, Instant};

use postgres::Client;
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::stage::{IN_SHAPE, Stage};
use syncline_tests::{Cluster, Install};

#[test]
fn triggers_that_write_are_followed_whenever_they_fire() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "instead",
        "CREATE TABLE t (id int PRIMARY KEY, f int); CREATE VIEW v AS SELECT id, f = 1 AS on_top FROM t; \
         CREATE FUNCTION through() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF TG_OP = 'INSERT' THEN INSERT INTO t VALUES (NEW.id, NEW.on_top::int); RETURN NEW; END IF; \
             IF TG_OP = 'UPDATE' THEN UPDATE t SET id = NEW.id, f = NEW.on_top::int WHERE id = OLD.id; RETURN NEW; END IF; \
             DELETE FROM t WHERE id = OLD.id; RETURN OLD; END $$; \
         CREATE TRIGGER through INSTEAD OF INSERT OR UPDATE OR DELETE ON v FOR EACH ROW EXECUTE FUNCTION through(); \
         SELECT sync_track('t', '{f}')",
    );
    stage.tell(
        IN_SHAPE,
        &[
            ("INSERT INTO v VALUES (1, true), (2, false)", &[r#"upsert {"id": 1}"#]),
            ("UPDATE v SET on_top = NOT on_top", &[r#"delete {"id": 1}"#, r#"upsert {"id": 2}"#]),
            ("UPDATE v SET id = 3 WHERE id = 2", &[r#"delete {"id": 2}"#, r#"upsert {"id": 3}"#]),
            ("DELETE FROM v", &[r#"delete {"id": 3}"#]),
        ],
    );
    // At commit, the trigger takes row 9 out of the shape, or puts it back, after everything else.
    stage.begin(
        "late",
        "CREATE TABLE t (id int PRIMARY KEY, f int); INSERT INTO t VALUES (1, 1), (9, 1); \
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             UPDATE t SET f = 1 - f WHERE id = 9; RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON t DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION late()",
    );
    stage.run("SELECT sync_track('t', '{f}')");
    stage.tell(
        IN_SHAPE,
        &[
            ("BEGIN; INSERT INTO t VALUES (2, 1); DELETE FROM t WHERE id = 1; UPDATE t SET f = 1 WHERE id = 2; COMMIT", &[
                r#"delete {"id": 1}"#, r#"delete {"id": 9}"#, r#"upsert {"id": 2}"#,
            ]),
            ("UPDATE t SET f = f WHERE id = 2", &[r#"upsert {"id": 9}"#]),
            ("BEGIN; DELETE FROM t WHERE id = 9; INSERT INTO t VALUES (9, 0); COMMIT", &[r#"delete {"id": 9}"#]),
            ("BEGIN; SET CONSTRAINTS ALL IMMEDIATE; UPDATE t SET f = 1 WHERE id = 2; COMMIT", &[
                r#"upsert {"id": 9}"#,
            ]),
        ],
    );
    // Per statement, with the rows of the statement; it moves them on to another key.
    stage.begin(
        "statements",
        "CREATE TABLE t (id int PRIMARY KEY, f int); INSERT INTO t VALUES (1, 1), (2, 1); \
         CREATE FUNCTION after_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF; \
             IF TG_OP = 'DELETE' THEN INSERT INTO t SELECT id + 100, f FROM gone; \
             ELSE UPDATE t SET id = t.id + 10 FROM come WHERE come.id = t.id AND come.f = 2; END IF; RETURN NULL; END $$; \
         CREATE TRIGGER u AFTER UPDATE ON t REFERENCING OLD TABLE AS gone NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION after_all(); \
         CREATE TRIGGER i AFTER INSERT ON t REFERENCING NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION after_all(); \
         CREATE TRIGGER d AFTER DELETE ON t REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION after_all(); \
         SELECT sync_track('t', '{f}')",
    );
    stage.tell(
        r#"{"tables": {"t": {"where": "f >= 1"}}}"#,
        &[
            ("UPDATE t SET f = 2 WHERE id = 1", &[r#"delete {"id": 1}"#, r#"upsert {"id": 11}"#]),
            ("INSERT INTO t VALUES (3, 2)", &[r#"upsert {"id": 13}"#]),
            (
                "DELETE FROM t WHERE id IN (2, 13)",
                &[r#"delete {"id": 2}"#, r#"delete {"id": 13}"#, r#"upsert {"id": 102}"#, r#"upsert {"id": 113}"#],
            ),
        ],
    );
    // A trigger that swallows a write, and one that makes another of it.
    stage.begin(
        "swallow",
        "CREATE TABLE t (id int PRIMARY KEY, f int); INSERT INTO t VALUES (1, 1), (2, 1), (3, 1); \
         CREATE FUNCTION soft() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF OLD.id = 1 THEN RETURN NULL; END IF; UPDATE t SET f = 0 WHERE id = OLD.id; RETURN NULL; END $$; \
         CREATE TRIGGER soft BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION soft(); SELECT sync_track('t', '{f}')",
    );
    stage.tell(
        IN_SHAPE,
        &[
            ("DELETE FROM t WHERE id < 3", &[r#"delete {"id": 2}"#]),
            ("UPDATE t SET f = 1 WHERE id = 2", &[r#"upsert {"id": 2}"#]),
            ("BEGIN; DELETE FROM t WHERE id = 3; UPDATE t SET f = 1 WHERE id = 3; COMMIT", &[r#"upsert {"id": 3}"#]),
        ],
    );
}

#[test]
fn bulk_statements_and_rows_that_move_between_partitions_are_seen() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin("frozen", "CREATE TABLE t (id int PRIMARY KEY, f int); SELECT sync_track('t', '{f}')");
    let mut follower = Follower::new(IN_SHAPE);
    stage.pull(&mut follower);
    // Frozen rows are visible to every snapshot; the TRUNCATE that goes before makes a barrier.
    stage.run("BEGIN; TRUNCATE t; COPY t (id, f) FROM PROGRAM 'echo 1,1; echo 2,0' (FORMAT csv, FREEZE); COMMIT");
    assert_eq!(stage.pull(&mut follower), ["reset schema", r#"upsert {"id": 1}"#]);
    stage.run("UPDATE t SET f = 1 - f");
    assert_eq!(stage.pull(&mut follower), [r#"delete {"id": 1}"#, r#"upsert {"id": 2}"#]);
    stage.run("BEGIN; TRUNCATE t; INSERT INTO t VALUES (2, 1); DELETE FROM t; INSERT INTO t VALUES (3, 1); COMMIT");
    assert_eq!(stage.pull(&mut follower), ["reset schema", r#"upsert {"id": 3}"#]);
    stage.run("VACUUM (FREEZE, FULL) t");
    assert_eq!(stage.pull(&mut follower), Vec::<String>::new());
    let tree = "CREATE TABLE t (id int, region int, f int, n int, PRIMARY KEY (region, id)) PARTITION BY LIST (region); \
         CREATE TABLE one (f int, n int, region int NOT NULL, id int NOT NULL); ALTER TABLE t ATTACH PARTITION one FOR VALUES IN (1); \
         CREATE TABLE two PARTITION OF t FOR VALUES IN (2) PARTITION BY RANGE (id); \
         CREATE TABLE two_low PARTITION OF two FOR VALUES FROM (0) TO (100); CREATE TABLE rest PARTITION OF t DEFAULT; \
         INSERT INTO t SELECT g, 1 + g % 2, 1, 0 FROM generate_series(1, 4) g; SELECT sync_track('t', '{f}')";
    stage.begin("merged", tree);
    stage.tell(
        IN_SHAPE,
        &[
            (
                "MERGE INTO t USING (VALUES (1, 2, 1), (2, 1, 0), (3, 2, 2), (9, 1, 1)) AS s (id, region, f) \
                     ON t.id = s.id AND t.region = s.region \
                 WHEN MATCHED AND s.f = 0 THEN DELETE WHEN MATCHED AND s.f = 2 THEN UPDATE SET region = 3, n = 5 \
                 WHEN MATCHED THEN UPDATE SET n = 7 WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.region, s.f, 0)",
                &[
                    r#"delete {"region": 1, "id": 2}"#,
                    r#"delete {"region": 2, "id": 3}"#,
                    r#"upsert {"region": 1, "id": 9}"#,
                    r#"upsert {"region": 2, "id": 1}"#,
                    r#"upsert {"region": 3, "id": 3}"#,
                ],
            ),
            (
                "INSERT INTO t VALUES (9, 1, 0, 1), (10, 1, 1, 1) ON CONFLICT (region, id) DO UPDATE SET f = 0",
                &[r#"delete {"region": 1, "id": 9}"#, r#"upsert {"region": 1, "id": 10}"#],
            ),
            // Through the partition as well as through the tree, out and back in one transaction.
            (
                "BEGIN; UPDATE t SET region = 2 WHERE id = 10; UPDATE two SET n = 8 WHERE id = 10; UPDATE t SET region = 1 WHERE id = 10; COMMIT",
                &[r#"upsert {"region": 1, "id": 10}"#],
            ),
            ("UPDATE t SET region = 4 - region WHERE id IN (3, 10)", &[
                r#"delete {"region": 1, "id": 10}"#, r#"delete {"region": 3, "id": 3}"#,
                r#"upsert {"region": 1, "id": 3}"#,
                r#"upsert {"region": 3, "id": 10}"#,
            ]),
        ],
    );
    // Postgres itself refuses to let ON CONFLICT take a row into another partition.
    let moved = "INSERT INTO t VALUES (10, 3, 1, 1) ON CONFLICT (region, id) DO UPDATE SET region = 2";
    assert_eq!(state(&stage.client.batch_execute(moved).unwrap_err()), "0A000");
    for role in ["replica", "local", "origin"] {
        stage.run(&format!("SET session_replication_role = {role}; UPDATE t SET f = 1 WHERE id = 4"));
        let mut follower = Follower::new(IN_SHAPE);
        stage.pull(&mut follower);
        stage.run("UPDATE t SET f = 0 WHERE id = 4");
        assert_eq!(stage.pull(&mut follower), [r#"delete {"region": 1, "id": 4}"#], "{role}");
        stage.run("INSERT INTO t VALUES (20, 7, 1, 1)");
        assert_eq!(stage.pull(&mut follower), [r#"upsert {"region": 7, "id": 20}"#], "{role}");
        stage.run("TRUNCATE rest");
        assert_eq!(stage.pull(&mut follower)[0], "reset schema", "{role}");
    }
}

/// Pulls until the client holds that many rows; the law is checked at each pull.
fn pull_until(client: &mut Client, follower: &mut Follower, count: usize) {
    let start = Instant::now();
    while follower.count() != count {
        assert!(start.elapsed() < Duration::from_secs(60), "never {count} rows, but {}", follower.count());
        // A table that was just truncated asks for another try.
        if let Err(error) = follower.try_pull(client) {
            assert_eq!(state(&error), "40001", "{error:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn subscriber_of_a_publication_for_all_tables_is_followed_from_its_first_copy() {
    let install = Install::new();
    let publisher = Cluster::start(&install);
    let subscriber = Cluster::start_with(&install, &[("wal_retrieve_retry_interval", "'100ms'")]);
    let (mut from, mut to) = (publisher.connect(), subscriber.connect());
    let table = "CREATE TABLE t (id int PRIMARY KEY, f int, long text)";
    from.batch_execute(&format!(
        "{table}; INSERT INTO t SELECT g, g % 2, repeat('x', 5000) FROM generate_series(1, 100) g; CREATE PUBLICATION everything FOR ALL TABLES"
    ))
    .unwrap();
    to.batch_execute(&format!("{table}; CREATE EXTENSION syncline; SELECT sync_track('t', '{{f}}')")).unwrap();
    let mut follower = Follower::new(IN_SHAPE);
    follower.pull(&mut to);
    let connection = format!("host={} port=5432 user=postgres dbname=postgres", publisher.socket().display());
    to.batch_execute(&format!("CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION everything")).unwrap();
    pull_until(&mut to, &mut follower, 50);
    from.batch_execute("CREATE EXTENSION syncline").unwrap();
    let refused = from.batch_execute("SELECT sync_track('t', '{f}')").unwrap_err();
    assert_eq!(state(&refused), "55000");
    from.batch_execute("SELECT sync_track('t', '{f}', published => true)").unwrap();
    let mut origin = Follower::new(IN_SHAPE);
    origin.pull(&mut from);
    for (sql, count) in [
        ("UPDATE t SET f = 1 WHERE id IN (2, 4)", 52),
        ("BEGIN; DELETE FROM t WHERE id = 1; UPDATE t SET id = 1 WHERE id = 3; COMMIT", 51),
        ("UPDATE t SET id = id + 1000, f = 0 WHERE id > 90", 46),
        ("TRUNCATE t; INSERT INTO t VALUES (5, 1), (6, 0)", 1),
        ("DELETE FROM t", 0),
    ] {
        from.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        origin.pull(&mut from);
        assert_eq!(origin.count(), count, "{sql}");
        pull_until(&mut to, &mut follower, count);
    }
    // What the publisher's log says is nothing to the subscriber: another server's transactions are not its own.
    let foreign = "SELECT count(*) FROM syncline.log WHERE xid >= pg_current_xact_id()";
    assert_eq!(to.query_one(foreign, &[]).unwrap().get::<_, i64>(0), 0);
}

/// What is done to a tracked table and its untracked twin, `$t`, before and after the one is tracked.
struct Twins {
    before: &'static str,
    after: &'static str,
}

const TWINS: [Twins; 6] = [
    // The version is the last column.
    Twins { before: "", after: "" },
    // Others come behind it, one before it goes.
    Twins {
        before: "ALTER TABLE $t ADD gone text DEFAULT 'gone'",
        after: "ALTER TABLE $t ADD late text DEFAULT 'late', ADD later int; ALTER TABLE $t DROP gone",
    },
    // A trigger's condition reads one behind it.
    Twins {
        before: "",
        after: "ALTER TABLE $t ADD late text DEFAULT 'late'; CREATE TRIGGER by_late BEFORE INSERT OR UPDATE ON $t \
                FOR EACH ROW WHEN (NEW.late IS NOT NULL) EXECUTE FUNCTION more()",
    },
    Twins {
        before: "CREATE TRIGGER more BEFORE INSERT OR UPDATE ON $t FOR EACH ROW EXECUTE FUNCTION more()",
        after: "",
    },
    Twins {
        before: "ALTER TABLE $t ADD long text GENERATED ALWAYS AS (a || a) STORED",
        after: "ALTER TABLE $t ADD longer text GENERATED ALWAYS AS (a || a || a) STORED",
    },
    // Partitions, one with its columns in another order.
    Twins {
        before: "ALTER TABLE $t RENAME TO $t_old; CREATE TABLE $t (LIKE $t_old INCLUDING ALL) PARTITION BY RANGE (id); \
                 DROP TABLE $t_old; CREATE TABLE $t_1 (b int, a text, gone int, tag int NOT NULL, id int NOT NULL); \
                 ALTER TABLE $t_1 DROP gone; \
                 ALTER TABLE $t ATTACH PARTITION $t_1 FOR VALUES FROM (MINVALUE) TO (50); \
                 CREATE TABLE $t_2 PARTITION OF $t FOR VALUES FROM (50) TO (MAXVALUE)",
        after: "",
    },
];

/// Ways to write rows whose `tag` is then `$n`.
const WAYS: [&str; 9] = [
    "INSERT INTO $t (id, tag, a, b) SELECT g, $n, repeat('x', g), nullif(g, 3) FROM generate_series(1, 99) g",
    "UPDATE $t SET tag = $n, a = NULL WHERE id < 20",
    "UPDATE $t SET tag = $n, a = repeat(md5(id::text), 300) WHERE id BETWEEN 10 AND 30",
    "INSERT INTO $t (id, tag, b) SELECT g, $n, g FROM generate_series(90, 110) g \
     ON CONFLICT (id) DO UPDATE SET tag = $n, b = 0",
    "MERGE INTO $t t USING (SELECT g AS id FROM generate_series(105, 120) g) s ON t.id = s.id \
     WHEN MATCHED THEN UPDATE SET tag = $n WHEN NOT MATCHED THEN INSERT (id, tag, a) VALUES (s.id, $n, 'merged')",
    "UPDATE $t t SET tag = $n, b = s.b + 1 FROM $t s WHERE s.id = t.id + 1 AND t.id < 10",
    "WITH moved AS (DELETE FROM $t WHERE id > 115 RETURNING id, a) \
     INSERT INTO $t (id, tag, a) SELECT id + 100, $n, a FROM moved",
    "UPDATE $t SET tag = $n, id = 700 - id WHERE id BETWEEN 40 AND 75",
    "DO $$ BEGIN FOR i IN 300..305 LOOP INSERT INTO $t (id, tag, a) VALUES (i, $n, i); END LOOP; \
     UPDATE $t SET tag = $n, b = b + 1 WHERE id % 7 = 0; END $$",
];

/// The version is put into a row where the executor holds it, if it does so in one piece.
#[test]
fn rows_are_stamped_however_they_are_written() {
    const COLUMNS: &str = "id int PRIMARY KEY, tag int NOT NULL, a text, b int";
    const COPY: i32 = 99;
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    let more = "CREATE EXTENSION syncline; CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN NEW.b := coalesce(NEW.b, 0) + 1; RETURN NEW; END'";
    client.batch_execute(more).unwrap();
    // All rows that were written then have the version, and no others; they are what they are without it.
    let check = |transaction: &mut postgres::Transaction<'_>, tag: i32, what: &str| {
        let sql = "SELECT count(*) FILTER (WHERE tag = $1), \
                          count(*) FILTER (WHERE (tag = $1) <> (_sync_version = pg_current_xact_id()::text::bigint)) FROM ours";
        let row = transaction.query_one(sql, &[&tag]).unwrap();
        assert!(row.get::<_, i64>(0) > 2, "{what}: rows are written");
        assert_eq!(row.get::<_, i64>(1), 0, "{what}: rows with a wrong version");
        let row = |table: &str| format!("SELECT to_jsonb(t) - '_sync_version' FROM {table} t");
        for (a, b) in [("ours", "twin"), ("twin", "ours")] {
            let sql = format!("SELECT count(*) FROM ({} EXCEPT ALL {}) AS odd", row(a), row(b));
            assert_eq!(transaction.query_one(&sql, &[]).unwrap().get::<_, i64>(0), 0, "{what}: rows of {a} only");
        }
    };
    for (place, twins) in TWINS.iter().enumerate() {
        for (table, tracked) in [("ours", "SELECT sync_track('ours')"), ("twin", "")] {
            let create = format!("CREATE TABLE $t ({COLUMNS})");
            for sql in [&create, twins.before, tracked, twins.after] {
                client.batch_execute(&sql.replace("$t", table)).unwrap();
            }
        }
        for (tag, way) in (1..).zip(WAYS) {
            let mut transaction = client.transaction().unwrap();
            for table in ["ours", "twin"] {
                transaction.batch_execute(&way.replace("$t", table).replace("$n", &tag.to_string())).unwrap();
            }
            check(&mut transaction, tag, &format!("twins {place}, {way}"));
            transaction.commit().unwrap();
        }
        let mut transaction = client.transaction().unwrap();
        for table in ["ours", "twin"] {
            let mut writer = transaction.copy_in(&format!("COPY {table} (id, tag, a) FROM STDIN")).unwrap();
            for id in 1000..1010 {
                writeln!(writer, "{id}\t{COPY}\t{}", "y".repeat(id - 1000)).unwrap();
            }
            writer.finish().unwrap();
        }
        check(&mut transaction, COPY, &format!("twins {place}, COPY"));
        transaction.commit().unwrap();
        client.batch_execute("DROP TABLE ours, twin").unwrap();
    }
    // The rows of another table as they stand there, with versions of their own.
    client
        .batch_execute(&format!(
            "CREATE TABLE ours ({COLUMNS}); SELECT sync_track('ours'); CREATE TABLE twin (LIKE ours); \
             INSERT INTO twin SELECT g, 5, 'a', g, g FROM generate_series(1, 9) g"
        ))
        .unwrap();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("INSERT INTO ours SELECT * FROM twin").unwrap();
    check(&mut transaction, 5, "a table of the same form");
    let kept = transaction.query_one("SELECT sum(_sync_version)::bigint FROM twin", &[]).unwrap();
    assert_eq!(kept.get::<_, i64>(0), 45, "what was read is as it was");
}
