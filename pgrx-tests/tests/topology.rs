//! Cursors on standbys, across failover, rewind, restore and copies: the lines of docs/topology.md.

use std::thread;

use postgres::SimpleQueryMessage;
use syncline_tests::follower::Follower;
use syncline_tests::histories::{pull, state, tracked};
use syncline_tests::{Cluster, Install};

/// The shape of `histories::pull`.
const SHAPE: &str = r#"{"tables":{"t":{"where":"f = 1"}}}"#;

/// What a client is told: `delta`, `reset` and the reason, or the SQLSTATE. The law is checked.
fn told(cluster: &Cluster<'_>, follower: &mut Follower) -> String {
    told_in(cluster, "postgres", follower)
}

fn told_in(cluster: &Cluster<'_>, database: &str, follower: &mut Follower) -> String {
    match follower.try_pull(&mut cluster.connect_to(database)) {
        Ok(ops) => ops.into_iter().next().filter(|op| op.starts_with("reset")).unwrap_or("delta".to_owned()),
        Err(error) => state(&error),
    }
}

fn run(cluster: &Cluster<'_>, sql: &str) {
    cluster.connect().batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// A client that holds the shape as of now.
fn follower(cluster: &Cluster<'_>) -> Follower {
    let mut follower = Follower::new(SHAPE);
    assert_eq!(told(cluster, &mut follower), "reset start");
    follower
}

/// Pauses replay, and returns when it stands.
fn pause(standby: &Cluster<'_>) {
    run(standby, "SELECT pg_wal_replay_pause()");
    standby.wait_until("SELECT pg_get_wal_replay_pause_state() = 'paused'");
}

#[test]
fn cursors_travel_between_primary_standby_and_cascade() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let standby = primary.standby();
    let cascade = standby.standby();
    let servers = [&primary, &standby, &cascade];
    let mut travellers = [0, 1, 2].map(|_| follower(&primary));
    for round in 0..6 {
        let sql = [
            "DELETE FROM t WHERE f = 1 AND id = (SELECT max(id) FROM t WHERE f = 1)",
            "INSERT INTO t VALUES (100 + {}, 1)",
        ];
        run(&primary, &sql[round % 2].replace("{}", &round.to_string()));
        if round == 3 {
            run(&primary, "TRUNCATE t; INSERT INTO t SELECT g, g % 2 FROM generate_series(1, 9) g");
        }
        standby.catch_up(&primary);
        cascade.catch_up(&primary);
        for (start, traveller) in travellers.iter_mut().enumerate() {
            let expected = if round == 3 { "reset schema" } else { "delta" };
            assert_eq!(told(servers[(start + round) % 3], traveller), expected, "round {round}");
        }
    }
}

#[test]
fn wait_on_a_standby_and_a_cascade_returns_when_the_change_is_replayed() {
    let install = Install::new();
    let (primary, mut client) = tracked(&install, &[]);
    let standby = primary.standby();
    let cascade = standby.standby();
    let (_, cursor) = pull(&mut client, None).unwrap();
    for server in [&standby, &cascade] {
        server.catch_up(&primary);
    }
    let waiting = [&standby, &cascade].map(|server| {
        let (mut waiter, sql) = (server.connect(), format!("CALL sync_wait('{cursor}', '{SHAPE}', '60 s')"));
        thread::spawn(move || waiter.simple_query(&sql).unwrap())
    });
    for server in [&standby, &cascade] {
        server.wait_until(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL sync_wait%' AND wait_event = 'Extension'",
        );
    }
    client.batch_execute("DELETE FROM t WHERE id = 1").unwrap();
    for waiter in waiting {
        let changed = waiter
            .join()
            .unwrap()
            .into_iter()
            .any(|m| matches!(m, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")));
        assert!(changed);
    }
}

#[test]
fn standby_that_lags_is_a_retry_and_never_wrong() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let standby = primary.standby();
    standby.catch_up(&primary);
    let (mut behind, mut ahead) = (follower(&standby), follower(&primary));
    pause(&standby);
    run(&primary, "DELETE FROM t WHERE id = 1; UPDATE t SET f = 1 WHERE id = 2");
    assert_eq!(told(&primary, &mut ahead), "delta");
    assert_eq!(told(&standby, &mut ahead), "40001");
    assert_eq!(told(&standby, &mut behind), "delta");
    run(&standby, "SELECT pg_wal_replay_resume()");
    standby.catch_up(&primary);
    assert_eq!(told(&standby, &mut ahead), "delta");
    assert_eq!(told(&primary, &mut behind), "delta");
}

#[test]
fn promotion_without_loss_resets_nobody_anywhere() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let standby = primary.standby();
    let cascade = standby.standby();
    standby.catch_up(&primary);
    let mut clients = [follower(&primary), follower(&standby), follower(&primary)];
    run(&primary, "DELETE FROM t WHERE id = 1");
    primary.stop();
    standby.promote();
    run(&standby, "DELETE FROM t WHERE id = 3");
    assert_eq!(told(&standby, &mut clients[0]), "delta");
    assert_eq!(told(&standby, &mut clients[1]), "delta");
    // A cursor of the new timeline on a standby that follows it.
    cascade.catch_up(&standby);
    assert_eq!(told(&cascade, &mut clients[0]), "delta");
    assert_eq!(told(&cascade, &mut clients[2]), "delta");
}

#[test]
fn promotion_that_lost_transactions_resets_who_saw_them_also_after_pg_rewind() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[("wal_log_hints", "on"), ("wal_keep_size", "1GB")]);
    let standby = primary.standby();
    standby.catch_up(&primary);
    let mut before = [follower(&primary), follower(&primary), follower(&primary)];
    standby.stop();
    run(&primary, "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (7, 1)");
    let mut lost = [follower(&primary), follower(&primary)];
    primary.stop();
    standby.start_again();
    standby.promote();
    run(&standby, "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (8, 1); INSERT INTO t VALUES (9, 1)");
    assert_eq!(told(&standby, &mut before[0]), "delta");
    assert_eq!(told(&standby, &mut lost[0]), "reset timeline");
    // The old primary comes back on its own: the new timeline is none of its.
    primary.start_again();
    assert_eq!(told(&primary, &mut before[1]), "delta");
    let mut new = follower(&standby);
    assert_eq!(told(&primary, &mut new), "reset timeline");
    primary.stop();
    primary.rewind(&standby);
    primary.catch_up(&standby);
    assert_eq!(told(&primary, &mut before[2]), "delta");
    assert_eq!(told(&primary, &mut lost[1]), "reset timeline");
    assert_eq!(told(&primary, &mut before[0]), "delta");
}

#[test]
fn clone_that_is_promoted_beside_its_source_accepts_only_what_both_share() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let mut shared = follower(&primary);
    let clone = primary.standby();
    clone.promote();
    run(&primary, "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (7, 1)");
    run(&clone, "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (8, 1); INSERT INTO t VALUES (9, 1)");
    let (mut of_primary, mut of_clone) = (follower(&primary), follower(&clone));
    assert_eq!(told(&clone, &mut shared), "delta");
    assert_eq!(told(&clone, &mut of_primary), "reset timeline");
    assert_eq!(told(&primary, &mut of_clone), "reset timeline");
}

#[test]
fn point_in_time_restore_resets_who_is_past_the_point_and_a_second_one_needs_a_new_epoch() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let restores = [primary.backup("restore", &[]), primary.backup("restore", &[])];
    let mut before = [follower(&primary), follower(&primary)];
    run(&primary, "DELETE FROM t WHERE id = 1; SELECT pg_create_restore_point('here'); DELETE FROM t WHERE id = 3");
    let mut past = follower(&primary);
    for (restore, before) in restores.iter().zip(&mut before) {
        restore.recover(&primary, "here");
        assert_eq!(told(restore, before), "delta");
    }
    assert_eq!(told(&restores[0], &mut past), "reset timeline");
    let timelines = restores.each_ref().map(|restore| -> i32 {
        let sql = "SELECT timeline_id FROM pg_control_checkpoint()";
        run(restore, "CHECKPOINT");
        restore.connect().query_one(sql, &[]).unwrap().get(0)
    });
    assert_eq!(timelines, [2, 2], "the second restore knows nothing of the first");
    run(&restores[0], "DELETE FROM t WHERE id = 5");
    let (_, cursor) = pull(&mut restores[0].connect(), None).unwrap();
    run(&restores[1], "UPDATE t SET n = n + 1; UPDATE t SET n = n + 1; SELECT pg_switch_wal(); UPDATE t SET n = n + 1");
    let mut other = restores[1].connect();
    // Nothing tells the second restore that this cursor is of the first: so the README has the administrator say it.
    assert_ne!(pull(&mut other, Some(&cursor)).unwrap().0.first().map(String::as_str), Some("reset timeline"));
    other.batch_execute("SELECT sync_rotate_epoch()").unwrap();
    assert_eq!(pull(&mut other, Some(&cursor)).unwrap().0[0], "reset epoch");
}

#[test]
fn volume_that_was_rolled_back_resets_who_saw_more() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    // A backup with its own log starts where it ended, on the same timeline.
    let earlier = primary.backup("earlier", &["-X", "stream"]);
    run(&primary, "DELETE FROM t WHERE id = 1; INSERT INTO t SELECT g, 1 FROM generate_series(100, 2000) g");
    let (mut after, (_, cursor)) = (follower(&primary), pull(&mut primary.connect(), None).unwrap());
    primary.stop();
    earlier.start_again();
    assert_eq!(told(&earlier, &mut after), "reset timeline");
    run(&earlier, "DELETE FROM t WHERE id = 3");
    assert_eq!(told(&earlier, &mut after), "delta");
    for _ in 0..3 {
        run(&earlier, "INSERT INTO t SELECT g, 1 FROM generate_series(100, 4000) g; DELETE FROM t WHERE id > 99");
    }
    // The log has grown past the cursor: nothing tells any more.
    let mut client = earlier.connect();
    assert_ne!(pull(&mut client, Some(&cursor)).unwrap().0.first().map(String::as_str), Some("reset timeline"));
    client.batch_execute("SELECT sync_rotate_epoch()").unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0[0], "reset epoch");
}

#[test]
fn crash_resets_nobody() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let mut client = follower(&primary);
    run(&primary, "DELETE FROM t WHERE id = 1");
    primary.kill_9();
    primary.start_again();
    assert_eq!(told(&primary, &mut client), "delta");
}

#[test]
fn dump_restored_elsewhere_resets_and_keeps_the_law() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    // So that versions of the dump lie in the other cluster's future.
    run(&primary, "DO 'BEGIN FOR i IN 1..500 LOOP UPDATE t SET n = i WHERE id = 3; COMMIT; END LOOP; END'");
    let mut client = follower(&primary);
    let other = Cluster::start_unrelated(&install);
    primary.dump_into(&other, "postgres");
    assert_eq!(told(&other, &mut client), "reset epoch");
    assert_eq!(told(&other, &mut client), "delta");
    run(
        &other,
        "DELETE FROM t WHERE id = 1; UPDATE t SET f = 2 WHERE id = 5; INSERT INTO t VALUES (9, 1); UPDATE t SET n = 1 WHERE id = 3",
    );
    assert_eq!(told(&other, &mut client), "delta");
    run(&other, "TRUNCATE t");
    assert_eq!(told(&other, &mut client), "reset schema");
}

#[test]
fn copied_databases_reset_and_renamed_ones_do_not() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let (mut kept, mut copied, mut again) = (follower(&primary), follower(&primary), follower(&primary));
    let admin = || primary.connect_to("template1");
    admin().batch_execute("CREATE DATABASE copy TEMPLATE postgres").unwrap();
    primary.connect_to("copy").batch_execute("DELETE FROM t WHERE id = 1").unwrap();
    assert_eq!(told_in(&primary, "copy", &mut copied), "reset epoch");
    primary.connect_to("copy").batch_execute("DELETE FROM t WHERE id = 3").unwrap();
    assert_eq!(told_in(&primary, "copy", &mut copied), "delta");
    assert_eq!(told(&primary, &mut copied), "reset epoch");
    admin().batch_execute("ALTER DATABASE postgres RENAME TO renamed").unwrap();
    assert_eq!(told_in(&primary, "renamed", &mut kept), "delta");
    admin().batch_execute("DROP DATABASE renamed").unwrap();
    admin().batch_execute("CREATE DATABASE postgres TEMPLATE copy").unwrap();
    assert_eq!(told(&primary, &mut again), "reset epoch");
}

#[test]
fn dropped_and_created_extension_resets() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let mut client = follower(&primary);
    run(&primary, "DROP EXTENSION syncline CASCADE; DELETE FROM t WHERE id = 1; CREATE EXTENSION syncline");
    assert_eq!(told(&primary, &mut client), "55000");
    run(&primary, "SELECT sync_track('t', '{f}')");
    assert_eq!(told(&primary, &mut client), "reset epoch");
    run(&primary, "DELETE FROM t WHERE id = 3");
    assert_eq!(told(&primary, &mut client), "delta");
}
