//! What only newer majors have.

use postgres::Client;
use syncline_tests::alteration::{Line, PLAIN, check};
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

const SHAPE: &str = r#"{"tables":{"t":{"where":"f = 1"}}}"#;

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// After each statement a client is told this; the law is checked.
fn follow(client: &mut Client, steps: &[(&str, &str)]) {
    let mut follower = Follower::new(SHAPE);
    follower.pull(client);
    for (sql, expected) in steps {
        run(client, sql);
        let mut ops = follower.pull(client);
        ops.sort();
        let told = ops.iter().find(|op| op.starts_with("reset")).cloned().unwrap_or(ops.join(", "));
        assert_eq!(told, *expected, "{sql}");
    }
}

#[test]
fn virtual_columns_are_sent_and_not_filtered_by() {
    let Some(install) = Install::since(18, "virtual generated columns") else { return };
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; \
         CREATE TABLE t (id int PRIMARY KEY, f int, n int, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL); \
         INSERT INTO t VALUES (1, 1, 1), (2, 1, 2), (3, 2, 3)",
    );
    let refused = client.batch_execute("SELECT sync_track('t', '{f,twice}')").unwrap_err();
    assert_eq!(state(&refused), "0A000");
    run(&mut client, "SELECT sync_track('t', '{f}')");
    let filtered = client.query("SELECT sync_pull(NULL, '{\"tables\":{\"t\":{\"where\":\"twice = 2\"}}}')", &[]);
    assert_eq!(state(&filtered.unwrap_err()), "0A000");
    let sql = "SELECT value->>'twice' FROM sync_preview('{\"tables\":{\"t\":{}}}') WHERE op = 'upsert' ORDER BY 1";
    let sent: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(sent, ["2", "4", "6"]);
    follow(
        &mut client,
        &[
            ("UPDATE t SET n = 7 WHERE id = 1", r#"upsert {"id": 1}"#),
            ("DELETE FROM t WHERE id = 2", r#"delete {"id": 2}"#),
            // Nothing is rewritten, and yet every row reads otherwise.
            ("ALTER TABLE t ALTER COLUMN twice SET EXPRESSION AS (n * 3)", "reset schema"),
            ("UPDATE t SET f = 1, n = n + 1", r#"upsert {"id": 1}, upsert {"id": 3}"#),
            ("ALTER TABLE t ADD COLUMN thrice int GENERATED ALWAYS AS (n * 3)", "reset shape"),
            ("ALTER TABLE t DROP COLUMN twice", "reset shape"),
        ],
    );
}

#[test]
fn periods_are_part_of_keys() {
    let Some(install) = Install::since(18, "keys without overlaps") else { return };
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE EXTENSION btree_gist; \
         CREATE TABLE t (id int, during int4range, f int, PRIMARY KEY (id, during WITHOUT OVERLAPS)); \
         SELECT sync_track('t', '{f}'); INSERT INTO t VALUES (1, '[1,5)', 1), (1, '[5,9)', 1), (2, '[1,9)', 2)",
    );
    follow(
        &mut client,
        &[
            (
                "UPDATE t SET during = '[1,3)' WHERE during = '[1,5)'",
                r#"delete {"id": 1, "during": "[1,5)"}, upsert {"id": 1, "during": "[1,3)"}"#,
            ),
            ("UPDATE t SET f = 2 WHERE during = '[5,9)'", r#"delete {"id": 1, "during": "[5,9)"}"#),
            (
                "BEGIN; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, '[1,4)', 1), (2, '[4,9)', 1); COMMIT",
                r#"upsert {"id": 2, "during": "[1,4)"}, upsert {"id": 2, "during": "[4,9)"}"#,
            ),
        ],
    );
}

#[test]
fn stored_columns_with_another_expression_reset() {
    let Some(install) = Install::since(17, "ALTER COLUMN … SET EXPRESSION") else { return };
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; \
         CREATE TABLE t (id int PRIMARY KEY, n int, f int GENERATED ALWAYS AS (n % 2) STORED); \
         INSERT INTO t (id, n) VALUES (1, 1), (2, 2), (3, 3); SELECT sync_track('t', '{f}')",
    );
    follow(
        &mut client,
        &[
            ("UPDATE t SET n = 2 WHERE id = 1", r#"delete {"id": 1}"#),
            ("ALTER TABLE t ALTER COLUMN f SET EXPRESSION AS (n - 1)", "reset schema"),
            ("UPDATE t SET n = 3 WHERE id = 2", r#"delete {"id": 2}"#),
        ],
    );
}

/// The lines of `ddl.rs` that older majors do not know.
#[test]
fn sub_commands_of_alter_table_that_newer_majors_have() {
    let lines: [(u32, &str, &[Line]); 3] = [
        (16, "SET STORAGE DEFAULT", &[("ALTER TABLE t ALTER COLUMN s SET STORAGE DEFAULT", "delta delta delta")]),
        (
            17,
            "SET ACCESS METHOD DEFAULT",
            &[
                ("ALTER TABLE t SET ACCESS METHOD DEFAULT", "delta delta delta"),
                ("ALTER TABLE t ALTER COLUMN n SET STATISTICS DEFAULT", "delta delta delta"),
                ("ALTER TABLE t ALTER COLUMN g SET EXPRESSION AS (f * 3)", "reset delta 40001"),
            ],
        ),
        (
            18,
            "constraints that are not enforced",
            &[
                ("ALTER TABLE t ADD CONSTRAINT c NOT NULL n", "delta delta delta"),
                (
                    "ALTER TABLE t ADD CONSTRAINT c NOT NULL n NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT c",
                    "delta delta delta",
                ),
                (
                    "ALTER TABLE t ADD CONSTRAINT c NOT NULL n; ALTER TABLE t ALTER CONSTRAINT c NO INHERIT; \
                     ALTER TABLE t ALTER CONSTRAINT c INHERIT; ALTER TABLE t DROP CONSTRAINT c",
                    "delta delta delta",
                ),
                ("ALTER TABLE t ADD CONSTRAINT c CHECK (n > 100) NOT ENFORCED", "delta delta delta"),
                (
                    "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (n) REFERENCES referenced NOT ENFORCED; \
                     ALTER TABLE t ALTER CONSTRAINT c NOT ENFORCED",
                    "delta delta delta",
                ),
            ],
        ),
    ];
    for (major, what, lines) in lines {
        if Install::since(major, what).is_some() {
            check(PLAIN, lines);
        }
    }
}

#[test]
fn merge_deletes_what_its_source_lacks() {
    let Some(install) = Install::since(17, "MERGE … WHEN NOT MATCHED BY SOURCE") else { return };
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int); CREATE VIEW v AS SELECT * FROM t; \
         INSERT INTO t VALUES (1, 1), (2, 1), (3, 2); SELECT sync_track('t', '{f}')",
    );
    follow(
        &mut client,
        &[
            (
                "MERGE INTO t USING (VALUES (2, 1), (3, 1), (4, 1)) s (id, f) ON t.id = s.id \
                 WHEN MATCHED THEN UPDATE SET f = s.f WHEN NOT MATCHED THEN INSERT (id, f) VALUES (s.id, s.f) \
                 WHEN NOT MATCHED BY SOURCE THEN DELETE RETURNING merge_action(), t.*",
                r#"delete {"id": 1}, upsert {"id": 2}, upsert {"id": 3}, upsert {"id": 4}"#,
            ),
            (
                "MERGE INTO v USING (VALUES (2)) s (id) ON v.id = s.id WHEN NOT MATCHED BY SOURCE THEN UPDATE SET f = 5",
                r#"delete {"id": 3}, delete {"id": 4}"#,
            ),
        ],
    );
}

#[test]
fn policies_of_a_role_that_is_not_inherited_do_not_hold() {
    let Some(install) = Install::since(16, "GRANT … WITH INHERIT FALSE") else { return };
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int); \
         INSERT INTO t VALUES (1, 1), (2, 1), (3, 2); SELECT sync_track('t', '{f}'); \
         CREATE ROLE team; CREATE ROLE ann; GRANT SELECT ON t TO ann; ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY all_of_it ON t TO team USING (true); CREATE POLICY own ON t TO ann USING (id = 1); \
         GRANT team TO ann WITH INHERIT FALSE; SET ROLE ann",
    );
    let mut follower = Follower::new(SHAPE);
    follower.pull(&mut client);
    assert_eq!(follower.count(), 1);
    run(&mut client, "RESET ROLE; GRANT team TO ann WITH INHERIT TRUE; SET ROLE ann");
    assert_eq!(follower.pull(&mut client)[0], "reset shape");
    assert_eq!(follower.count(), 2);
    run(&mut client, "RESET ROLE; GRANT team TO ann WITH INHERIT FALSE; SET ROLE ann");
    follower.pull(&mut client);
    assert_eq!(follower.count(), 1);
}
