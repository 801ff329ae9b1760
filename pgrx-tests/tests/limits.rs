//! Input and data of any size: an answer, or SQLSTATE 54000, in bounded memory.

use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Error};
use serde_json::json;
use syncline_delta::cursor::Cursor;
use syncline_delta::snapshot::Snapshot;
use syncline_tests::histories::state;
use syncline_tests::slot::{Slot, run};
use syncline_tests::{Cluster, Install};

const MB: usize = 1 << 20;

/// A session whose memory is its own to account for.
struct Backend {
    client: Client,
    pid: i32,
}

impl Backend {
    fn new(cluster: &Cluster<'_>) -> Self {
        let mut client = cluster.connect();
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        Self { client, pid }
    }

    /// The most memory that it ever had, shared memory included, in MB.
    fn peak(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    }

    /// Runs a statement with two arguments, on a fresh session's memory, and checks what it took: the SQLSTATE it ended
    /// in, or an empty one.
    fn ask(cluster: &Cluster<'_>, sql: &str, since: Option<&str>, shape: &str, most: usize) -> String {
        let mut backend = Self::new(cluster);
        let outcome: Result<_, Error> = backend.client.query(sql, &[&since, &shape]);
        let peak = backend.peak();
        println!("{peak} MB: {sql:.60}");
        assert!(peak < most, "{sql} took {peak} MB; {shape:.200}");
        outcome.err().map(|error| state(&error)).unwrap_or_default()
    }
}

const CHANGES: &str = "SELECT count(*) FROM sync_changes($1::text, $2::text::jsonb)";
const PULL: &str = "SELECT length(sync_pull($1::text, $2::text::jsonb)::text)";
const PREVIEW: &str = "SELECT max(length(value::text)) FROM sync_preview($2::text::jsonb) WHERE $1::text IS NULL";
const DIGEST: &str = "SELECT * FROM sync_digest($2::text::jsonb) WHERE $1::text IS NULL";

fn filtered(filter: &str) -> String {
    json!({"tables": {"t": {"where": filter}}}).to_string()
}

#[test]
fn shapes_and_cursors_of_any_size_are_answered_or_refused() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute("CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, b boolean); SELECT sync_track('t', '{f,b}'); INSERT INTO t VALUES (1, 1)")
        .unwrap();
    let numbers: Vec<u32> = (0..100_000).collect();
    let list = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let long = "x".repeat(MB);
    let tables: serde_json::Map<_, _> = (0..20_000).map(|n| (format!("a{n}"), json!({"table": "t"}))).collect();
    let names: Vec<String> = (0..100_000).map(|n| format!("c{n}")).collect();
    let mut wrong = Vec::new();
    for (what, shape, expected) in [
        ("a list", filtered(&format!("id IN ({list})")), ""),
        (
            "a list as parameter",
            json!({"tables": {"t": {"where": "id = ANY($1)"}}, "params": [numbers]}).to_string(),
            "",
        ),
        ("a text", filtered(&format!("f = '{long}'")), "54000"),
        ("a name", json!({"tables": {long.as_str(): {}}}).to_string(), "54000"),
        (
            "a short text in a long shape",
            json!({"tables": {"t": {"where": "f = $1"}}, "params": [long]}).to_string(),
            "54000",
        ),
        ("columns", json!({"tables": {"t": {"columns": names}}}).to_string(), "42703"),
        ("the same table", json!({ "tables": tables }).to_string(), ""),
        ("brackets", filtered(&format!("{}b{}", "(".repeat(10_000), ")".repeat(10_000))), "54000"),
        ("NOT", filtered(&format!("{}b", "NOT ".repeat(9_000))), "54000"),
        ("NOT in brackets", filtered(&format!("{}b{}", "NOT (".repeat(10_000), ")".repeat(10_000))), "54000"),
        ("OR", filtered(&format!("f = 1{}", " OR f = 1".repeat(10_000))), "54000"),
        ("mixed", filtered(&format!("b{}", " AND (b OR NOT b".repeat(10_000) + &")".repeat(10_000))), "54000"),
        (
            "sub-selects",
            filtered(&format!("{}f IS NULL{}", "f IN (SELECT f FROM t WHERE ".repeat(5_000), ")".repeat(5_000))),
            "54000",
        ),
        ("JSON paths", filtered(&format!("b{} = '1'", " -> 'a'".repeat(10_000))), "54000"),
        ("casts", filtered(&format!("f = '1'{}", "::int".repeat(10_000))), "54000"),
        ("minus", filtered(&format!("f = {}1", "- ".repeat(10_000))), "54000"),
        (
            "nested arrays",
            format!(
                r#"{{"tables": {{"t": {{"where": "f = $1"}}}}, "params": [{}1{}]}}"#,
                "[".repeat(4_000),
                "]".repeat(4_000)
            ),
            "22023",
        ),
    ] {
        let state = Backend::ask(&cluster, CHANGES, None, &shape, 500);
        if state != expected {
            wrong.push(format!("{what}: {state}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let sql = r#"SELECT cursor FROM sync_changes(NULL, '{"tables": {"t": {}}}') WHERE cursor IS NOT NULL"#;
    let text: String = client.query_one(sql, &[]).unwrap().get(0);
    let real: Cursor = text.parse().unwrap();
    let (xmax, shape) = (real.position.snapshot.xmax(), r#"{"tables": {"t": {}}}"#);
    for (what, snapshot, expected) in [
        ("all its own", Snapshot::new(xmax, 3..xmax), "reset"),
        ("a million to come", Snapshot::new(xmax + 1_000_000, xmax..xmax + 1_000_000), "40001"),
        ("a million apart", Snapshot::new(u64::MAX / 2, (0..1_000_000).map(|n| 3 + n * 1_000_003)), "54000"),
        ("two millions", Snapshot::new(3_000_000, 3..2_000_003), "54000"),
    ] {
        let mut forged = real.clone();
        forged.position.snapshot = snapshot;
        let state = Backend::ask(&cluster, CHANGES, Some(&forged.to_string()), shape, 700);
        assert_eq!(state, if expected == "reset" { "" } else { expected }, "{what}");
    }
    assert!(!cluster.log().contains("terminated by signal"));
}

/// Bytes as the wire brings them, be they text or not.
#[derive(Debug)]
struct Raw(&'static [u8]);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[test]
fn bytes_that_are_no_text_are_refused_everywhere() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f text); SELECT sync_track('t', '{f}')",
    );
    let calls = [
        "SELECT sync_changes($1::text, '{\"tables\": {\"t\": {}}}')",
        "SELECT sync_pull(NULL, $1::text::jsonb)",
        "SELECT sync_preview($1::text::jsonb)",
        "SELECT sync_digest(jsonb_build_object('tables', jsonb_build_object('t', jsonb_build_object('where', $1::text))))",
        "SELECT sync_digest(jsonb_build_object('tables', jsonb_build_object($1::text, '{}'::jsonb)))",
        "SELECT sync_sees($1::text, '1')",
        "SELECT sync_define($1::text, '{\"tables\": {\"t\": {}}}')",
        "SELECT sync_mutation($1::text, 1)",
        "SELECT sync_publish($1::text, '1')",
        "SELECT sync_track('t', ARRAY[$1::text])",
    ];
    for bytes in [&b"a\0b"[..], b"\0", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"caf\xc3"] {
        for call in calls {
            let refused = client.query(call, &[&Raw(bytes)]).map(|_| ()).map_err(|error| state(&error));
            assert_eq!(refused, Err("22021".to_owned()), "{bytes:?}: {call}");
        }
    }
    // What is text, and names what is none.
    for (shape, expected) in [
        (r#"{"tables": {"t\u0000": {}}}"#, "22P05"),
        (r#"{"tables": {"t": {"where": "f = '\u0000'"}}}"#, "22P05"),
        (r#"{"tables": {"t": {"where": "f = '\ud800'"}}}"#, "22P02"),
        (r#"{"tables": {"t": {"where": "f = E'\\x00'"}}}"#, "42601"),
        (r#"{"tables": {"t": {"where": "f = U&'\\0000'"}}}"#, "0A000"),
        (r#"{"tables": {"t": {"where": "f = $1"}}, "params": ["\u0000"]}"#, "22P05"),
    ] {
        assert_eq!(Backend::ask(&cluster, CHANGES, None, shape, 500), expected, "{shape}");
    }
    assert!(!cluster.log().contains("terminated by signal"));
}

#[test]
fn logs_of_millions_of_rows_are_read_in_bounded_memory() {
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &[("max_wal_size", "'4GB'")]);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE many (id int PRIMARY KEY, f int); \
         INSERT INTO many SELECT g, 1 FROM generate_series(1, 2000000) g; \
         SELECT sync_track('many', '{f}', true)",
    );
    let many = r#"{"tables": {"many": {"where": "f = 1"}}}"#;
    let sql = "SELECT cursor FROM sync_changes(NULL, $1::text::jsonb) WHERE cursor IS NOT NULL";
    let of_many: String = client.query_one(sql, &[&many]).unwrap().get(0);
    run(&mut client, "DELETE FROM many WHERE id > 1; UPDATE many SET f = 2");
    // Shared memory counts too, 128 MB of it.
    assert_eq!(Backend::ask(&cluster, PULL, Some(&of_many), many, 400), "");
    let whole = "SELECT 1 / (count(*) = 2000001)::int FROM sync_changes($1::text, $2::text::jsonb)";
    assert_eq!(Backend::ask(&cluster, whole, Some(&of_many), many, 400), "");
    assert!(!cluster.log().contains("terminated by signal"));
}

/// One test, as each of its parts takes seconds and gigabytes.
#[test]
fn rows_of_any_size_are_answered_or_refused() {
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &[("max_wal_size", "'4GB'")]);
    let mut client = cluster.connect();
    run(&mut client, "CREATE EXTENSION syncline; CREATE TABLE long (id int PRIMARY KEY, a text, b text)");
    // No row comes in with more than 1 GB at once.
    client
        .batch_execute(
            "INSERT INTO long VALUES (1, repeat('x', 500000000)); UPDATE long SET b = repeat('x', 580000000); \
             SELECT sync_track('long', '{a,b}')",
        )
        .unwrap();
    let one = r#"{"tables": {"long": {"columns": ["a"]}}}"#;
    assert_eq!(Backend::ask(&cluster, PREVIEW, None, one, 4000), "");
    let whole = r#"{"tables": {"long": {}}}"#;
    for sql in [CHANGES, DIGEST] {
        assert_eq!(Backend::ask(&cluster, sql, None, whole, 5000), "54000", "{sql}");
    }
    let refused = client.batch_execute("DELETE FROM long").unwrap_err();
    assert_eq!(state(&refused), "54000", "what the log cannot keep cannot go");
    assert!(!cluster.log().contains("terminated by signal"));
}

#[test]
fn small_values_with_endless_texts_are_refused_by_pulls_and_do_not_stop_the_stream() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, n numeric[]); SELECT sync_track('t')",
    );
    let shape = r#"{"tables": {"t": {}}}"#;
    let mut slot = Slot::new(&mut client, "s", &[("a", shape)]);
    run(&mut client, "INSERT INTO t VALUES (1, array_fill('1e131071'::numeric, ARRAY[1000000]))");
    assert_eq!(Backend::ask(&cluster, CHANGES, None, shape, 4000), "54000");
    assert_eq!(slot.follow(&mut client), ["stale a schema", "commit "]);
    run(&mut client, "UPDATE t SET n = '{1}'");
    assert_eq!(slot.follow(&mut client), [r#"upsert a t {"n": [1], "id": 1}"#, "commit a"]);
    assert!(!cluster.log().contains("terminated by signal"));
}
