//! What is in the log and in no snapshot yet: commits that wait for a synchronous standby, while a slot is made and later.

use postgres::Client;
use syncline_delta::snapshot::Snapshot;
use syncline_tests::relay::{Failure, Relay};
use syncline_tests::slot::{run, truth};
use syncline_tests::{Cluster, Install};

const SHAPE: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;

const TABLE: &str =
    "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n text); SELECT sync_track('t', '{f}')";

/// Whoever does not ask for it waits for no standby. Set from the start, as a reload reaches others when it likes.
const SETTINGS: [(&str, &str); 2] = [("synchronous_standby_names", "'nobody'"), ("synchronous_commit", "local")];

/// Who waits for a standby.
const HANGING: &str = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

fn shapes() -> [(String, String); 1] {
    [("a".to_owned(), SHAPE.to_owned())]
}

/// Nobody is waited for any more.
fn release(client: &mut Client) {
    run(client, "ALTER SYSTEM SET synchronous_standby_names = '';; SELECT pg_reload_conf()");
}

/// Lets all go on that hangs, also where a test fails: it would wait for them.
struct Release<'a>(&'a Cluster<'a>);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        release(&mut self.0.connect());
    }
}

/// A transaction that has begun, and its id.
fn open(cluster: &Cluster<'_>) -> (Client, String) {
    let mut client = cluster.connect();
    run(&mut client, "BEGIN");
    let xid = client.query_one("SELECT pg_current_xact_id()::text", &[]).unwrap().get(0);
    (client, xid)
}

/// Until somebody waits for the end of a transaction.
fn awaited(cluster: &Cluster<'_>, xid: &str) {
    cluster.wait_until(&format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid::text = '{xid}')"
    ));
}

/// A commit that hangs: it gets into the log, and into no snapshot.
fn hang(cluster: &Cluster<'_>, sql: &str) {
    let mut client = cluster.connect();
    run(&mut client, &format!("SET synchronous_commit = on;; {sql}"));
}

#[test]
fn a_commit_that_hangs_while_the_slot_is_made_is_lost_unless_pulls_have_seen_the_next_id_read_then() {
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &SETTINGS);
    let (mut client, mut admin) = (cluster.connect(), cluster.connect());
    run(&mut client, TABLE);
    let (mut first, first_xid) = open(&cluster);
    let (mut naive, mut careful) = std::thread::scope(|scope| {
        let _release = Release(&cluster);
        let slot = scope.spawn(|| run(&mut client, "SELECT pg_create_logical_replication_slot('s', 'syncline')"));
        // The slot waits for what was open when it began, and then for what was open at that point.
        awaited(&cluster, &first_xid);
        let (mut second, second_xid) = open(&cluster);
        run(&mut first, "ROLLBACK");
        awaited(&cluster, &second_xid);
        let late = scope.spawn(|| hang(&cluster, "INSERT INTO t VALUES (1, 1, 'late')"));
        cluster.wait_until(&format!("SELECT count(*) = 1 {HANGING}"));
        run(&mut second, "ROLLBACK");
        slot.join().unwrap();
        let next: i64 = admin.query_one("SELECT pg_current_xact_id()::text::int8", &[]).unwrap().get(0);
        // No transaction has an id below 3.
        let mut naive = Relay::joined("s", &shapes(), Snapshot::new(3, []));
        let mut careful = Relay::joined("s", &shapes(), Snapshot::new(next.unsigned_abs(), []));
        for relay in [&mut naive, &mut careful] {
            relay.pull(&mut admin, "a").unwrap();
        }
        assert_eq!((naive.count.pulls, careful.count.pulls, careful.count.early), (1, 0, 1));
        release(&mut admin);
        late.join().unwrap();
        (naive, careful)
    });
    run(&mut client, "SELECT sync_heartbeat();; INSERT INTO t VALUES (2, 1, 'after')");
    for relay in [&mut naive, &mut careful] {
        assert_eq!(relay.stream(&mut client, i32::MAX).unwrap(), 2, "the slot does not have the one that hung");
        relay.pull(&mut client, "a").unwrap();
    }
    let now = truth(&mut client, SHAPE);
    assert_eq!(now.len(), 2);
    assert_eq!(careful.held("a"), Some(&now));
    assert_eq!(naive.held("a").unwrap().len(), 1);
    // Its position claims to have seen it: no pull brings it any more.
    assert!(matches!(naive.check(&mut client, "a"), Err(Failure::Law(_))));
    careful.check(&mut client, "a").unwrap();
}

#[test]
fn a_slot_that_is_lost_to_the_limit_of_its_log_loses_nothing() {
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &[("max_slot_wal_keep_size", "'1MB'")]);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    run(&mut client, "INSERT INTO t SELECT g, g % 2, 'n' FROM generate_series(1, 9) g");
    let mut relay = Relay::new(&mut client, "s", &shapes()).unwrap();
    relay.pull(&mut client, "a").unwrap();
    run(&mut client, "DELETE FROM t WHERE id = 1;; SELECT sync_heartbeat()");
    relay.stream(&mut client, i32::MAX).unwrap();
    relay.store(&mut client).unwrap();
    run(&mut client, "UPDATE t SET f = 0 WHERE id = 3;; INSERT INTO t VALUES (11, 1, 'unread')");
    for id in 100..103 {
        run(&mut client, &format!("INSERT INTO t VALUES ({id}, 0, 'n');; SELECT pg_switch_wal();; CHECKPOINT"));
    }
    let sql = "SELECT wal_status FROM pg_replication_slots";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, &str>(0), "lost");
    assert!(matches!(relay.stream(&mut client, i32::MAX), Err(Failure::Server(_))));
    run(&mut client, "SELECT pg_drop_replication_slot('s')");
    relay.resume(&mut client).unwrap();
    let (pulls, now) = (relay.count.pulls, truth(&mut client, SHAPE));
    relay.pull(&mut client, "a").unwrap();
    assert_eq!((relay.count.pulls, relay.held("a")), (pulls + 1, Some(&now)));
    run(&mut client, "DELETE FROM t WHERE id = 11");
    assert_eq!(relay.stream(&mut client, i32::MAX).unwrap(), 1);
    assert_eq!(relay.held("a"), Some(&truth(&mut client, SHAPE)));
}

#[test]
fn a_position_that_saw_what_a_failover_lost_is_refused_and_the_follower_begins_anew() {
    let install = Install::new();
    let primary = Cluster::start(&install);
    let mut client = primary.connect();
    run(&mut client, TABLE);
    let standby = primary.standby();
    let mut relay = Relay::new(&mut client, "s", &shapes()).unwrap();
    relay.pull(&mut client, "a").unwrap();
    run(&mut client, "INSERT INTO t VALUES (1, 1, 'kept')");
    standby.catch_up(&primary);
    standby.stop();
    run(
        &mut client,
        "INSERT INTO t SELECT g, 1, 'lost' FROM generate_series(2, 200) g;; INSERT INTO t VALUES (201, 1, 'lost')",
    );
    relay.stream(&mut client, i32::MAX).unwrap();
    assert_eq!(relay.held("a").unwrap().len(), 201);
    drop(client);
    primary.kill_9();
    standby.start_again();
    standby.promote();
    let mut client = standby.connect();
    // Somebody has made the slot there already, and ids that were seen are given again.
    run(
        &mut client,
        "SELECT pg_create_logical_replication_slot('s', 'syncline');; INSERT INTO t VALUES (2, 1, 'other');; INSERT INTO t VALUES (3, 1, 'other')",
    );
    let Err(Failure::Server(refused)) = relay.stream(&mut client, i32::MAX) else { panic!("it was not refused") };
    assert_eq!(refused.code().unwrap().code(), "55000");
    relay.begin(&mut client).unwrap();
    for _ in 0..2 {
        relay.pull(&mut client, "a").unwrap();
        relay.stream(&mut client, i32::MAX).unwrap();
    }
    assert_eq!(relay.held("a"), Some(&truth(&mut client, SHAPE)));
    assert_eq!(relay.held("a").unwrap().len(), 3);
}

const WRITERS: i32 = 20;

/// Writers hang until `end`, in which a shape joins and others write and roll back.
fn hold_once(primary: &Cluster<'_>, end: impl FnOnce(&mut Client)) {
    let mut client = primary.connect();
    run(&mut client, TABLE);
    let mut relay = Relay::new(&mut client, "s", &shapes()).unwrap();
    relay.pull(&mut client, "a").unwrap();
    std::thread::scope(|scope| {
        let _release = Release(primary);
        for id in 1..=WRITERS {
            scope.spawn(move || hang(primary, &format!("INSERT INTO t VALUES ({id}, 1, 'late')")));
        }
        primary.wait_until(&format!("SELECT count(*) = {WRITERS} {HANGING}"));
        for _ in 0..300 {
            run(&mut client, "BEGIN; SELECT pg_current_xact_id(); ROLLBACK");
        }
        run(&mut client, "INSERT INTO t VALUES (0, 1, 'seen')");
        relay.stream(&mut client, i32::MAX).unwrap();
        // In the stream, and in no snapshot: a pull must neither take them away nor be taken for up to date.
        assert_eq!(relay.held("a").unwrap().len(), WRITERS as usize + 1);
        assert_eq!(truth(&mut client, SHAPE).len(), 1);
        relay.add("b", SHAPE);
        relay.join_all();
        for id in ["a", "b"] {
            relay.pull(&mut client, id).unwrap();
        }
        assert_eq!((relay.count.pulls, relay.count.early), (1, 2));
        end(&mut client);
    });
    for id in ["a", "b"] {
        relay.pull(&mut client, id).unwrap();
        assert_eq!(relay.held(id), Some(&truth(&mut client, SHAPE)));
    }
    run(&mut client, "SELECT sync_heartbeat()");
    relay.stream(&mut client, i32::MAX).unwrap();
    let position = relay.position().unwrap();
    assert!(position.snapshot.xip().is_empty() && position.to_string().len() < 100, "{position}");
    relay.check(&mut client, "a").unwrap();
}

#[test]
fn a_commit_whose_wait_is_cancelled_is_held_once_and_the_next_heartbeat_shortens_the_position() {
    let install = Install::new();
    let primary = Cluster::start_with(&install, &SETTINGS);
    hold_once(&primary, |client| {
        run(client, &format!("SELECT pg_cancel_backend(pid) {HANGING}"));
        primary.wait_until(&format!("SELECT count(*) = 0 {HANGING}"));
    });
}

#[test]
fn a_commit_that_no_longer_waits_is_held_once_and_the_next_heartbeat_shortens_the_position() {
    let install = Install::new();
    let primary = Cluster::start_with(&install, &SETTINGS);
    hold_once(&primary, release);
}

#[test]
fn a_commit_whose_standby_stood_still_is_held_once_and_the_next_heartbeat_shortens_the_position() {
    let install = Install::new();
    let primary =
        Cluster::start_with(&install, &[("synchronous_standby_names", "'*'"), ("synchronous_commit", "local")]);
    let standby = primary.standby();
    primary.wait_until("SELECT coalesce(bool_or(sync_state = 'sync'), false) FROM pg_stat_replication");
    let stopped = standby.stopped();
    hold_once(&primary, |_| {
        drop(stopped);
        primary.wait_until(&format!("SELECT count(*) = 0 {HANGING}"));
    });
}
