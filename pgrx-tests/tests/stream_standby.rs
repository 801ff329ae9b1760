//! Decoding on a hot standby: slots there, hand-over with pulls there, and what becomes of them when it is promoted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use postgres::Client;
use syncline_tests::histories::state;
use syncline_tests::relay::Relay;
use syncline_tests::slot::{run, truth};
use syncline_tests::{Cluster, Install};

const TABLES: &str = "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n text); SELECT sync_track('t', '{f}'); \
     CREATE TABLE p (id int PRIMARY KEY, of int); SELECT sync_track('p', '{of}'); SELECT sync_track('t', log_inserts => true); \
     INSERT INTO t SELECT g, g % 2, 'n' FROM generate_series(1, 6) g; INSERT INTO p SELECT g, g FROM generate_series(1, 6) g";

const FLAT: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;
const RELATIONAL: &str = r#"{"tables": {"p": {"where": "of IN (SELECT id FROM t WHERE f = 1)"}}}"#;

fn pair<'a>(install: &'a Install) -> [Cluster<'a>; 2] {
    let primary = Cluster::start_with(install, &[("hot_standby_feedback", "on")]);
    run(&mut primary.connect(), TABLES);
    let standby = primary.standby();
    standby.catch_up(&primary);
    [primary, standby]
}

/// A follower of a new slot on the standby. The slot waits until the primary tells which transactions run.
fn follower(primary: &Cluster<'_>, client: &mut Client) -> Relay {
    let shapes = [("flat", FLAT), ("relational", RELATIONAL)].map(|(id, shape)| (id.to_owned(), shape.to_owned()));
    let is_ready = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_ready.load(Ordering::Relaxed) {
                run(&mut primary.connect(), "SELECT pg_log_standby_snapshot()");
                thread::sleep(Duration::from_millis(100));
            }
        });
        let relay = Relay::new(client, "s", &shapes);
        is_ready.store(true, Ordering::Relaxed);
        relay.unwrap_or_else(|error| panic!("{error:?}"))
    })
}

/// All shapes are held, and true.
fn check(relay: &mut Relay, client: &mut Client) {
    for (id, shape) in [("flat", FLAT), ("relational", RELATIONAL)] {
        relay.pull(client, id).unwrap();
        assert_eq!(relay.held(id), Some(&truth(client, shape)), "{id}, {:?}", relay.count);
        relay.check(client, id).unwrap();
    }
}

#[test]
fn a_standby_streams_and_hands_over_and_goes_on_when_it_is_promoted_from_16_on_and_refuses_before() {
    let install = Install::new();
    let [primary, standby] = pair(&install);
    let (mut writer, mut client) = (primary.connect(), standby.connect());
    if install.major() < 16 {
        let refused = client.execute("SELECT pg_create_logical_replication_slot('s', 'syncline')", &[]);
        assert_eq!(state(&refused.unwrap_err()), "0A000");
        return;
    }
    // Open while the slot is made, and visible to nobody before that is read.
    let mut open = primary.connect();
    run(&mut open, "BEGIN; INSERT INTO t VALUES (50, 1, 'open')");
    let mut relay = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            run(&mut open, "COMMIT");
        });
        follower(&primary, &mut client)
    });
    standby.catch_up(&primary);
    check(&mut relay, &mut client);
    for round in 0..3 {
        run(
            &mut writer,
            &format!("INSERT INTO t VALUES (1{round}, 1, 'new');; UPDATE t SET f = 1 - f WHERE id = {round} + 1"),
        );
        run(&mut writer, "SELECT sync_heartbeat()");
        standby.catch_up(&primary);
        assert!(relay.stream(&mut client, i32::MAX).unwrap() >= 3);
        check(&mut relay, &mut client);
        // A pull of the primary will do as well.
        relay.join_all();
        check(&mut relay, &mut writer);
        relay.store(&mut client).unwrap();
    }
    assert!(relay.count.applied > 0 && relay.count.stale > 0, "{:?}", relay.count);
    // The same by a walsender of the standby.
    relay.resume(&mut client).unwrap();
    let mut replication = relay.connect(&standby).unwrap();
    run(&mut writer, "DELETE FROM t WHERE id = 50");
    while relay.read(&mut replication, Duration::from_millis(200)).unwrap() == 0 {}
    check(&mut relay, &mut client);
    replication.acknowledge(relay.save().unwrap()).unwrap();
    drop(replication);
    standby.wait_until("SELECT NOT bool_or(active) FROM pg_replication_slots");
    run(&mut writer, "UPDATE t SET n = 'last' WHERE id = 3");
    standby.catch_up(&primary);
    let pulls = relay.count.pulls;
    drop(writer);
    primary.stop();
    standby.promote();
    run(&mut client, "UPDATE t SET n = 'first' WHERE id = 5;; SELECT sync_heartbeat()");
    let begun = relay.count.begun;
    relay.resume(&mut client).unwrap();
    assert_eq!(relay.stream(&mut client, i32::MAX).unwrap(), 3);
    check(&mut relay, &mut client);
    assert_eq!((relay.count.begun, relay.count.pulls), (begun, pulls + 1), "only what is relational was pulled");
}
