//! The plugin as its clients meet it: options, positions, errors, and the replication protocol.

use std::process::Command;

use postgres::Client;
use syncline_delta::cursor::Position;
use syncline_tests::slot::{object, run};
use syncline_tests::{Cluster, Install, is_alive};

const SHAPES: &str = r#"{"a": {"tables": {"t": {"where": "f = 1"}}}}"#;

const TABLE: &str = "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n text); SELECT sync_track('t', '{f}');; \
     SELECT pg_create_logical_replication_slot('s', 'syncline')";

/// Reads the slot without acknowledging; the objects, and the SQLSTATE and message of an error.
fn peek(client: &mut Client, options: &[&str]) -> Result<Vec<String>, (String, String)> {
    let sql = "SELECT data FROM pg_logical_slot_peek_changes('s', NULL, NULL, VARIADIC $1::text[])";
    match client.query(sql, &[&options]) {
        Ok(rows) => Ok(rows
            .iter()
            .flat_map(|row| row.get::<_, String>(0).split('\n').map(str::to_owned).collect::<Vec<_>>())
            .collect()),
        Err(error) => {
            let error = error.as_db_error().expect("the server says why");
            assert!(error.hint().is_some() || error.detail().is_some(), "{error:?}");
            Err((error.code().code().to_owned(), error.message().to_owned()))
        }
    }
}

/// The positions of the commits.
fn positions(lines: &[String]) -> Vec<Position> {
    lines.iter().filter_map(|line| object(line).cursor.map(|cursor| cursor.parse().expect("a position"))).collect()
}

#[test]
fn options_that_mean_nothing_are_refused_with_a_hint_and_the_slot_stays_usable() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    run(&mut client, "INSERT INTO t VALUES (1, 1, 'x')");
    for (options, state, message) in [
        (vec!["shape", "{}"], "22023", "option \"shape\" is not known"),
        (vec!["shapes", SHAPES, "shapes", SHAPES], "22023", "option \"shapes\" is given twice"),
        (vec!["shapes", "{\"a\": {}}"], "22023", "shape has no \"tables\""),
        (vec!["shapes", "{"], "22023", "option \"shapes\" is malformed"),
        (
            vec!["shapes", r#"{"a": {"tables": {"t": {"where": "now() > at"}}}}"#],
            "0A000",
            "filter uses what the grammar does not have: now",
        ),
        (vec!["since", "s1.x"], "22P02", "invalid cursor"),
        (vec!["not_before", "soon"], "22023", "option \"not_before\" is no transaction id"),
        (vec!["topics", "all"], "22023", "option \"topics\" must be a JSON array of strings"),
    ] {
        assert_eq!(peek(&mut client, &options), Err((state.to_owned(), message.to_owned())));
    }
    assert_eq!(peek(&mut client, &["shapes", SHAPES]).unwrap().len(), 2);
    assert!(peek(&mut client, &[]).unwrap().is_empty(), "without shapes there is nothing to send");
}

#[test]
fn positions_grow_with_what_was_sent_and_collapse_to_a_heartbeat() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    let mut open = cluster.connect();
    run(&mut open, "BEGIN; INSERT INTO t VALUES (100, 1, 'open')");
    let held: i64 = open.query_one("SELECT pg_current_xact_id()::text::int8", &[]).unwrap().get(0);
    for id in 1..=60 {
        run(
            &mut client,
            &format!("INSERT INTO t VALUES ({id}, {}, 'x');; BEGIN; SELECT pg_current_xact_id(); ROLLBACK", id % 2),
        );
    }
    run(&mut client, "SELECT sync_heartbeat();; INSERT INTO t VALUES (61, 1, 'x')");
    run(&mut open, "COMMIT");
    let lines = peek(&mut client, &["shapes", SHAPES]).unwrap();
    let all = positions(&lines);
    assert_eq!(all.len(), 30 + 3);
    for pair in all.windows(2) {
        assert!(pair[1].snapshot.dominates(&pair[0].snapshot) && pair[1].lsn > pair[0].lsn, "{pair:?}");
    }
    let (grown, collapsed, after, last) = (&all[29], &all[30], &all[31], &all[32]);
    // Aborted transactions leave no trace in the stream, until a heartbeat has seen their end.
    assert!(grown.snapshot.xip().len() > 50, "{grown}");
    assert_eq!(collapsed.snapshot.xip(), [held as u64], "{collapsed}");
    assert_eq!(after.snapshot.xip(), [held as u64], "{after}");
    assert!(last.snapshot.xip().is_empty(), "{last}");
    let now: String = client.query_one("SELECT sync_position()", &[]).unwrap().get(0);
    let now: Position = now.parse().unwrap();
    assert_eq!(
        (now.system, now.database, now.timeline, now.epoch),
        (last.system, last.database, last.timeline, last.epoch)
    );
    assert!(now.snapshot.dominates(&last.snapshot) && now.lsn >= last.lsn);
    let sees = client.query_one("SELECT sync_sees($1, $2::int8::text::xid8)", &[&last.to_string(), &held]).unwrap();
    assert!(sees.get::<_, bool>(0));
    // What a position has seen is not sent again; a start that is given is what positions begin with.
    assert_eq!(peek(&mut client, &["shapes", SHAPES, "since", &collapsed.to_string()]).unwrap().len(), 4);
    assert!(peek(&mut client, &["shapes", SHAPES, "since", &last.to_string()]).unwrap().is_empty());
    let begun = peek(&mut client, &["shapes", SHAPES, "not_before", &(held as u64 + 20).to_string()]).unwrap();
    assert_eq!(begun.len(), lines.len());
    assert!(positions(&begun)[0].snapshot.xmax() >= held as u64 + 20);
}

#[test]
fn a_position_that_the_slot_cannot_continue_from_is_refused() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    run(&mut client, "INSERT INTO t VALUES (1, 1, 'x');; INSERT INTO t VALUES (2, 1, 'y')");
    let lines = peek(&mut client, &["shapes", SHAPES]).unwrap();
    let [first, second] = positions(&lines).try_into().unwrap();
    let advance = |position: &Position| {
        format!("SELECT pg_replication_slot_advance('s', '{:X}/{:X}')", position.lsn >> 32, position.lsn & 0xffff_ffff)
    };
    run(&mut client, &advance(&first));
    assert_eq!(peek(&mut client, &["shapes", SHAPES, "since", &first.to_string()]).unwrap().len(), 2);
    run(&mut client, &advance(&second));
    let refused = |client: &mut Client, since: &Position| {
        peek(client, &["shapes", SHAPES, "since", &since.to_string()]).unwrap_err()
    };
    assert_eq!(
        refused(&mut client, &first),
        ("55000".to_owned(), "option \"since\" is older than what was acknowledged to the slot".to_owned())
    );
    let foreign = Position { system: second.system + 1, ..second.clone() };
    assert_eq!(refused(&mut client, &foreign).1, "option \"since\" is of another cluster or database");
    run(&mut client, "INSERT INTO t VALUES (3, 1, 'z')");
    let foreign = Position { epoch: second.epoch + 1, ..second.clone() };
    assert_eq!(refused(&mut client, &foreign).1, "option \"since\" is of another epoch");
    // An epoch that changes on the way is told.
    run(&mut client, "SELECT sync_rotate_epoch();; INSERT INTO t VALUES (4, 1, 'z')");
    let lines = peek(&mut client, &["shapes", SHAPES, "since", &second.to_string()]).unwrap();
    let summaries: Vec<String> = lines.iter().map(|line| object(line).summary()).collect();
    assert_eq!(summaries[2..4], ["stale a barrier", "commit "]);
    let epochs: Vec<u64> = positions(&lines).iter().map(|position| position.epoch).collect();
    assert!(epochs[0] == second.epoch && epochs[1] != second.epoch && epochs[2] == epochs[1], "{epochs:?}");
}

/// Bytes in use in the backend, as Postgres and as the kernel count them.
fn memory(client: &mut Client) -> (i64, i64) {
    let sql = "SELECT sum(total_bytes)::int8, pg_backend_pid() FROM pg_backend_memory_contexts";
    let row = client.query_one(sql, &[]).unwrap();
    let (contexts, pid) = (row.get(0), row.get::<_, i32>(1));
    assert!(is_alive(pid.unsigned_abs()));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    (contexts, data.trim().trim_end_matches(" kB").parse::<i64>().unwrap() << 10)
}

#[test]
fn ten_thousand_rounds_of_an_error_and_another_try_leak_nothing() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    run(&mut client, "INSERT INTO t SELECT g, 1, repeat('x', 500) FROM generate_series(1, 20) g");
    let lines = peek(&mut client, &["shapes", SHAPES]).unwrap();
    assert_eq!(lines.len(), 21);
    let good = &positions(&lines)[0];
    // The error comes at the commit, when everything has been collected.
    let bad =
        Position { epoch: good.epoch + 1, snapshot: syncline_delta::snapshot::Snapshot::new(3, []), ..good.clone() };
    let bad = bad.to_string();
    let mut before = (0, 0);
    for round in 0..10_000 {
        let (state, _) = peek(&mut client, &["shapes", SHAPES, "since", &bad]).unwrap_err();
        assert_eq!(state, "55000");
        if round % 10 == 0 {
            assert_eq!(peek(&mut client, &["shapes", SHAPES]).unwrap().len(), 21);
        }
        if round == 1_000 {
            before = memory(&mut client);
        }
    }
    let after = memory(&mut client);
    println!("contexts {} -> {}, data segment {} -> {}", before.0, after.0, before.1, after.1);
    assert!(after.0 - before.0 < 100_000, "memory contexts grew: {before:?} -> {after:?}");
    assert!(after.1 - before.1 < 1_000_000, "the backend grew: {before:?} -> {after:?}");
}

#[test]
fn the_replication_protocol_carries_the_same_lines() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    run(
        &mut client,
        "INSERT INTO t VALUES (1, 1, 'x');; SELECT sync_publish('p', '1', false);; DELETE FROM t;; INSERT INTO t VALUES (2, 1, 'y')",
    );
    // The second one cannot be bound, which is an error inside: the protocol's transactions are not those of SQL. Its
    // constant is a parameter, as pg_recvlogical of older minors does not double quotes.
    let shapes = r#"{"a": {"tables": {"t": {"table": "public.t", "where": "f = 1"}}},
        "b": {"tables": {"t": {"table": "public.t", "where": "f = $1"}}, "params": ["word"]}}"#;
    let expected = peek(&mut client, &["shapes", shapes, "topics", "[\"\"]"]).unwrap();
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).unwrap().get(0);
    let receive = |shapes: &str| {
        Command::new(install.program("pg_recvlogical"))
            .args([
                "-h",
                &cluster.socket().display().to_string(),
                "-U",
                "postgres",
                "-d",
                "postgres",
                "-S",
                "s",
                "--start",
            ])
            .args(["--no-loop", "-f", "-", "-o", &format!("shapes={shapes}"), "-o", "topics=[\"\"]", "--endpos", &end])
            .output()
            .unwrap()
    };
    // It empties the search path.
    let refused = String::from_utf8(receive(SHAPES).stderr).unwrap();
    assert!(refused.contains("shape \"a\" names table \"t\" without its schema"), "{refused}");
    let output = receive(shapes);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines, expected);
    assert_eq!(lines.iter().filter(|line| line.contains(r#""shape": "b""#)).count(), 3);
    assert_eq!(lines.len(), 10, "{lines:?}");
}

/// Prints the lines of so many messages, then acknowledges them.
const DRIVER: &str = "
import sys, select, psycopg2
from psycopg2.extras import LogicalReplicationConnection
cursor = psycopg2.connect('', connection_factory=LogicalReplicationConnection).cursor()
cursor.start_replication(slot_name='s', decode=True, options={'shapes': sys.argv[1]})
count = int(sys.argv[2])
while count:
    message = cursor.read_message()
    if message is None:
        select.select([cursor], [], [], 1)
        continue
    print(message.payload)
    count -= 1
    cursor.send_feedback(flush_lsn=message.data_start, force=True)
";

#[test]
fn a_drivers_replication_connection_gets_the_same_lines_while_they_are_written() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, TABLE);
    let driver = Command::new("/usr/bin/python3")
        .args(["-c", DRIVER, SHAPES, "3"])
        .env("PGHOST", cluster.socket())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "postgres")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    cluster.wait_until("SELECT bool_or(active) FROM pg_replication_slots");
    run(&mut client, "INSERT INTO t VALUES (1, 1, 'x');; UPDATE t SET f = 2;; SELECT sync_heartbeat()");
    let output = driver.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let summaries: Vec<String> = text.lines().map(|line| object(line).summary()).collect();
    let expected =
        [r#"upsert a t {"f": 1, "n": "x", "id": 1}"#, "commit a", r#"delete a t {"id": 1}"#, "commit a", "commit a"];
    assert_eq!(summaries, expected);
}

#[test]
fn tables_named_as_internal_ones_are_nobodys_where_the_extension_is_not() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE SCHEMA syncline;; SELECT pg_create_logical_replication_slot('s', 'syncline');; \
         CREATE TABLE syncline.message (topic int, payload int);; CREATE TABLE syncline.heartbeat (a int, b int);; \
         CREATE TABLE syncline.log (a int);; CREATE TABLE syncline.barrier (a int);; CREATE TABLE syncline.altered (a int);; \
         CREATE TABLE syncline.state (a int PRIMARY KEY, epoch text)",
    );
    for table in ["message VALUES (7, 8)", "heartbeat VALUES (7, 8)", "log VALUES (7)", "barrier VALUES (7)"] {
        run(&mut client, &format!("INSERT INTO syncline.{table}"));
    }
    run(&mut client, "INSERT INTO syncline.altered VALUES (7);; INSERT INTO syncline.state VALUES (1, 'x')");
    run(&mut client, "UPDATE syncline.state SET epoch = 'y'");
    assert!(peek(&mut client, &["topics", "[\"\"]", "shapes", SHAPES]).unwrap().is_empty());
}
