//! Alterations that take more than one line to tell: partitions detached half way, names, defaults, event triggers.

use syncline_tests::alteration::{PARTITIONED, PLAIN, Stage, told};
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

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
