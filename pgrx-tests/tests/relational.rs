//! Sub-selects: what they read, and what they refuse.

use postgres::Client;
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

/// Large enough that no planner reads a whole table for a few rows.
const SETUP: &str = "
    CREATE EXTENSION syncline;
    CREATE TABLE members (project_id int NOT NULL, who text NOT NULL, PRIMARY KEY (who, project_id));
    CREATE TABLE projects (id int PRIMARY KEY, title text, is_open boolean);
    CREATE TABLE issues (id int PRIMARY KEY, project_id int, title text);
    CREATE INDEX ON members (project_id);
    CREATE INDEX ON issues (project_id);
    SELECT sync_track('members', log_inserts => true);
    SELECT sync_track('projects', filter_columns => '{is_open}', log_inserts => true);
    SELECT sync_track('issues', filter_columns => '{project_id}');
    INSERT INTO projects SELECT g, 'project', true FROM generate_series(1, 20000) g;
    INSERT INTO members SELECT g, 'user ' || g % 5000 FROM generate_series(1, 20000) g;
    INSERT INTO issues SELECT g, g / 10 + 1, 'issue' FROM generate_series(1, 199990) g;
    ANALYZE";

const SHAPE: &str = r#"{"params": ["user 7"], "tables": {"issues": {"where":
    "project_id IN (SELECT id FROM projects WHERE is_open AND id IN (SELECT project_id FROM members WHERE who = $1))"}}}"#;

/// Rows fetched from the three tables so far: by whole reads and by index.
fn fetched(client: &mut Client) -> (i64, i64) {
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let sql = "SELECT sum(seq_tup_read)::int8, sum(idx_tup_fetch)::int8 FROM pg_stat_user_tables \
               WHERE relname IN ('members', 'projects', 'issues')";
    let row = client.query_one(sql, &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn work_follows_what_moved_and_not_the_tables() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(SETUP).unwrap();
    let mut follower = Follower::new(SHAPE);
    // Also the truth, which the follower reads each time: four projects of ten issues.
    assert_eq!(follower.pull(&mut client).len(), 41);
    for (change, ops) in [
        ("SELECT", 0),
        ("UPDATE issues SET title = 'changed' WHERE project_id = 7 AND id % 10 = 3", 1),
        ("UPDATE projects SET title = 'changed' WHERE id = 7", 0),
        ("INSERT INTO members VALUES (8, 'user 7')", 10),
        ("UPDATE projects SET is_open = false WHERE id = 5007", 10),
        ("DELETE FROM members WHERE project_id = 7", 10),
    ] {
        client.batch_execute(change).unwrap();
        let before = fetched(&mut client);
        let pulled = follower.pull(&mut client);
        let after = fetched(&mut client);
        assert_eq!(pulled.len(), ops, "{change}: {pulled:?}");
        assert_eq!(after.0 - before.0, 0, "rows read of whole tables after {change}");
        // The truth alone takes some 100.
        assert!(after.1 - before.1 < 600, "{} rows fetched after {change}", after.1 - before.1);
    }
}

/// A few written rows are looked at by a plan that is kept. Made over empty tables, it does not read full ones from end to end, and
/// however many issues a project has, one that changed is looked at alone.
#[test]
fn plan_made_over_empty_tables_serves_full_ones() {
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &[("autovacuum", "off")]);
    let mut client = cluster.connect();
    let (tables, rows) = SETUP.split_once("INSERT INTO projects").expect("tables come first");
    client.batch_execute(tables).unwrap();
    let mut pulling = cluster.connect();
    let mut pull = |since: Option<&str>| -> (i64, String) {
        let sql =
            "SELECT count(*) FILTER (WHERE op <> 'commit'), max(cursor) FROM sync_changes($1::text, $2::text::jsonb)";
        let row = pulling.query_one(sql, &[&since, &SHAPE]).unwrap();
        pulling.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
        (row.get(0), row.get(1))
    };
    let (_, since) = pull(None);
    client.batch_execute("INSERT INTO issues VALUES (-1, 7, 'early')").unwrap();
    let (count, since) = pull(Some(&since));
    assert_eq!(count, 0, "nobody may see it");
    let rows = rows.strip_suffix("ANALYZE").expect("then statistics are taken");
    client
        .batch_execute(&format!("INSERT INTO projects{rows}; UPDATE issues SET project_id = 7 WHERE id > 100000"))
        .unwrap();
    let (_, since) = pull(Some(&since));
    client.batch_execute("UPDATE issues SET title = 'changed' WHERE id IN (63, 100003)").unwrap();
    let before = fetched(&mut client);
    let (count, _) = pull(Some(&since));
    let after = fetched(&mut client);
    assert_eq!(count, 2);
    assert_eq!(after.0 - before.0, 0, "rows read of whole tables");
    assert!(after.1 - before.1 < 50, "{} rows fetched", after.1 - before.1);
}

/// How a table was read in one query.
#[derive(Debug)]
struct Scan {
    node: String,
    /// Found by values or places, not read from one end to the other.
    is_looked_up: bool,
    rows: u64,
}

/// The scans of tables in the plans that `auto_explain` wrote.
fn scans(log: &str) -> Vec<Scan> {
    let is_of_table = |line: &str| line.contains("Scan") && TABLES.iter().any(|table| line.contains(table));
    let nodes = log.lines().enumerate().filter(|(_, line)| line.contains("(actual rows=") && is_of_table(line));
    let lines: Vec<&str> = log.lines().collect();
    let scan = |(number, line): (usize, &str)| {
        let number_behind = |word: &str| -> u64 {
            let (_, rest) = line.rsplit_once(word).expect("a plan that was run has actual numbers");
            rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
        };
        // What belongs to the node stands under it, up to the next one that is not an index below a bitmap.
        let own =
            lines[number + 1..].iter().take_while(|line| !line.contains("->") || line.contains("Bitmap Index Scan"));
        let is_looked_up = own.into_iter().any(|line| line.contains("Index Cond:") || line.contains("TID Cond:"));
        Scan {
            node: line.trim().to_owned(),
            is_looked_up,
            rows: number_behind("actual rows=") * number_behind("loops="),
        }
    };
    nodes.map(scan).collect()
}

/// As plans name them.
const TABLES: [&str; 3] = [" on members ", " on projects ", " on issues "];

/// The same by the plans of the very queries: nothing is planned over tables at all where nothing moved, and where
/// something did, each table is read by an index on values.
#[test]
fn plans_of_a_pull_begin_at_what_moved() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(SETUP).unwrap();
    let mut explained = cluster.connect();
    explained
        .batch_execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; \
             SET auto_explain.log_analyze = on; SET auto_explain.log_timing = off",
        )
        .unwrap();
    let mut pull = |since: Option<&str>| -> (i64, String, Vec<Scan>) {
        let before = cluster.log().len();
        let sql =
            "SELECT count(*) FILTER (WHERE op <> 'commit'), max(cursor) FROM sync_changes($1::text, $2::text::jsonb)";
        let row = explained.query_one(sql, &[&since, &SHAPE]).unwrap();
        (row.get(0), row.get(1), scans(&cluster.log()[before..]))
    };
    let (_, mut since, first) = pull(None);
    assert!(first.len() >= 3, "the plans are there to be read: {first:?}");
    for (change, ops, rows) in [
        ("SELECT", 0, 0),
        ("UPDATE issues SET title = 'changed' WHERE id BETWEEN 1001 AND 1100", 0, 250),
        ("UPDATE issues SET title = 'changed' WHERE project_id = 7 AND id % 10 = 3", 1, 50),
        ("UPDATE projects SET title = 'changed' WHERE id = 7", 0, 50),
        ("UPDATE projects SET is_open = false WHERE id = 30", 0, 100),
        ("INSERT INTO members VALUES (8, 'user 7')", 10, 300),
        ("UPDATE projects SET is_open = false WHERE id = 5007", 10, 300),
        ("DELETE FROM members WHERE project_id = 7", 10, 300),
    ] {
        client.batch_execute(change).unwrap();
        let (count, next, scans) = pull(Some(&since));
        since = next;
        assert_eq!(count, ops, "{change}");
        assert!(scans.iter().all(|scan| scan.is_looked_up), "after {change}: {scans:#?}");
        let read: u64 = scans.iter().map(|scan| scan.rows).sum();
        println!("{change}: {read} rows in {} scans", scans.len());
        let nodes: Vec<&str> = scans.iter().map(|scan| scan.node.as_str()).collect();
        assert!(read <= rows, "{read} rows after {change}: {nodes:#?}");
    }
}

#[test]
fn level_without_an_index_is_named() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(SETUP).unwrap();
    client.batch_execute("DROP INDEX issues_project_id_idx").unwrap();
    let sql = "SELECT relation::text, unindexed FROM sync_tables WHERE unindexed <> '{}' ORDER BY 1";
    let rows = client.query(sql, &[]).unwrap();
    let named: Vec<(String, Vec<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(named.contains(&("issues".to_owned(), vec!["project_id".to_owned()])), "{named:?}");
}

#[test]
fn sub_select_that_cannot_be_followed_is_refused() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE p (id int PRIMARY KEY, name text, n int); CREATE TABLE q (id int PRIMARY KEY); \
             CREATE TABLE t (id int PRIMARY KEY, p int, big bigint); SELECT sync_track('t', '{p,big}'), sync_track('p', '{name,n}')",
        )
        .unwrap();
    for (filter, sqlstate) in [
        ("p IN (SELECT id FROM q)", "55000"),
        ("p IN (SELECT id FROM nowhere)", "42P01"),
        ("p IN (SELECT id FROM p)", "0A000"),
        ("p IN (SELECT nope FROM p)", "42703"),
        ("p IN (SELECT name FROM p)", "42804"),
        ("big IN (SELECT id FROM p)", "42804"),
        ("p NOT IN (SELECT id FROM p)", "0A000"),
        ("NOT (id = 1 AND p IN (SELECT id FROM p))", "0A000"),
        ("id NOT IN (SELECT n FROM p)", "0A000"),
    ] {
        let shape = format!(r#"{{"tables": {{"t": {{"where": "{filter}"}}}}}}"#);
        assert_eq!(state(&Follower::new(&shape).try_pull(&mut client).unwrap_err()), sqlstate, "{filter}");
    }
    client
        .batch_execute("SELECT sync_track('p', log_inserts => true); REVOKE ALL ON p FROM PUBLIC; CREATE ROLE reader")
        .unwrap();
    let shape = r#"{"tables": {"t": {"where": "p IN (SELECT id FROM p WHERE name = 'x')"}}}"#;
    Follower::new(shape).pull(&mut client);
    client.batch_execute("GRANT SELECT ON t TO reader; GRANT SELECT (id) ON p TO reader; SET ROLE reader").unwrap();
    assert_eq!(state(&Follower::new(shape).try_pull(&mut client).unwrap_err()), "42501");
}

#[test]
fn filter_columns_of_any_name_are_kept_when_tracking_is_widened() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            r#"CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, "größe" int, "a\000b" int, f int);
               SELECT sync_track('t', ARRAY['größe', 'a\000b']); SELECT sync_track('t', '{f}'); INSERT INTO t VALUES (1, 1, 1, 1)"#,
        )
        .unwrap();
    let names: Vec<String> =
        client.query_one("SELECT filter_columns FROM sync_tables WHERE relation = 't'::regclass", &[]).unwrap().get(0);
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{names:?}");
    let mut follower = Follower::new(r#"{"tables": {"t": {"where": "\"größe\" = 1 AND \"a\\000b\" = 1 AND f = 1"}}}"#);
    follower.pull(&mut client);
    client.batch_execute(r#"UPDATE t SET "größe" = 2"#).unwrap();
    assert_eq!(follower.pull(&mut client), ["delete {\"id\": 1}"]);
}

/// A row at a level that takes a value just as this leaves an inner level was not in before, whatever its new value was then.
#[test]
fn value_that_left_tells_nothing_of_rows_that_took_it_since() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline;
             CREATE TABLE teams (id int PRIMARY KEY, is_open boolean NOT NULL);
             CREATE TABLE projects (id int PRIMARY KEY, team int NOT NULL);
             CREATE TABLE members (issue int PRIMARY KEY);
             CREATE TABLE issues (id int PRIMARY KEY, project int NOT NULL);
             SELECT sync_track('teams', '{is_open}', true), sync_track('projects', '{team}', true),
                    sync_track('members', '{}', true), sync_track('issues', '{project}');
             INSERT INTO teams VALUES (1, true), (2, false);
             INSERT INTO projects VALUES (10, 2), (11, 1);
             INSERT INTO issues VALUES (100, 10), (110, 11)",
        )
        .unwrap();
    let open = "project IN (SELECT id FROM projects WHERE team IN (SELECT id FROM teams WHERE is_open))";
    let condition = format!("id IN (SELECT issue FROM members) OR {open}");
    let mut follower = Follower::new(&format!(r#"{{"tables": {{"issues": {{"where": "{condition}"}}}}}}"#));
    assert_eq!(follower.pull(&mut client), ["reset start", r#"upsert {"id": 110}"#]);
    client
        .batch_execute(
            "UPDATE projects SET team = 1 WHERE id = 10; UPDATE teams SET is_open = false WHERE id = 1; \
             INSERT INTO members VALUES (100)",
        )
        .unwrap();
    assert_eq!(follower.pull(&mut client), [r#"delete {"id": 110}"#, r#"upsert {"id": 100}"#]);
}
