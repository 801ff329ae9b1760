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
