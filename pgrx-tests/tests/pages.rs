//! Deltas in pages: what the limits mean, going on after anything, and a giant transaction.

use postgres::{Client, SimpleQueryMessage};
use serde_json::Value;
use syncline_tests::{Cluster, Install};

const SHAPE: &str = r#"{"tables": {"t": {"where": "f = 1"}}}"#;

/// A page as `op key` or `op reason`, its cursor, and whether the client is up to date.
struct Page {
    ops: Vec<String>,
    cursor: String,
    up_to_date: bool,
}

fn try_page(client: &mut Client, since: Option<&str>, shape: &str, rows: Option<i32>) -> Result<Page, postgres::Error> {
    let sql = "SELECT op, coalesce(value->>'reason', key->>'id'), cursor, value->>'up_to_date' \
               FROM sync_changes($1::text, $2::text::jsonb, $3)";
    let mut page = Page { ops: Vec::new(), cursor: String::new(), up_to_date: false };
    for row in client.query(sql, &[&since, &shape, &rows])? {
        let text = |i: usize| row.get::<_, Option<String>>(i).unwrap_or_default();
        if text(0) == "commit" {
            (page.cursor, page.up_to_date) = (text(2), text(3) == "true");
        } else {
            page.ops.push(format!("{} {}", text(0), text(1)));
        }
    }
    Ok(page)
}

fn page(client: &mut Client, since: Option<&str>, rows: Option<i32>) -> Page {
    try_page(client, since, SHAPE, rows).expect("it answers")
}

fn table(client: &mut Client, rows: u32) {
    client
        .batch_execute(&format!(
            "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, note text); \
             SELECT sync_track('t', '{{f}}'); INSERT INTO t SELECT g, 1, 'note' FROM generate_series(1, {rows}) g"
        ))
        .unwrap();
}

#[test]
fn pages_of_one_row_come_to_the_whole() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    table(&mut client, 3);
    let first = page(&mut client, None, Some(1));
    assert_eq!((first.ops.join(", ").as_str(), first.up_to_date), ("reset start, upsert 1", false));
    let second = page(&mut client, Some(&first.cursor), Some(1));
    assert_eq!((second.ops.join(", ").as_str(), second.up_to_date), ("upsert 2", false));
    // The answer got lost: the same page again.
    assert_eq!(page(&mut client, Some(&first.cursor), Some(1)).ops, ["upsert 2"]);
    // Nothing was written since the first page: at the end the client has what is there now.
    let third = page(&mut client, Some(&second.cursor), None);
    assert_eq!((third.ops.join(", ").as_str(), third.up_to_date), ("upsert 3", true));
    client.batch_execute("DELETE FROM t WHERE id < 3; UPDATE t SET note = 'new'; INSERT INTO t VALUES (9, 1)").unwrap();
    let (mut since, mut ops) = (third.cursor, Vec::new());
    loop {
        let page = page(&mut client, Some(&since), Some(1));
        ops.extend(page.ops);
        since = page.cursor;
        if page.up_to_date {
            break;
        }
    }
    assert_eq!(ops, ["delete 1", "delete 2", "upsert 3", "upsert 9"]);
}

#[test]
fn limits_that_are_none_are_refused() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    table(&mut client, 1);
    for call in ["sync_changes(NULL, $1::text::jsonb, 0)", "sync_pull(NULL, $1::text::jsonb, -1)"] {
        let error = client.query(&format!("SELECT {call}"), &[&SHAPE]).unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("22023"), "{call}");
    }
}

/// Documents end soon after `max_bytes`, and a row that alone is larger still comes.
#[test]
fn documents_keep_their_size() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    table(&mut client, 1000);
    client.batch_execute("UPDATE t SET note = repeat('x', 10000) WHERE id = 500").unwrap();
    let (mut since, mut keys, mut sizes) = (None::<String>, Vec::new(), Vec::new());
    loop {
        let sql = "WITH d AS MATERIALIZED (SELECT sync_pull($1::text, $2::text::jsonb, 2000) AS p) \
                   SELECT p->>'cursor', length(p::text), p->>'up_to_date', \
                   ARRAY(SELECT (c->'key'->>'id')::int FROM json_array_elements(p->'changes') c WHERE c->>'op' = 'upsert') FROM d";
        let row = client.query_one(sql, &[&since, &SHAPE]).unwrap();
        since = row.get(0);
        sizes.push(row.get::<_, i32>(1));
        keys.extend(row.get::<_, Vec<i32>>(3));
        if row.get::<_, &str>(2) == "true" {
            break;
        }
    }
    assert_eq!(keys, (1..=1000).collect::<Vec<_>>());
    let large: Vec<_> = sizes.iter().filter(|&&size| size > 2600).collect();
    assert_eq!(large.len(), 1, "{sizes:?}");
}

/// A document is made in memory that it then keeps.
#[test]
fn documents_of_one_statement_are_their_own() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    table(&mut client, 30_000);
    let pull = |low: &str| {
        let shape = format!(r#"('{{"tables": {{"t": {{"where": "id > ' || {low} || '"}}}}}}')::jsonb"#);
        format!("sync_pull(NULL, {shape}, NULL)")
    };
    // The text protocol: the document is sent from where it stands. The cursor before its changes may move on.
    let changes = |text: &str| text[text.find("\"changes\"").expect("a document has its changes")..].to_owned();
    let rows = |client: &mut Client, list: &str| -> Vec<Vec<String>> {
        let messages = client.simple_query(&format!("SELECT {list}")).unwrap();
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).filter_map(|n| Some(changes(row.get(n)?))).collect()),
            _ => None,
        };
        messages.iter().filter_map(row).collect()
    };
    let lows = ["0", "10000", "29999"];
    let alone = lows.map(|low| rows(&mut client, &pull(low))[0][0].clone());
    let [all, many, one] = &alone;
    assert!(all.len() > many.len() && many.len() > 1_000_000 && one.len() < 1_000);
    for _ in 0..3 {
        let three = lows.map(pull).join(", ");
        assert!(rows(&mut client, &three) == [alone.to_vec()], "three sizes");
        let three = [pull("10000"), pull("10000"), pull("0")].join(", ");
        assert!(rows(&mut client, &three) == [[many, many, all].map(String::clone)], "one size twice");
        let each = format!("{} FROM generate_series(0, 10000, 10000) g", pull("g"));
        assert!(rows(&mut client, &each) == [all, many].map(|document| vec![document.clone()]), "row by row");
        let failing = format!("SELECT 1 / length(left({}::text, 0))", pull("0"));
        client.batch_execute(&failing).expect_err("a division by zero");
        client.batch_execute("SELECT sync_pull(NULL, '{\"tables\": {\"none\": {}}}')").expect_err("no such table");
    }
}

/// What comes before the changes is written behind them, into room that was left for it; a long cursor needs more.
#[test]
fn document_has_room_for_any_cursor() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    table(&mut client, 100);
    let mut writers: Vec<Client> = (0..8).map(|_| cluster.connect()).collect();
    for writer in &mut writers {
        writer.batch_execute("BEGIN").unwrap();
    }
    let mut lengths = Vec::new();
    for n in 0..400 {
        // The id of a transaction that stays open, and of one that does not: no range stands for several.
        writers[n % 8].batch_execute(&format!("SAVEPOINT s; INSERT INTO t VALUES ({}, 0)", 1000 + n)).unwrap();
        client.batch_execute("UPDATE t SET f = 1, note = note || '.' WHERE id = 100").unwrap();
        if n % 40 > 0 {
            continue;
        }
        let row = client.query_one("SELECT sync_pull(NULL, $1::text::jsonb)::text", &[&SHAPE]).unwrap();
        let document: Value = serde_json::from_str(row.get(0)).expect("it is JSON");
        let changes = document["changes"].as_array().expect("it has changes");
        assert_eq!(changes.len(), 101, "a reset and all rows");
        assert_eq!(changes[100]["value"]["note"].as_str().map(str::len), Some(4 + n + 1));
        let cursor = document["cursor"].as_str().expect("it has a cursor");
        assert!(page(&mut client, Some(cursor), None).ops.is_empty(), "nothing since then");
        lengths.push(cursor.len());
    }
    assert!(lengths[0] < 200 && lengths[9] > 512, "{lengths:?}");
}

/// A page leaves out what changed behind the round's target. Who then pulled in an older snapshot would not be told.
#[test]
fn snapshot_older_than_the_page_before_is_refused() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let (mut client, mut old) = (cluster.connect(), cluster.connect());
    table(&mut client, 3);
    let first = page(&mut client, None, Some(1));
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    client.batch_execute("UPDATE t SET note = 'new' WHERE id = 2").unwrap();
    // Row 2 is left out of both pages; what is behind them knows of it.
    let second = page(&mut client, Some(&first.cursor), Some(1));
    let third = page(&mut client, Some(&second.cursor), Some(9));
    assert_eq!(
        (second.ops.join(", "), third.ops.join(", "), third.up_to_date),
        ("upsert 3".into(), String::new(), false)
    );
    for cursor in [&second.cursor, &third.cursor] {
        old.batch_execute("SAVEPOINT s").unwrap();
        let error = try_page(&mut old, Some(cursor), SHAPE, None).err().expect("an older snapshot is refused");
        assert_eq!(error.code().map(|code| code.code()), Some("40001"));
        old.batch_execute("ROLLBACK TO s").unwrap();
    }
    let last = page(&mut client, Some(&third.cursor), Some(9));
    assert_eq!((last.ops.join(", ").as_str(), last.up_to_date), ("upsert 2", true));
}

/// A row that was in the shape at the target, and not when its page was read, was not sent. When it is back it must be.
#[test]
fn row_that_was_away_when_its_page_was_read_comes_when_it_is_back() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int); CREATE TABLE p (id int PRIMARY KEY); \
             SELECT sync_track('t', '{f}'), sync_track('p', '{}', true); \
             INSERT INTO p VALUES (1); INSERT INTO t VALUES (1, 1), (2, 1)",
        )
        .unwrap();
    let shape = r#"{"tables": {"t": {"where": "f IN (SELECT id FROM p)"}}}"#;
    let mut next = |since: Option<&str>| try_page(&mut client, since, shape, Some(1)).expect("it answers");
    let first = next(None);
    assert_eq!(first.ops, ["reset start", "upsert 1"]);
    let mut writer = cluster.connect();
    writer.batch_execute("DELETE FROM p").unwrap();
    let second = next(Some(&first.cursor));
    assert_eq!((second.ops.len(), second.up_to_date), (0, false));
    writer.batch_execute("INSERT INTO p VALUES (1)").unwrap();
    let third = next(Some(&second.cursor));
    let fourth = next(Some(&third.cursor));
    assert_eq!((third.ops, fourth.ops), (vec!["upsert 1".to_owned()], vec!["upsert 2".to_owned()]));
}

/// The cursor of a page has seen what the client had before, and what prune took since resets it.
#[test]
fn page_has_seen_what_its_round_started_from() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    table(&mut client, 2);
    let whole = page(&mut client, None, None);
    let row = client.query_one(
        "WITH w AS (UPDATE t SET note = 'new' RETURNING 1) SELECT pg_current_xact_id()::text FROM w LIMIT 1",
        &[],
    );
    let xid: String = row.unwrap().get(0);
    let mut sees = |cursor: &str| -> bool {
        client.query_one("SELECT sync_sees($1, $2::text::xid8)", &[&cursor, &xid]).unwrap().get(0)
    };
    assert!(!sees(&whole.cursor));
    let mut other = cluster.connect();
    let first = page(&mut other, Some(&whole.cursor), Some(1));
    assert!(!sees(&first.cursor) && !first.up_to_date);
    let all = page(&mut other, Some(&first.cursor), None);
    assert!(sees(&all.cursor) && all.up_to_date);
    other.batch_execute("DELETE FROM t WHERE id = 1; SELECT sync_prune('0')").unwrap();
    assert_eq!(page(&mut other, Some(&first.cursor), None).ops, ["reset too_old", "upsert 2"]);
}

/// Pages of a delta that one transaction made cost together about what the whole costs: each goes on where the last one
/// ended, without reading what was sent. The bound is far from what quadratic work would take.
#[test]
fn giant_transaction_is_read_once_in_all_its_pages() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    table(&mut client, 100_000);
    client.batch_execute("ANALYZE t").unwrap();
    let mut since = page(&mut client, None, None).cursor;
    for change in ["UPDATE t SET note = 'new'", "DELETE FROM t"] {
        client.batch_execute(change).unwrap();
        let fetched = |client: &mut Client, rows: Option<i32>| {
            let mut since = since.clone();
            let (before, mut pages) = (blocks(client), 0);
            loop {
                let page = page(client, Some(&since), rows);
                since = page.cursor;
                pages += 1;
                if page.up_to_date {
                    return (blocks(client) - before, pages, since);
                }
            }
        };
        let (whole, _, _) = fetched(&mut client, None);
        let (paged, pages, end) = fetched(&mut client, Some(1000));
        println!("{change}: {whole} blocks in one, {paged} in {pages} pages");
        assert!(pages >= 100 && paged < 3 * whole, "{change}: {paged} blocks in {pages} pages, {whole} in one");
        since = end;
    }
}

/// Blocks that sessions have asked for so far.
fn blocks(client: &mut Client) -> i64 {
    // What a backend counted reaches the view at the end of the statement that asks for it.
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let sql = "SELECT (blks_hit + blks_read)::bigint FROM pg_stat_database WHERE datname = current_database()";
    client.query_one(sql, &[]).unwrap().get(0)
}
