//! What the output plugin sends for each kind of change. After each step the client's copy is compared with the shape's rows.

use syncline_tests::slot::{Slot, run};
use syncline_tests::{Cluster, Install};

const SHAPE: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;

/// A table whose rows 1, 3 and 5 are in the shape.
const TABLE: &str = "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n text); \
     INSERT INTO t SELECT g, g % 2, 'n' || g FROM generate_series(1, 6) g; SELECT sync_track('t', '{f}')";

#[test]
fn each_change_of_a_key_is_sent_as_its_net_effect() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    let mut slot = Slot::new(&mut client, "s", &[("a", SHAPE)]);
    slot.tell(
        &mut client,
        &[
            ("INSERT INTO t VALUES (7, 1, 'seven')", &[r#"upsert a t {"f": 1, "n": "seven", "id": 7}"#, "commit a"]),
            ("INSERT INTO t VALUES (8, 0, 'eight')", &[]),
            ("UPDATE t SET n = 'x' WHERE id = 7", &[r#"upsert a t {"f": 1, "n": "x", "id": 7}"#, "commit a"]),
            ("UPDATE t SET n = 'x' WHERE id = 8", &[]),
            ("DELETE FROM t WHERE id = 7", &[r#"delete a t {"id": 7}"#, "commit a"]),
            ("DELETE FROM t WHERE id = 8", &[]),
            (
                "UPDATE t SET id = 11 WHERE id = 1",
                &[r#"delete a t {"id": 1}"#, r#"upsert a t {"f": 1, "n": "n1", "id": 11}"#, "commit a"],
            ),
            // Deleted and inserted again, in one transaction and in one statement.
            (
                "BEGIN; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 1, 'again'); COMMIT",
                &[r#"upsert a t {"f": 1, "n": "again", "id": 3}"#, "commit a"],
            ),
            (
                "BEGIN; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 0, 'out'); COMMIT",
                &[r#"delete a t {"id": 3}"#, "commit a"],
            ),
            (
                "WITH gone AS (DELETE FROM t WHERE id = 5 RETURNING id) INSERT INTO t SELECT id, 1, 'cte' FROM gone",
                &[r#"upsert a t {"f": 1, "n": "cte", "id": 5}"#, "commit a"],
            ),
            ("BEGIN; INSERT INTO t VALUES (9, 1, 'nine'); DELETE FROM t WHERE id = 9; COMMIT", &[]),
            (
                "BEGIN; INSERT INTO t VALUES (9, 1, 'nine'); UPDATE t SET id = 10 WHERE id = 9; COMMIT",
                &[r#"upsert a t {"f": 1, "n": "nine", "id": 10}"#, "commit a"],
            ),
            // There and back: nobody saw the state between.
            (
                "BEGIN; UPDATE t SET f = 0 WHERE id = 5; UPDATE t SET f = 1 WHERE id = 5; COMMIT",
                &[r#"upsert a t {"f": 1, "n": "cte", "id": 5}"#, "commit a"],
            ),
            ("BEGIN; UPDATE t SET f = 1 WHERE id = 2; UPDATE t SET f = 0 WHERE id = 2; COMMIT", &[]),
            // A filter column in and out.
            ("UPDATE t SET f = 1 WHERE id = 2", &[r#"upsert a t {"f": 1, "n": "n2", "id": 2}"#, "commit a"]),
            ("UPDATE t SET f = NULL WHERE id = 2", &[r#"delete a t {"id": 2}"#, "commit a"]),
            // Two keys swap.
            (
                "BEGIN; UPDATE t SET id = 0 WHERE id = 5; UPDATE t SET id = 5 WHERE id = 10; UPDATE t SET id = 10 WHERE id = 0; COMMIT",
                &[
                    r#"upsert a t {"f": 1, "n": "cte", "id": 10}"#,
                    r#"upsert a t {"f": 1, "n": "nine", "id": 5}"#,
                    "commit a",
                ],
            ),
        ],
    );
}

#[test]
fn shapes_on_one_slot_get_each_its_own_columns_and_names() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE big (\"K ey\" bigint, part int, s text, \"ö\" text, PRIMARY KEY (part, \"K ey\")); \
         SELECT sync_track('big', '{s}'); CREATE TABLE other (id text PRIMARY KEY); SELECT sync_track('other')",
    );
    let mut slot = Slot::new(
        &mut client,
        "s",
        &[
            ("all", r#"{"tables": {"big": {}, "other": {}}}"#),
            (
                "few",
                r#"{"tables": {"b": {"table": "big", "columns": ["s"], "where": "s LIKE $1"}}, "params": ["x%"], "int8": "string"}"#,
            ),
            (
                "both",
                r#"{"tables": {"one": {"table": "big", "where": "part = 1"}, "two": {"table": "big", "where": "part = 2"}}}"#,
            ),
            ("none", r#"{"tables": {"big": {"where": "part = 9"}}}"#),
        ],
    );
    slot.tell(
        &mut client,
        &[
            (
                "INSERT INTO big VALUES (9007199254740993, 1, 'xy', 'ü')",
                &[
                    r#"upsert all big {"s": "xy", "ö": "ü", "K ey": 9007199254740993, "part": 1}"#,
                    r#"upsert few b {"s": "xy", "K ey": "9007199254740993", "part": 1}"#,
                    r#"upsert both one {"s": "xy", "ö": "ü", "K ey": 9007199254740993, "part": 1}"#,
                    "commit all,few,both,none",
                ],
            ),
            (
                "UPDATE big SET part = 2, s = NULL",
                &[
                    r#"delete all big {"part": 1, "K ey": 9007199254740993}"#,
                    r#"upsert all big {"s": null, "ö": "ü", "K ey": 9007199254740993, "part": 2}"#,
                    r#"delete few b {"part": 1, "K ey": "9007199254740993"}"#,
                    r#"delete both one {"part": 1, "K ey": 9007199254740993}"#,
                    r#"upsert both two {"s": null, "ö": "ü", "K ey": 9007199254740993, "part": 2}"#,
                    "commit all,few,both,none",
                ],
            ),
            ("INSERT INTO other VALUES ('o')", &[r#"upsert all other {"id": "o"}"#, "commit all,few,both,none"]),
        ],
    );
}

#[test]
fn transactions_of_every_kind_are_sent_at_their_commit() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    let mut slot = Slot::new(&mut client, "s", &[("a", SHAPE)]);
    slot.tell(
        &mut client,
        &[
            // Subtransactions that stay, and that do not.
            (
                "BEGIN; SAVEPOINT a; UPDATE t SET n = 'kept' WHERE id = 1; RELEASE a; SAVEPOINT b; DELETE FROM t WHERE id = 1; \
                 DELETE FROM t WHERE id = 3; ROLLBACK TO b; SAVEPOINT c; UPDATE t SET f = 0 WHERE id = 5; COMMIT",
                &[r#"delete a t {"id": 5}"#, r#"upsert a t {"f": 1, "n": "kept", "id": 1}"#, "commit a"],
            ),
            ("BEGIN; DELETE FROM t WHERE id = 1; ROLLBACK", &[]),
            ("BEGIN; UPDATE t SET n = 'p' WHERE id = 1; DELETE FROM t WHERE id = 3; PREPARE TRANSACTION 'p'", &[]),
            ("UPDATE t SET f = 1 WHERE id = 6", &[r#"upsert a t {"f": 1, "n": "n6", "id": 6}"#, "commit a"]),
            (
                "COMMIT PREPARED 'p'",
                &[r#"delete a t {"id": 3}"#, r#"upsert a t {"f": 1, "n": "p", "id": 1}"#, "commit a"],
            ),
            ("BEGIN; DELETE FROM t WHERE id = 1; PREPARE TRANSACTION 'q'", &[]),
            ("ROLLBACK PREPARED 'q'", &[]),
            (
                "INSERT INTO t VALUES (1, 1, 'again') ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n",
                &[r#"upsert a t {"f": 1, "n": "again", "id": 1}"#, "commit a"],
            ),
            (
                "MERGE INTO t USING (VALUES (1), (20)) v(id) ON t.id = v.id WHEN MATCHED THEN DELETE \
                 WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, 'merged')",
                &[r#"delete a t {"id": 1}"#, r#"upsert a t {"f": 1, "n": "merged", "id": 20}"#, "commit a"],
            ),
        ],
    );
}

#[test]
fn a_large_copy_is_sent_whole_in_batches() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    let mut slot = Slot::new(&mut client, "s", &[("a", SHAPE)]);
    let mut copy = client.copy_in("COPY t (id, f, n) FROM STDIN").unwrap();
    for id in 100..10_100 {
        std::io::Write::write_all(&mut copy, format!("{id}\t{}\trow {id}\n", id % 2).as_bytes()).unwrap();
    }
    copy.finish().unwrap();
    // Peeked at first: the texts that the client gets.
    let peek = "SELECT octet_length(data), xid::text FROM pg_logical_slot_peek_changes('s', NULL, NULL, 'shapes', $1)";
    let shapes = format!("{{\"a\": {SHAPE}}}");
    let sizes: Vec<i32> = client.query(peek, &[&shapes]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(sizes.len() > 3 && sizes.iter().all(|&size| size <= 65_536), "{sizes:?}");
    assert!(sizes[..sizes.len() - 1].iter().all(|&size| size > 60_000), "{sizes:?}");
    let binary = "SELECT sum(length(data)) FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL, 'shapes', $1)";
    let sum: i64 = client.query_one(binary, &[&shapes]).unwrap().get(0);
    assert_eq!(sum, sizes.iter().map(|&size| i64::from(size)).sum::<i64>());
    let summaries = slot.follow(&mut client);
    assert_eq!(summaries.len(), 5_001);
    assert_eq!(summaries[5_000], "commit a");
}

#[test]
fn rows_move_between_partitions_and_go_with_their_parents() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE p (id int, region int, s text, PRIMARY KEY (region, id)) PARTITION BY LIST (region); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 (s text, gone int, region int NOT NULL, id int NOT NULL); \
         ALTER TABLE p2 DROP COLUMN gone; ALTER TABLE p ATTACH PARTITION p2 DEFAULT; SELECT sync_track('p', '{s}'); \
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, of int REFERENCES parent ON DELETE CASCADE \
         ON UPDATE CASCADE, other int REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE); SELECT sync_track('parent'); SELECT sync_track('child', '{other}'); \
         INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1, 2), (2, 2, 1)",
    );
    let mut slot = Slot::new(
        &mut client,
        "s",
        &[
            ("p", r#"{"tables": {"p": {"where": "s = 'x'"}}}"#),
            ("c", r#"{"tables": {"child": {"where": "other IS NOT NULL"}}}"#),
        ],
    );
    slot.tell(
        &mut client,
        &[
            ("INSERT INTO p VALUES (1, 1, 'x')", &[r#"upsert p p {"s": "x", "id": 1, "region": 1}"#, "commit p,c"]),
            (
                "UPDATE p SET region = 2",
                &[
                    r#"delete p p {"region": 1, "id": 1}"#,
                    r#"upsert p p {"s": "x", "id": 1, "region": 2}"#,
                    "commit p,c",
                ],
            ),
            (
                "UPDATE p2 SET id = 2",
                &[
                    r#"delete p p {"region": 2, "id": 1}"#,
                    r#"upsert p p {"s": "x", "id": 2, "region": 2}"#,
                    "commit p,c",
                ],
            ),
            ("DELETE FROM p2", &[r#"delete p p {"region": 2, "id": 2}"#, "commit p,c"]),
            (
                "UPDATE parent SET id = 3 WHERE id = 1",
                &[
                    r#"upsert c child {"id": 1, "of": 3, "other": 2}"#,
                    r#"upsert c child {"id": 2, "of": 2, "other": 3}"#,
                    "commit p,c",
                ],
            ),
        ],
    );
    slot.tell(
        &mut client,
        &[(
            "DELETE FROM parent WHERE id = 2",
            &[r#"delete c child {"id": 1}"#, r#"delete c child {"id": 2}"#, "commit p,c"],
        )],
    );
}

#[test]
fn a_large_value_that_was_not_logged_is_left_to_the_client_or_pulled() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    // Not compressible, so that it is stored out of line.
    let large = |seed: &str| format!("(SELECT string_agg(md5({seed} || g::text), '') FROM generate_series(1, 200) g)");
    run(
        &mut client,
        &format!(
            "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n int, b text); SELECT sync_track('t', '{{f}}'); \
             INSERT INTO t VALUES (1, 1, 0, {}); CREATE TABLE k (id text PRIMARY KEY, g text, n int); \
             ALTER TABLE k ALTER COLUMN id SET STORAGE EXTERNAL; SELECT sync_track('k', '{{g}}'); \
             INSERT INTO k SELECT left({}, 2400), {}, 0",
            large("1"),
            large("2"),
            large("3")
        ),
    );
    let shape = r#"{"tables": {"t": {"where": "f = 1"}, "k": {"where": "g <> ''"}}}"#;
    let mut slot = Slot::new(&mut client, "s", &[("a", SHAPE), ("k", shape)]);
    let kept = |n: i32| {
        [
            format!(r#"upsert a t {{"f": 1, "n": {n}, "id": 1}} unchanged b"#),
            format!(r#"upsert k t {{"f": 1, "n": {n}, "id": 1}} unchanged b"#),
        ]
    };
    run(&mut client, "UPDATE t SET n = 1");
    let [a, k] = kept(1);
    assert_eq!(slot.follow(&mut client), [a, k, "commit a,k".to_owned()]);
    slot.tell(
        &mut client,
        &[
            ("UPDATE t SET f = 0", &[r#"delete a t {"id": 1}"#, r#"delete k t {"id": 1}"#, "commit a,k"]),
            ("UPDATE t SET n = 2", &[]),
            // It enters, and the client has nothing to keep.
            ("UPDATE t SET f = 1", &["stale a toast", "stale k toast", "commit "]),
            // Under another key it has nothing to keep either.
            ("UPDATE t SET id = 2", &["stale a toast", "stale k toast", "commit "]),
            // There and back under one key: it kept the row all the time.
            (
                "BEGIN; UPDATE t SET id = 1; UPDATE t SET id = 2, n = 3; COMMIT",
                &[
                    r#"upsert a t {"f": 1, "n": 3, "id": 2} unchanged b"#,
                    r#"upsert k t {"f": 1, "n": 3, "id": 2} unchanged b"#,
                    "commit a,k",
                ],
            ),
            ("ALTER TABLE t REPLICA IDENTITY FULL", &["stale a barrier", "stale k barrier", "commit "]),
        ],
    );
    // A table that logs its old rows leaves nothing out.
    run(&mut client, "UPDATE t SET id = 3, n = 4");
    assert!(slot.follow(&mut client).iter().all(|line| !line.contains("unchanged") && !line.contains("stale")));
    // A large filter column that was not logged makes it stale, unless a change of another one brought its value.
    slot.tell(&mut client, &[("UPDATE k SET n = 1", &["stale k toast", "commit a"])]);
    // A large key: deleted by its old value, and told apart from one that changed.
    run(&mut client, "UPDATE k SET g = 'y'");
    assert_eq!(slot.follow(&mut client).len(), 2);
    run(&mut client, "UPDATE k SET n = 2");
    assert!(slot.follow(&mut client)[0].starts_with("upsert k k"));
    run(&mut client, "UPDATE k SET id = 'short'");
    assert!(slot.follow(&mut client)[0].starts_with("delete k k"));
}

#[test]
fn log_rows_written_out_of_order_by_users_triggers_count_in_the_order_of_the_rows_versions() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    // The statement inside the trigger logs before the one that fired it.
    run(
        &mut client,
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF NEW.f = 2 THEN UPDATE t SET f = 3 WHERE id = NEW.id; END IF; \
           IF NEW.f = 4 THEN DELETE FROM t WHERE id = NEW.id; INSERT INTO t VALUES (NEW.id, 1, 'new'); END IF; RETURN NULL; END $$; \
         CREATE TRIGGER again AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION again()",
    );
    let mut slot = Slot::new(&mut client, "s", &[("a", SHAPE)]);
    slot.tell(
        &mut client,
        &[
            ("UPDATE t SET f = 2 WHERE id = 1", &[r#"delete a t {"id": 1}"#, "commit a"]),
            ("UPDATE t SET f = 2 WHERE id = 2", &[]),
            ("UPDATE t SET f = 4 WHERE id = 3", &[r#"upsert a t {"f": 1, "n": "new", "id": 3}"#, "commit a"]),
            ("UPDATE t SET f = 4 WHERE id = 4", &[r#"upsert a t {"f": 1, "n": "new", "id": 4}"#, "commit a"]),
        ],
    );
}

#[test]
fn messages_come_with_their_transaction_or_at_once_and_by_topic() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    let shape = r#"{"tables": {"m": {"table": "syncline.message", "columns": ["topic", "payload"], "where": "topic = 'jobs'"}}}"#;
    let mut slot = Slot::new(&mut client, "s", &[("a", SHAPE), ("m", shape)]).with("topics", r#"["chat.", "jobs"]"#);
    slot.tell(
        &mut client,
        &[
            (
                "BEGIN; SELECT sync_publish('chat.é', '{\"a\": [1, \"\\n\"]}'); UPDATE t SET n = 'x' WHERE id = 1; \
                 SELECT sync_publish('chat', '1'); SELECT sync_publish('chat.2', 'null'); COMMIT",
                &[
                    r#"upsert a t {"f": 1, "n": "x", "id": 1}"#,
                    r#"message chat.é {"a": [1, "\n"]} transactional"#,
                    "message chat.2 null transactional",
                    "commit a,m",
                ],
            ),
            ("BEGIN; SELECT sync_publish('chat.x', '1'); ROLLBACK", &[]),
            (
                "BEGIN; SELECT sync_publish('chat.x', '[\"typing\"]', false); ROLLBACK",
                &[r#"message chat.x ["typing"] at once"#],
            ),
            ("SELECT sync_publish('other', '1', false)", &[]),
            // A message is a row too, pulled and streamed like any other.
            (
                "SELECT sync_publish('jobs', '{\"n\": 1}')",
                &[
                    r#"upsert m m {"id": 5, "topic": "jobs", "payload": {"n": 1}}"#,
                    r#"message jobs {"n": 1} transactional"#,
                    "commit a,m",
                ],
            ),
            // Anybody may write such messages: what is malformed is not passed on.
            ("SELECT pg_logical_emit_message(false, 'syncline.message', '6:chat.x{}' || chr(10) || '{\"op\": \"commit\"}')", &[]),
            ("SELECT pg_logical_emit_message(true, 'syncline.message', '6:chat.x1')", &[]),
        ],
    );
    // So many that they do not wait for the commit.
    run(
        &mut client,
        "BEGIN; UPDATE t SET n = 'y' WHERE id = 1; SELECT sync_publish('chat.', to_jsonb(repeat('m', 2000))) FROM generate_series(1, 2000); COMMIT",
    );
    let summaries = slot.follow(&mut client);
    assert_eq!(summaries.iter().filter(|line| line.starts_with("message chat. \"mmm")).count(), 2_000);
    assert_eq!(summaries[summaries.len() - 1], "commit a,m");
    run(&mut client, "SELECT sync_prune('0')");
    assert_eq!(slot.follow(&mut client)[0], r#"delete m m {"id": 5}"#);
    let left: i64 = client.query_one("SELECT count(*) FROM syncline.message", &[]).unwrap().get(0);
    assert_eq!(left, 0);
    run(&mut client, "CREATE ROLE nobody");
    for call in ["sync_publish('t', '1')", "sync_publish('t', '1', false)", "sync_heartbeat()"] {
        let error = client.batch_execute(&format!("SET ROLE nobody; SELECT {call}")).unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{call}");
        run(&mut client, "RESET ROLE");
    }
    for (call, state) in [
        ("sync_publish(NULL, '1')", "22004"),
        ("sync_publish('', '1')", "22023"),
        ("sync_publish(repeat('x', 201), '1')", "22023"),
    ] {
        assert_eq!(
            client.batch_execute(&format!("SELECT {call}")).unwrap_err().code().unwrap().code(),
            state,
            "{call}"
        );
    }
}

#[test]
fn what_came_from_an_origin_is_not_sent_back_to_it() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    run(&mut client, "SELECT pg_replication_origin_create('relay'), pg_replication_origin_create('else')");
    let options = |more: &str| {
        format!(
            "SELECT data FROM pg_logical_slot_peek_changes('s', NULL, NULL, 'shapes', '{{\"a\": {}}}' {more})",
            SHAPE
        )
    };
    run(&mut client, "SELECT pg_create_logical_replication_slot('s', 'syncline')");
    for (id, origin) in [(11, "relay"), (12, "else")] {
        run(
            &mut client,
            &format!(
                "SELECT pg_replication_origin_session_setup('{origin}');; INSERT INTO t VALUES ({id}, 1, '{origin}');; \
                 SELECT pg_replication_origin_session_reset()"
            ),
        );
    }
    run(&mut client, "INSERT INTO t VALUES (13, 1, 'here')");
    let mut sent = |more: &str| -> Vec<String> {
        let rows = client.query(&options(more), &[]).unwrap();
        rows.iter()
            .map(|row| row.get::<_, String>(0).split("\"id\": ").nth(1).unwrap_or_default()[..2].to_owned())
            .collect()
    };
    assert_eq!(sent(""), ["11", "12", "13"]);
    assert_eq!(sent(", 'without_origin', 'relay'"), ["12", "13"]);
    assert_eq!(sent(", 'without_origin', 'nowhere'"), ["11", "12", "13"]);
    // The origin knows what it wrote, but not what that decides.
    run(
        &mut client,
        "SELECT sync_track('t', log_inserts => true), pg_replication_slot_advance('s', pg_current_wal_lsn())",
    );
    run(
        &mut client,
        "SELECT pg_replication_origin_session_setup('relay');; DELETE FROM t WHERE id = 11;; SELECT pg_replication_origin_session_reset()",
    );
    let shape = r#"{"r": {"tables": {"u": {"where": "id IN (SELECT id FROM t)"}}}}"#;
    let sql = "SELECT data FROM pg_logical_slot_peek_changes('s', NULL, NULL, 'shapes', $1, 'without_origin', 'relay')";
    let rows = client.query(sql, &[&shape]).unwrap();
    assert!(rows[rows.len() - 1].get::<_, &str>(0).contains(r#""reason": "parent""#));
}
