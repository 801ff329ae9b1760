//! Waiting for a change: who commits wakes who waits, and nothing else does.

use std::thread::{self, JoinHandle};

use postgres::{Client, SimpleQueryMessage};
use syncline_tests::histories::{self, pull, state};
use syncline_tests::{Cluster, Install};

const SHAPE: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;

/// What a wait answers: `t` or `f`, or its SQLSTATE.
fn wait(client: &mut Client, since: &str, shape: Option<&str>, timeout: &str) -> String {
    let shape = shape.map_or("NULL".to_owned(), |shape| format!("'{shape}'"));
    match client.simple_query(&format!("CALL sync_wait('{since}', {shape}, '{timeout}')")) {
        Ok(messages) => {
            let rows =
                messages.iter().filter_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0) } else { None });
            rows.map(str::to_owned).collect()
        }
        Err(error) => state(&error),
    }
}

/// Sessions that wait, half of them for a shape and half for any table. All of them sleep when this returns.
fn waiters(cluster: &Cluster<'_>, since: &str, count: usize) -> Vec<JoinHandle<String>> {
    let start = |n: usize| {
        let (mut client, since) = (cluster.connect(), since.to_owned());
        thread::spawn(move || wait(&mut client, &since, n.is_multiple_of(2).then_some(SHAPE), "60 s"))
    };
    let waiters = (0..count).map(start).collect();
    sleep(cluster, count);
    waiters
}

fn sleep(cluster: &Cluster<'_>, count: usize) {
    cluster.wait_until(&format!(
        "SELECT count(*) = {count} AND bool_and(backend_xmin IS NULL) FROM pg_stat_activity \
         WHERE query LIKE 'CALL sync_wait%' AND wait_event = 'Extension'"
    ));
}

#[test]
fn commit_ends_the_waits_of_all_who_wait_and_a_rollback_ends_none() {
    let install = Install::new();
    let (cluster, mut client) = histories::tracked(&install, &[]);
    for round in 0..3 {
        let (_, cursor) = pull(&mut client, None).unwrap();
        let waiters = waiters(&cluster, &cursor, 12);
        client.batch_execute("BEGIN; UPDATE t SET n = -1 WHERE id = 1; ROLLBACK").unwrap();
        client.batch_execute("CREATE TABLE IF NOT EXISTS other (id int); INSERT INTO other VALUES (1)").unwrap();
        sleep(&cluster, 12);
        client.batch_execute(&format!("UPDATE t SET n = {round} + 10 WHERE id = 1")).unwrap();
        let answers: Vec<String> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        assert!(answers.iter().all(|answer| answer == "t"), "{answers:?}");
    }
}

#[test]
fn prepared_transaction_ends_a_wait_when_it_is_committed() {
    let install = Install::new();
    let (cluster, mut client) = histories::tracked(&install, &[("max_prepared_transactions", "2")]);
    let (_, cursor) = pull(&mut client, None).unwrap();
    let waiters = waiters(&cluster, &cursor, 2);
    client.batch_execute("BEGIN; UPDATE t SET n = 9 WHERE id = 1; PREPARE TRANSACTION 'one'").unwrap();
    sleep(&cluster, 2);
    // By a session that has written nothing.
    cluster.connect().batch_execute("COMMIT PREPARED 'one'").unwrap();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), "t");
    }
}

#[test]
fn waits_that_were_cancelled_or_whose_session_ended_leave_nothing_behind() {
    let install = Install::new();
    let (cluster, mut client) = histories::tracked(&install, &[]);
    let (_, mut cursor) = pull(&mut client, None).unwrap();
    // Of a session that is ended the driver tells the server's last word, or that it is closed.
    for (end, answers) in [("cancel", ["57014"].as_slice()), ("terminate", &["57P01", ""]), ("cancel", &["57014"])] {
        let ended = waiters(&cluster, &cursor, 4);
        let sql = format!("SELECT pg_{end}_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL sync_wait%'");
        client.batch_execute(&sql).unwrap();
        for waiter in ended {
            let answer = waiter.join().unwrap();
            assert!(answers.contains(&answer.as_str()), "{end}: {answer:?}");
        }
        // Whoever raised a flag is gone, and somebody else may have the place.
        client.batch_execute("UPDATE t SET n = n + 1 WHERE id = 1").unwrap();
        cursor = pull(&mut client, None).unwrap().1;
        let next = waiters(&cluster, &cursor, 6);
        client.batch_execute("UPDATE t SET n = n + 1 WHERE id = 1").unwrap();
        for waiter in next {
            assert_eq!(waiter.join().unwrap(), "t");
        }
        cursor = pull(&mut client, None).unwrap().1;
    }
}

#[test]
fn wait_for_any_table_follows_new_tables_and_rights() {
    let install = Install::new();
    let (cluster, mut client) = histories::tracked(&install, &[]);
    client.batch_execute("CREATE ROLE ann LOGIN").unwrap();
    let mut ann = cluster.connect();
    ann.batch_execute("SET ROLE ann").unwrap();
    let position = |client: &mut Client| -> String { client.query_one("SELECT sync_position()", &[]).unwrap().get(0) };
    let mut changed = |client: &mut Client, change: &str| {
        let since = position(client);
        client.batch_execute(change).unwrap();
        [client, &mut ann].map(|client| wait(client, &since, None, "1 ms"))
    };
    let update = "UPDATE t SET n = n + 1 WHERE id = 1";
    assert_eq!(changed(&mut client, update), ["t", "f"]);
    client.batch_execute("GRANT SELECT ON t TO ann").unwrap();
    assert_eq!(changed(&mut client, update), ["t", "t"]);
    client
        .batch_execute("REVOKE SELECT ON t FROM ann; CREATE TABLE v (id int PRIMARY KEY); SELECT sync_track('v')")
        .unwrap();
    assert_eq!(changed(&mut client, update), ["t", "f"]);
    assert_eq!(changed(&mut client, "INSERT INTO v VALUES (1)"), ["t", "f"]);
    client.batch_execute("CREATE ROLE readers; GRANT SELECT ON v TO readers; GRANT readers TO ann").unwrap();
    assert_eq!(changed(&mut client, "INSERT INTO v VALUES (2)"), ["t", "t"]);
    client.batch_execute("REVOKE readers FROM ann").unwrap();
    assert_eq!(changed(&mut client, "INSERT INTO v VALUES (3)"), ["t", "f"]);
}
