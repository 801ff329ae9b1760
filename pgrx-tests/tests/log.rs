//! Log rows wait until their transaction ends: what they tell then, however it ends.

use std::collections::BTreeSet;

use postgres::Client;
use syncline_tests::stage::{IN_SHAPE, Stage};
use syncline_tests::{Cluster, Install};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, f int); \
                     INSERT INTO t SELECT g, 1 FROM generate_series(1, 9) g; SELECT sync_track('t', '{f}')";

#[test]
fn what_a_subtransaction_undid_is_not_told() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin("undone", TABLE);
    stage.tell(
        IN_SHAPE,
        &[
            (
                "BEGIN; SAVEPOINT a; DELETE FROM t WHERE id = 1; ROLLBACK TO a; DELETE FROM t WHERE id = 2; \
                 SAVEPOINT b; DELETE FROM t WHERE id = 3; SAVEPOINT c; UPDATE t SET f = 0 WHERE id = 4; RELEASE c; RELEASE b; \
                 SAVEPOINT d; SAVEPOINT e; DELETE FROM t WHERE id = 5; RELEASE e; ROLLBACK TO d; COMMIT",
                &[r#"delete {"id": 2}"#, r#"delete {"id": 3}"#, r#"delete {"id": 4}"#],
            ),
            // What was undone hides nothing of what the row was: not that it was in the shape, and not that it came back.
            (
                "BEGIN; SAVEPOINT a; UPDATE t SET f = 0 WHERE id = 1; ROLLBACK TO a; UPDATE t SET f = 2 WHERE id = 1; \
                 SAVEPOINT b; UPDATE t SET f = 1 WHERE id = 1; ROLLBACK TO b; COMMIT",
                &[r#"delete {"id": 1}"#],
            ),
            (
                "DO $$ BEGIN FOR n IN 5..9 LOOP BEGIN DELETE FROM t WHERE id = n; PERFORM 1 / (n % 2); \
                 EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
                &[r#"delete {"id": 5}"#, r#"delete {"id": 7}"#, r#"delete {"id": 9}"#],
            ),
            ("BEGIN; DELETE FROM t; ROLLBACK; BEGIN; DELETE FROM t WHERE id = 6; COMMIT", &[r#"delete {"id": 6}"#]),
        ],
    );
}

#[test]
fn a_prepared_transaction_has_told_what_it_did() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin("prepared", TABLE);
    stage.tell(
        IN_SHAPE,
        &[
            (
                "BEGIN; DELETE FROM t WHERE id = 1; PREPARE TRANSACTION 'one'; DELETE FROM t WHERE id = 2",
                &[r#"delete {"id": 2}"#],
            ),
            ("COMMIT PREPARED 'one'", &[r#"delete {"id": 1}"#]),
            ("BEGIN; DELETE FROM t WHERE id = 3; PREPARE TRANSACTION 'one'", &[]),
            ("ROLLBACK PREPARED 'one'", &[]),
        ],
    );
}

#[test]
fn deferred_triggers_and_cascades_are_told_with_their_transaction() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut stage = Stage::new(&cluster);
    stage.begin(
        "deferred",
        "CREATE TABLE t (id int PRIMARY KEY, f int, parent int REFERENCES t ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED); \
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t WHERE id = 4; RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER late AFTER DELETE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.id = 1) \
           EXECUTE FUNCTION late(); SELECT sync_track('t', '{f}'); \
         INSERT INTO t VALUES (1, 1, NULL), (2, 1, 1), (3, 1, 2), (4, 1, NULL)",
    );
    stage.tell(
        IN_SHAPE,
        &[(
            "DELETE FROM t WHERE id = 1",
            &[r#"delete {"id": 1}"#, r#"delete {"id": 2}"#, r#"delete {"id": 3}"#, r#"delete {"id": 4}"#],
        )],
    );
}

/// Keys that pages of so many rows delete.
fn deleted(client: &mut Client, cursor: &str, rows: i32) -> BTreeSet<i32> {
    let sql = "SELECT op, (key->>'id')::int, cursor, value->>'up_to_date' \
               FROM sync_changes($1::text, '{\"tables\": {\"t\": {\"where\": \"f = 1\"}}}', $2)";
    let (mut keys, mut cursor) = (BTreeSet::new(), cursor.to_owned());
    loop {
        let mut ended = false;
        for row in client.query(sql, &[&cursor, &rows]).unwrap() {
            match row.get::<_, &str>(0) {
                "delete" => assert!(keys.insert(row.get(1)), "each key once"),
                "commit" => (cursor, ended) = (row.get(2), row.get::<_, &str>(3) == "true"),
                op => panic!("no row was written: {op}"),
            }
        }
        // Nobody else writes: the round after the last page is empty.
        if ended {
            return keys;
        }
    }
}

#[test]
fn more_log_rows_than_memory_holds_are_written_before_the_end() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, note text); SELECT sync_track('t', '{f,note}'); \
             INSERT INTO t SELECT g, 1, repeat('x', 50) FROM generate_series(1, 80000) g; \
             INSERT INTO t SELECT g, 1, repeat(md5(g::text), 200) FROM generate_series(80001, 80020) g",
        )
        .unwrap();
    let sql =
        "SELECT cursor FROM sync_changes(NULL, '{\"tables\": {\"t\": {\"where\": \"f = 1\"}}}') WHERE op = 'commit'";
    let cursor: String = client.query_one(sql, &[]).unwrap().get(0);
    // Each part takes more than that: one stays, one is undone, one stays with those around it.
    client
        .batch_execute(
            "BEGIN; DELETE FROM t WHERE id <= 20000; SAVEPOINT a; DELETE FROM t WHERE id BETWEEN 20001 AND 40000; ROLLBACK TO a; \
             SAVEPOINT b; UPDATE t SET f = 2 WHERE id BETWEEN 40001 AND 60000; SAVEPOINT c; DELETE FROM t WHERE id > 60000; \
             RELEASE c; RELEASE b; COMMIT",
        )
        .unwrap();
    let expected: BTreeSet<i32> = (1..=20_000).chain(40_001..=80_020).collect();
    for rows in [7_001, 100_000] {
        let keys = deleted(&mut client, &cursor, rows);
        assert_eq!(keys.len(), expected.len());
        assert!(keys == expected);
    }
}

#[test]
fn the_extension_can_be_dropped_by_who_has_written() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    let again = "CREATE EXTENSION syncline; SELECT sync_track('t', '{f}')";
    client.batch_execute(&format!("CREATE EXTENSION syncline; {TABLE}")).unwrap();
    client.batch_execute("BEGIN; DELETE FROM t WHERE id = 1; DROP EXTENSION syncline CASCADE; COMMIT").unwrap();
    client.batch_execute(&format!("ALTER TABLE t DROP COLUMN _sync_version; {again}")).unwrap();
    client
        .batch_execute(&format!("BEGIN; DELETE FROM t WHERE id = 2; DROP EXTENSION syncline CASCADE; {again}; COMMIT"))
        .unwrap();
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).unwrap().get::<_, i64>(0), 7);
}
