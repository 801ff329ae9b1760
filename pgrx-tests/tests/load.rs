//! Load: 64 clients and 16 writers, and thousands of calls in one session. `LOAD_SECONDS` and `LOAD_SEED` run it longer.

use std::time::Duration;

use syncline_tests::histories::{pull, state, tracked};
use syncline_tests::oracle::private_memory;
use syncline_tests::{Install, oracle};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// No bound depends on the length of the run.
#[test]
fn many_clients_and_writers_meet_no_deadlock_no_other_error_and_no_growth() {
    let (seconds, seed) = (number("LOAD_SECONDS", 60), number("LOAD_SEED", 1));
    let (report, load) = oracle::load(&Install::new(), seed, Duration::from_secs(seconds))
        .unwrap_or_else(|violation| panic!("{violation}"));
    println!("{report:?}\n{load:?}");
    assert!(report.pulls > 20 * seconds && report.writes > 20 * seconds, "the run did its work: {report:?}");
    assert_eq!(load.backends, 16 + 2 * 64 + 2, "writers, clients on both servers, who prunes and who looks");
    // Clients take up new shapes all the time: a backend keeps 4 MB of plans at most, and what Postgres itself keeps.
    assert!(load.mean[2] < 12_000 && load.largest < 40_000, "memory grew: {load:?}");
    assert!(load.log_rows.into_iter().max() < Some(5_000), "sync_prune left too much: {load:?}");
}

/// Calls that are made over and over, and the SQLSTATE that they end in; `{cursor}` is one from before changes.
const CALLS: [(&str, &str); 17] = [
    ("SELECT sync_pull('{now}', '{shape}')::text", ""),
    ("SELECT sync_pull('{cursor}', '{shape}')::text", ""),
    ("SELECT * FROM sync_changes('{cursor}', '{shape}')", ""),
    ("SELECT * FROM sync_changes(NULL, '{belonging}')", ""),
    // One transaction for all of them.
    ("BEGIN; SELECT * FROM sync_changes('{of belonging}', '{belonging}')", ""),
    ("SELECT * FROM sync_changes('{of belonging}', '{belonging}')", ""),
    ("SELECT * FROM sync_preview('{belonging}')", ""),
    ("SELECT * FROM sync_digest('{shape}')", ""),
    ("SELECT sync_position(), sync_sees('{cursor}', '1')", ""),
    ("CALL sync_wait('{cursor}', '{shape}')", ""),
    ("CALL sync_wait('{now}', '{shape}', '1 ms')", ""),
    ("SELECT sync_pull('x{cursor}', '{shape}')", "22P02"),
    ("SELECT sync_pull(NULL, '{\"tables\": {\"t\": {\"where\": \"f / 0 = 1 AND f LIKE now()\"}}}')", "0A000"),
    ("SELECT sync_pull('{cursor}', '{\"tables\": {\"none\": {}}}')", "42P01"),
    ("BEGIN; UPDATE t SET f = 3 - f WHERE id = 3; SELECT sync_pull(NULL, '{shape}'); COMMIT", "25001"),
    ("UPDATE t SET f = 3 - f WHERE id = 5; DELETE FROM t WHERE id = 9; INSERT INTO t VALUES (9, 1)", ""),
    ("SELECT sync_mutation('m', coalesce((SELECT mutation_id + 1 FROM syncline.client), 1)), sync_prune('1 s')", ""),
];

/// Calls before memory is looked at, and in each of the windows after. What leaks does so in all of them; what a cache takes
/// once, when statistics or definitions changed, in one.
const WARM_UP: u32 = 500;
const WINDOW: u32 = 700;
const WINDOWS: u32 = 3;

#[test]
fn thousands_of_calls_in_one_session_leave_its_memory_as_it_is() {
    let install = Install::new();
    let (cluster, mut client) = tracked(&install, &[]);
    client.batch_execute("CREATE TABLE u (id int PRIMARY KEY, f int NOT NULL); SELECT sync_track('u', '{f}', true); INSERT INTO u VALUES (1, 1)").unwrap();
    let shape = r#"{"tables": {"t": {"where": "f = 1"}}}"#;
    let belonging = r#"{"tables": {"t": {"where": "f IN (SELECT f FROM u WHERE id IN (SELECT f FROM u))"}}}"#;
    let mut cursor = |shape: &str| -> String {
        let sql = format!("SELECT sync_pull(NULL, '{shape}')->>'cursor'");
        client.query_one(&sql, &[]).unwrap().get(0)
    };
    let (of_shape, of_belonging) = (cursor(shape), cursor(belonging));
    client.batch_execute("UPDATE t SET f = 1 WHERE id = 2; DELETE FROM t WHERE id = 1; UPDATE u SET f = 2").unwrap();
    let (_, now) = pull(&mut client, Some(&of_shape)).unwrap();
    let mut grown = Vec::new();
    for (call, expected) in CALLS {
        let sql = [
            ("{shape}", shape),
            ("{belonging}", belonging),
            ("{of belonging}", &of_belonging),
            ("{cursor}", &of_shape),
            ("{now}", &now),
        ];
        let sql = sql.iter().fold(call.to_owned(), |sql, (name, value)| sql.replace(name, value));
        let mut session = cluster.connect();
        let pid = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let mut samples = Vec::new();
        for n in 0..=WARM_UP + WINDOWS * WINDOW {
            if n >= WARM_UP && (n - WARM_UP).is_multiple_of(WINDOW) {
                samples.push(private_memory(pid).unwrap());
            }
            let outcome = session.batch_execute(&sql).err().map(|error| state(&error)).unwrap_or_default();
            assert_eq!(outcome, expected, "{call}");
            if !expected.is_empty() {
                session.batch_execute("ROLLBACK").unwrap();
            }
        }
        let growth = samples.windows(2).map(|pair| (pair[1] - pair[0]) * 1024 / i64::from(WINDOW));
        let bytes = growth.min().unwrap();
        println!("{bytes} bytes: {call}");
        if bytes > 64 {
            grown.push(format!("{bytes} bytes at each call: {call}"));
        }
    }
    assert!(grown.is_empty(), "{grown:#?}");
}

/// A backend keeps a few megabytes of queries, and forgets them when there are more.
#[test]
fn shapes_without_end_leave_the_memory_of_a_session_bounded() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install, &[]);
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    // Nine conditions, each one of two: 512 queries of one length.
    let filter = |n: u32| {
        let conditions = (0..9).map(|bit| if n >> bit & 1 == 0 { "f = 1" } else { "f <> 2" });
        conditions.collect::<Vec<_>>().join(" AND ")
    };
    let mut samples = Vec::new();
    for n in 0..5 * 512 {
        let shape = format!(r#"{{"tables": {{"t": {{"where": "{}"}}}}}}"#, filter(n % 512));
        client.batch_execute(&format!("SELECT sync_pull(NULL, '{shape}')")).unwrap();
        if n % 512 == 511 {
            samples.push(private_memory(pid).unwrap());
        }
    }
    println!("{samples:?} kB");
    assert!(samples[4] < samples[1] + 200, "{samples:?} kB");
}

/// Whether a backend has loaded the compiler of queries.
fn has_compiler(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains("llvmjit")
}

#[test]
fn queries_of_pulls_are_not_compiled() {
    let install = Install::new();
    let (cluster, mut writer) = tracked(&install, &[("jit_above_cost", "100")]);
    let mut client = cluster.connect();
    writer.batch_execute("INSERT INTO t SELECT g, 1 FROM generate_series(10, 20000) g; ANALYZE t").unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    // To ask is to load it: so another session asks.
    let available: bool = writer.query_one("SELECT pg_jit_available()", &[]).unwrap().get(0);
    for _ in 0..2 {
        pull(&mut client, None).unwrap();
        writer.batch_execute("UPDATE t SET f = 1 - f").unwrap();
    }
    assert!(!has_compiler(pid), "a pull was compiled");
    client.batch_execute("SELECT sum(id + f) FROM t WHERE f < 2").unwrap();
    assert_eq!(has_compiler(pid), available, "what costs as much is compiled");
}
