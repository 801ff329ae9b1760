//! Histories that random runs cannot be trusted to reach, each the smallest that needs its rule. An error says
//! how the law was broken: the suite expects none, and one each from a library without the rule.

use postgres::Client;

use crate::{Cluster, Install};

const SHAPE: &str = r#"{"tables":{"t":{"where":"f = 1"}}}"#;

/// A cluster with the tracked table `t (id, f, n)`; its rows 1, 3 and 5 are in [`pull`]'s shape `f = 1`.
pub fn tracked<'a>(install: &'a Install, settings: &[(&str, &str)]) -> (Cluster<'a>, Client) {
    let cluster = Cluster::start_with(install, settings);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n int DEFAULT 0); \
             INSERT INTO t SELECT g, g % 2 FROM generate_series(1, 6) g; \
             SELECT sync_track('t', filter_columns => '{f}')",
        )
        .expect("the table can be tracked");
    (cluster, client)
}

/// Pulls; the changes but the commit as `op id` or `op reason`, in order of text, and the new cursor.
pub fn pull(client: &mut Client, since: Option<&str>) -> Result<(Vec<String>, String), postgres::Error> {
    page(client, SHAPE, since, None)
}

/// The same, a page of a shape.
fn page(
    client: &mut Client,
    shape: &str,
    since: Option<&str>,
    max_rows: Option<i32>,
) -> Result<(Vec<String>, String), postgres::Error> {
    let rows = client.query(
        "SELECT op || coalesce(' ' || (key->>'id'), '') || coalesce(' ' || (value->>'reason'), ''), cursor \
         FROM sync_changes($1::text, $2::text::jsonb, max_rows => $3::int)",
        &[&since, &shape, &max_rows],
    )?;
    let cursor = rows.iter().find_map(|row| row.get::<_, Option<String>>(1)).unwrap_or_default();
    let mut ops: Vec<String> = rows.iter().map(|row| row.get(0)).filter(|op: &String| op != "commit").collect();
    ops.sort();
    Ok((ops, cursor))
}

/// The SQLSTATE of an error.
pub fn state(error: &postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// A history of its own cluster.
pub type History = fn(&Install, Option<&str>) -> Result<(), String>;

/// The histories, by the fault that breaks them.
pub const HISTORIES: [(&str, History); 6] = [
    ("ahead_ignored", ahead),
    ("horizon_by_xmax", horizon),
    ("no_flush", crash),
    ("first_by_xid", overtaken),
    ("no_key_enter", moved_key),
    ("page_boundary", half_a_transaction),
];

fn with_fault<'a>(install: &'a Install, fault: Option<&str>, settings: &[(&str, &str)]) -> (Cluster<'a>, Client) {
    let (cluster, mut client) = tracked(install, settings);
    if let Some(fault) = fault {
        run(&mut client, &format!("ALTER DATABASE postgres SET syncline.mutant = '{fault}'"));
    }
    let client = cluster.connect();
    (cluster, client)
}

/// A cursor that saw a change must not be answered, and replaced, by a snapshot that does not see it.
fn ahead(install: &Install, fault: Option<&str>) -> Result<(), String> {
    let (cluster, mut new) = with_fault(install, fault, &[]);
    let mut old = cluster.connect();
    run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    run(&mut new, "DELETE FROM t WHERE id = 1");
    let (_, cursor) = pull(&mut new, None).expect("a first pull answers");
    match pull(&mut old, Some(&cursor)) {
        Err(error) if state(&error) == "40001" => Ok(()),
        other => Err(format!("an old snapshot answered a newer cursor: {other:?}")),
    }
}

/// The cursor's xmax is not below the horizon's, and still the horizon sees a transaction that it does not.
fn horizon(install: &Install, fault: Option<&str>) -> Result<(), String> {
    let (cluster, mut client) = with_fault(install, fault, &[]);
    let mut low = cluster.connect();
    run(&mut low, "BEGIN; DELETE FROM t WHERE id = 1");
    run(&mut client, "UPDATE t SET n = 1 WHERE id = 3");
    let (_, cursor) = pull(&mut client, None).expect("a first pull answers");
    run(&mut low, "COMMIT");
    run(&mut client, "SELECT sync_prune('0')");
    let (ops, _) = pull(&mut client, Some(&cursor)).map_err(|error| format!("{error:?}"))?;
    if ops == ["reset too_old", "upsert 3", "upsert 5"] { Ok(()) } else { Err(format!("row 1 was lost: {ops:?}")) }
}

/// Two transactions change a row, the older one last: what the row was is in the log row of the younger.
fn overtaken(install: &Install, fault: Option<&str>) -> Result<(), String> {
    let (cluster, mut client) = with_fault(install, fault, &[]);
    let mut older = cluster.connect();
    let (_, cursor) = pull(&mut client, None).expect("a first pull answers");
    run(&mut older, "BEGIN; UPDATE t SET n = 1 WHERE id = 2");
    run(&mut client, "UPDATE t SET f = 2 WHERE id = 1");
    run(&mut older, "UPDATE t SET f = 3 WHERE id = 1; COMMIT");
    let (ops, _) = pull(&mut client, Some(&cursor)).map_err(|error| format!("{error:?}"))?;
    if ops == ["delete 1"] { Ok(()) } else { Err(format!("row 1 stays: {ops:?}")) }
}

/// A row of a level gets another key, which is the value that counts there.
fn moved_key(install: &Install, fault: Option<&str>) -> Result<(), String> {
    const SHAPE: &str = r#"{"tables":{"t":{"where":"f IN (SELECT id FROM p)"}}}"#;
    let (_cluster, mut client) = with_fault(install, fault, &[]);
    run(&mut client, "CREATE TABLE p (id int PRIMARY KEY); SELECT sync_track('p', log_inserts => true)");
    run(&mut client, "INSERT INTO p VALUES (7); UPDATE t SET f = 7 WHERE id = 1; UPDATE t SET f = 8 WHERE id = 2");
    let (_, cursor) = page(&mut client, SHAPE, None, None).expect("a first pull answers");
    run(&mut client, "UPDATE p SET id = 8");
    let (ops, _) = page(&mut client, SHAPE, Some(&cursor), None).map_err(|error| format!("{error:?}"))?;
    if ops == ["delete 1", "upsert 2"] { Ok(()) } else { Err(format!("row 2 does not enter: {ops:?}")) }
}

/// A page ends between two rows of a transaction.
fn half_a_transaction(install: &Install, fault: Option<&str>) -> Result<(), String> {
    let (_cluster, mut client) = with_fault(install, fault, &[]);
    let (_, mut cursor) = pull(&mut client, None).expect("a first pull answers");
    run(&mut client, "UPDATE t SET n = 1");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (ops, next) = page(&mut client, SHAPE, Some(&cursor), Some(1)).map_err(|error| format!("{error:?}"))?;
        seen.extend(ops);
        cursor = next;
    }
    if seen == ["upsert 1", "upsert 3", "upsert 5"] { Ok(()) } else { Err(format!("rows are left out: {seen:?}")) }
}

/// An aborted transaction counts as seen, and nobody flushes its record: a crash forgets it, and its id is used again.
fn crash(install: &Install, fault: Option<&str>) -> Result<(), String> {
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("bgwriter_delay", "10s")];
    let (cluster, mut client) = with_fault(install, fault, &settings);
    run(&mut client, "CHECKPOINT");
    let (_, mut cursor) = pull(&mut client, None).expect("a first pull answers");
    for round in 0..5 {
        run(&mut client, "BEGIN; UPDATE t SET n = n + 1 WHERE id = 3; ROLLBACK");
        (_, cursor) = pull(&mut client, Some(&cursor)).map_err(|error| format!("{error:?}"))?;
        cluster.kill_9();
        cluster.start_again();
        client = cluster.connect();
        run(&mut client, &format!("UPDATE t SET n = {round} + 100 WHERE id = 3"));
        let (ops, next) = pull(&mut client, Some(&cursor)).map_err(|error| format!("{error:?}"))?;
        if ops != ["upsert 3"] {
            return Err(format!("a change under an id used again: {ops:?}"));
        }
        cursor = next;
    }
    Ok(())
}
