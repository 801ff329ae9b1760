//! What the column `_sync_version` does to statements that do not expect it: the statements of docs/columns.md.

use postgres::{Client, SimpleQueryMessage};
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

/// Three columns, two rows, tracked.
const ISSUES: &str = "CREATE EXTENSION syncline; CREATE TABLE issues (id int PRIMARY KEY, project_id int, title text); \
    INSERT INTO issues VALUES (1, 3, 'first'), (2, 3, 'second')";
const TRACK: &str = "SELECT sync_track('issues', '{project_id}')";

/// The first column of the first row, as text.
fn first(client: &mut Client, sql: &str) -> Option<String> {
    client.simple_query(sql).expect(sql).into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Runs `before`, tracks, and gives the SQLSTATE that `after` ends in; an empty one if it runs.
fn outcome(client: &mut Client, before: &str, after: &str) -> String {
    client.batch_execute(&format!("BEGIN; {before}; {TRACK}")).expect(before);
    let state = client.batch_execute(after).err().map(|error| state(&error)).unwrap_or_default();
    client.batch_execute("ROLLBACK").unwrap();
    state
}

#[test]
fn statements_that_name_no_columns_meet_one_more() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(ISSUES).unwrap();
    let archive = "CREATE TABLE archive (id int, project_id int, title text)";
    let both = "CREATE TABLE archive (id int PRIMARY KEY, project_id int, title text); SELECT sync_track('archive')";
    let audit = "CREATE TABLE archive (id int, project_id int, title text); \
        CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO archive VALUES (OLD.*); RETURN NULL; END $$; \
        CREATE TRIGGER audit AFTER DELETE ON issues FOR EACH ROW EXECUTE FUNCTION audit()";
    let function =
        "CREATE FUNCTION f() RETURNS TABLE (a int, b int, c text) LANGUAGE sql AS $$ SELECT * FROM issues $$";
    let plpgsql = "CREATE FUNCTION f() RETURNS TABLE (a int, b int, c text) LANGUAGE plpgsql AS \
        $$ BEGIN RETURN QUERY SELECT * FROM issues; END $$";
    let rows = "CREATE FUNCTION f() RETURNS SETOF issues LANGUAGE sql AS $$ SELECT * FROM issues $$";
    let view = "CREATE VIEW v AS SELECT *, 1 AS one FROM issues";
    for (before, after, expected) in [
        ("", "INSERT INTO issues VALUES (3, 3, 'third')", ""),
        ("", "INSERT INTO issues SELECT 3, 3, 'third'", ""),
        (archive, "INSERT INTO archive SELECT * FROM issues", "42601"),
        (archive, "INSERT INTO issues SELECT * FROM archive", ""),
        (archive, "SELECT * FROM issues UNION ALL SELECT * FROM archive", "42601"),
        (both, "SELECT * FROM issues UNION ALL SELECT * FROM archive", ""),
        (audit, "DELETE FROM issues", "42601"),
        (function, "SELECT * FROM f()", "42P13"),
        (plpgsql, "SELECT * FROM f()", "42804"),
        (rows, "SELECT * FROM f()", ""),
        (view, "SELECT * FROM v", ""),
        (view, "CREATE OR REPLACE VIEW v AS SELECT *, 1 AS one FROM issues", "42P16"),
        ("", "CREATE VIEW v AS SELECT * FROM issues; SELECT sync_untrack('issues')", "2BP01"),
        ("", "CREATE VIEW v AS SELECT id FROM issues; SELECT sync_untrack('issues')", ""),
    ] {
        let before = if before.is_empty() { "SELECT 1" } else { before };
        assert_eq!(outcome(&mut client, before, after), expected, "{before}; {after}");
    }
}

#[test]
fn views_and_rows_have_the_column_or_not() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(&format!("{ISSUES}; CREATE VIEW early AS SELECT * FROM issues; {TRACK}")).unwrap();
    client.batch_execute("CREATE VIEW late AS SELECT * FROM issues").unwrap();
    let has = "SELECT to_jsonb(x) ? '_sync_version' FROM";
    for (from, expected) in [("issues", "t"), ("early", "f"), ("late", "t")] {
        assert_eq!(first(&mut client, &format!("{has} {from} x LIMIT 1")).as_deref(), Some(expected), "{from}");
    }
    let shape = "'{\"tables\":{\"issues\":{}}}'";
    let sent = format!("{has} (SELECT value::jsonb->'_sync_version' FROM sync_preview({shape})) x");
    assert_eq!(first(&mut client, &sent).as_deref(), Some("f"), "what clients get is without it");
}

#[test]
fn insert_by_position_into_a_column_that_came_later_is_lost() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(&format!("{ISSUES}; {TRACK}; ALTER TABLE issues ADD COLUMN weight int")).unwrap();
    client.batch_execute("INSERT INTO issues VALUES (3, 3, 'third', 77)").unwrap();
    let row = client.query_one("SELECT weight, _sync_version FROM issues WHERE id = 3", &[]).unwrap();
    assert_eq!(row.get::<_, Option<i32>>(0), None);
    assert_ne!(row.get::<_, i64>(1), 77);
}

#[test]
fn rows_that_are_compared_differ_by_their_stamps() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(&format!(
            "{ISSUES}; CREATE TABLE notes (id int PRIMARY KEY, note text); {TRACK}; SELECT sync_track('notes'); \
             CREATE TABLE twin AS SELECT * FROM issues; \
             CREATE TABLE fired (name text); \
             CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO fired VALUES (TG_NAME); RETURN NEW; END $$; \
             CREATE TRIGGER before_change BEFORE UPDATE ON issues FOR EACH ROW \
                 WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION fire(); \
             CREATE TRIGGER after_change AFTER UPDATE ON issues FOR EACH ROW \
                 WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION fire()"
        ))
        .unwrap();
    client.batch_execute("INSERT INTO notes VALUES (1, 'x')").unwrap();
    assert_eq!(first(&mut client, "SELECT count(*) FROM issues NATURAL JOIN notes").as_deref(), Some("0"));
    assert_eq!(first(&mut client, "SELECT count(*) FROM issues JOIN notes USING (id)").as_deref(), Some("1"));
    client.batch_execute("UPDATE issues SET title = title").unwrap();
    assert_eq!(first(&mut client, "SELECT string_agg(DISTINCT name, ' ') FROM fired").as_deref(), Some("after_change"));
    let except = "SELECT count(*) FROM (SELECT * FROM issues EXCEPT SELECT * FROM twin) x";
    assert_eq!(first(&mut client, except).as_deref(), Some("2"));
    client
        .batch_execute(
            "CREATE TRIGGER a BEFORE UPDATE ON issues FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        )
        .unwrap();
    assert_eq!(client.execute("UPDATE issues SET title = title", &[]).unwrap(), 0);
}

#[test]
fn copy_without_a_column_list_misses_one() {
    use std::io::{Read as _, Write as _};
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(&format!("{ISSUES}; {TRACK}")).unwrap();
    let mut load = |into: &str| {
        let mut writer = client.copy_in(&format!("COPY {into} FROM STDIN")).unwrap();
        writer.write_all(b"3\t3\tthird\n").unwrap();
        writer.finish().map_err(|error| state(&error))
    };
    assert_eq!(load("issues"), Err("22P04".to_owned()));
    assert_eq!(load("issues (id, project_id, title)"), Ok(1));
    let mut text = String::new();
    client.copy_out("COPY issues TO STDOUT").unwrap().read_to_string(&mut text).unwrap();
    assert!(text.lines().all(|line| line.split('\t').count() == 4), "{text}");
}

#[test]
fn prepared_star_breaks_when_tracking_begins_and_named_columns_do_not() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let (mut client, mut deploy) = (cluster.connect(), cluster.connect());
    client.batch_execute(ISSUES).unwrap();
    let star = client.prepare("SELECT * FROM issues").unwrap();
    let returning = client.prepare("UPDATE issues SET title = title RETURNING *").unwrap();
    let named = client.prepare("SELECT id, title FROM issues").unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION titles() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r record; row issues%ROWTYPE; t text; \
             BEGIN FOR r IN SELECT * FROM issues LOOP t := concat(t, r.title); END LOOP; \
             SELECT * INTO row FROM issues WHERE id = 1; RETURN concat(t, row.title); END $$",
        )
        .unwrap();
    for statement in [&star, &returning, &named] {
        client.query(statement, &[]).unwrap();
    }
    let titles = first(&mut client, "SELECT titles()");
    deploy.batch_execute(TRACK).unwrap();
    assert_eq!(state(&client.query(&star, &[]).unwrap_err()), "0A000");
    assert_eq!(state(&client.query(&returning, &[]).unwrap_err()), "0A000");
    assert_eq!(client.query(&named, &[]).unwrap().len(), 2);
    assert_eq!(first(&mut client, "SELECT titles()"), titles, "functions plan anew");
    let again = client.prepare("SELECT * FROM issues").unwrap();
    assert_eq!(client.query(&again, &[]).unwrap().len(), 2);
}

#[test]
fn copies_of_a_table_have_the_column_and_are_not_tracked() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(&format!("{ISSUES}; {TRACK}")).unwrap();
    client
        .batch_execute(
            "CREATE TABLE made AS SELECT * FROM issues; SELECT * INTO selected FROM issues; \
             CREATE TABLE alike (LIKE issues INCLUDING ALL); CREATE TABLE bare (LIKE issues); \
             CREATE TABLE named AS SELECT id, title FROM issues",
        )
        .unwrap();
    let tracked = "SELECT string_agg(relation::text, ' ' ORDER BY relation::text) FROM sync_tables";
    assert_eq!(first(&mut client, tracked).as_deref(), Some("issues syncline.client syncline.message"));
    for table in ["made", "selected"] {
        client.batch_execute(&format!("ALTER TABLE {table} ADD PRIMARY KEY (id)")).unwrap();
        let error = client.batch_execute(&format!("SELECT sync_track('{table}')")).unwrap_err();
        assert_eq!(state(&error), "42804", "{table}");
        client.batch_execute(error.as_db_error().and_then(|error| error.hint()).unwrap()).unwrap();
        client.batch_execute(&format!("SELECT sync_track('{table}')")).unwrap();
    }
    let insert = "INSERT INTO bare (id) VALUES (1)";
    assert_eq!(state(&client.batch_execute(insert).unwrap_err()), "23502");
    client
        .batch_execute("ALTER TABLE bare ADD PRIMARY KEY (id); SELECT sync_track('bare'); SELECT sync_track('alike')")
        .unwrap();
    client.batch_execute(insert).unwrap();
}

#[test]
fn partition_that_is_attached_needs_the_column() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); SELECT sync_track('p'); \
             CREATE TABLE without (id int PRIMARY KEY); CREATE TABLE alike (LIKE p)",
        )
        .unwrap();
    let error = client.batch_execute("ALTER TABLE p ATTACH PARTITION without FOR VALUES FROM (0) TO (10)").unwrap_err();
    assert_eq!(state(&error), "42804");
    client.batch_execute("ALTER TABLE p ATTACH PARTITION alike FOR VALUES FROM (0) TO (10)").unwrap();
    client.batch_execute("INSERT INTO p VALUES (1)").unwrap();
}

#[test]
fn column_and_index_that_are_there_are_taken_over_and_nothing_is_rewritten() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute(ISSUES).unwrap();
    let file = "SELECT pg_relation_filenode('issues')";
    let before = first(&mut client, file);
    client.batch_execute("ALTER TABLE issues ADD COLUMN _sync_version bigint NOT NULL DEFAULT 0").unwrap();
    client.batch_execute("CREATE INDEX CONCURRENTLY mine ON issues (_sync_version, id)").unwrap();
    client.batch_execute(TRACK).unwrap();
    assert_eq!(first(&mut client, file), before);
    let indexes = "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid) FROM pg_index WHERE indrelid = 'issues'::regclass";
    assert_eq!(first(&mut client, indexes).as_deref(), Some("issues_pkey mine"));
}

#[test]
fn writing_needs_no_right_on_the_column() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(&format!(
            "{ISSUES}; {TRACK}; CREATE ROLE writer; GRANT INSERT (id, project_id), UPDATE (title), SELECT (id) ON issues TO writer; \
             SET ROLE writer; INSERT INTO issues (id, project_id) VALUES (3, 3); UPDATE issues SET title = 'x' WHERE id = 3; \
             RESET ROLE"
        ))
        .unwrap();
    assert_eq!(first(&mut client, "SELECT _sync_version > 0 FROM issues WHERE id = 3").as_deref(), Some("t"));
}

/// Waits until something is so.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("never so: {what}");
}

/// Waits until a statement gives `true`.
fn wait_for(client: &mut Client, sql: &str) {
    wait_until(sql, || first(client, sql).as_deref() == Some("t"));
}

#[test]
fn subscriber_needs_the_column_or_a_publication_without_it() {
    let install = Install::new();
    let publisher = Cluster::start(&install);
    let subscriber = Cluster::start_with(&install, &[("wal_retrieve_retry_interval", "'100ms'")]);
    let (mut from, mut to) = (publisher.connect(), subscriber.connect());
    let other = "CREATE TABLE listed (id int PRIMARY KEY, title text)";
    from.batch_execute(&format!(
        "{ISSUES}; {other}; CREATE PUBLICATION all_columns FOR TABLE issues; \
         CREATE PUBLICATION some_columns FOR TABLE listed (id, title)"
    ))
    .unwrap();
    to.batch_execute(&format!("CREATE TABLE issues (id int PRIMARY KEY, project_id int, title text); {other}"))
        .unwrap();
    for name in ["all_columns", "some_columns"] {
        let connection = format!("host={} port=5432 user=postgres dbname=postgres", publisher.socket().display());
        to.batch_execute(&format!("CREATE SUBSCRIPTION {name} CONNECTION '{connection}' PUBLICATION {name}")).unwrap();
    }
    wait_for(&mut to, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel");
    let error = from.batch_execute("SELECT sync_track('issues')").unwrap_err();
    assert_eq!(state(&error), "55000");
    from.batch_execute("SELECT sync_track('issues', published => true); SELECT sync_track('listed')").unwrap();
    from.batch_execute("INSERT INTO listed VALUES (9, 'x'); INSERT INTO issues VALUES (9, 3, 'x')").unwrap();
    wait_for(&mut to, "SELECT count(*) = 1 FROM listed");
    let stopped = "is missing replicated column: \"_sync_version\"";
    wait_until(stopped, || subscriber.log().contains(stopped));
    to.batch_execute("ALTER TABLE issues ADD COLUMN _sync_version bigint NOT NULL DEFAULT 0").unwrap();
    wait_for(&mut to, "SELECT count(*) = 3 FROM issues");
    // A subscriber may be tracked itself: what is applied there is stamped there.
    to.batch_execute("CREATE EXTENSION syncline; SELECT sync_track('issues')").unwrap();
    let shape = "'{\"tables\":{\"issues\":{}}}'";
    let cursor =
        first(&mut to, &format!("SELECT cursor FROM sync_changes(NULL, {shape}) WHERE op = 'commit'")).unwrap();
    from.batch_execute("UPDATE issues SET title = 'y' WHERE id = 9").unwrap();
    wait_for(&mut to, "SELECT title = 'y' FROM issues WHERE id = 9");
    let next = format!("SELECT string_agg(op, ' ') FROM sync_changes('{cursor}', {shape})");
    assert_eq!(first(&mut to, &next).as_deref(), Some("upsert commit"));
}
