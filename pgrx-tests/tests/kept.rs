//! What a session keeps of shapes from call to call: after every alteration it answers as a session that keeps nothing.

use postgres::{Client, NoTls};
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

const SETUP: &str = "
    CREATE EXTENSION syncline;
    CREATE SCHEMA first; CREATE SCHEMA second;
    CREATE TYPE mood AS ENUM ('ok', 'sad');
    CREATE TABLE second.t (id int PRIMARY KEY, f int, m mood, n int DEFAULT 0);
    CREATE TABLE parted (id int, f int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20);
    CREATE TABLE level (id int PRIMARY KEY, f int NOT NULL);
    INSERT INTO second.t SELECT g, g % 2, CASE g % 3 WHEN 0 THEN 'ok' ELSE 'sad' END::mood FROM generate_series(1, 6) g;
    INSERT INTO parted SELECT g, g % 2 FROM generate_series(1, 19) g;
    INSERT INTO level VALUES (1, 1);
    SELECT sync_track('second.t', '{f,m}'), sync_track('parted', '{f}'), sync_track('level', '{f}', true);
    SELECT sync_define('odd', '{\"tables\": {\"second.t\": {\"where\": \"f = $1\"}}}');
    CREATE ROLE readers; CREATE ROLE ann LOGIN IN ROLE readers; CREATE ROLE bob;
    GRANT USAGE ON SCHEMA first, second TO readers, bob;
    GRANT SELECT ON second.t, parted, level TO readers;
    ALTER ROLE ann SET search_path = first, second, public";

/// Of both tables by one name, a partitioned one, one with a level, one by name.
const SHAPES: [&str; 5] = [
    r#"{"tables": {"t": {"where": "f = 1"}}}"#,
    r#"{"tables": {"t": {"where": "m = 'ok'", "columns": ["m"]}}}"#,
    r#"{"tables": {"parted": {"where": "f = 1"}}}"#,
    r#"{"tables": {"t": {"columns": ["f"], "where": "f IN (SELECT f FROM level WHERE id = $1)"}}, "params": [1]}"#,
    r#"{"shape": "odd", "params": [1]}"#,
];

/// Each changes what some shape comes to, the second of a pair mostly back.
const ALTERATIONS: [&str; 41] = [
    "REVOKE readers FROM ann",
    "GRANT readers TO ann",
    "REVOKE SELECT ON second.t FROM readers",
    "GRANT SELECT (id, f, _sync_version) ON second.t TO readers",
    "GRANT SELECT ON second.t TO readers",
    "ALTER ROLE ann SUPERUSER; REVOKE SELECT ON parted FROM readers; ALTER ROLE ann NOSUPERUSER",
    "GRANT SELECT ON parted TO pg_database_owner; ALTER DATABASE postgres OWNER TO ann",
    "ALTER DATABASE postgres OWNER TO postgres",
    "GRANT SELECT ON parted TO ann",
    "CREATE POLICY few ON second.t USING (id < 3); ALTER TABLE second.t ENABLE ROW LEVEL SECURITY",
    "ALTER POLICY few ON second.t USING (id < 4)",
    "CREATE POLICY more ON second.t TO readers USING (id > 4)",
    "ALTER ROLE ann BYPASSRLS",
    "ALTER ROLE ann NOBYPASSRLS",
    "DROP POLICY few ON second.t",
    "ALTER TABLE second.t DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE second.t DISABLE TRIGGER syncline_log",
    "ALTER TABLE second.t ENABLE ALWAYS TRIGGER syncline_log",
    "ALTER TABLE low DISABLE TRIGGER \"~syncline_stamp\"",
    "ALTER TABLE low ENABLE ALWAYS TRIGGER \"~syncline_stamp\"",
    "ALTER TABLE second.t ADD COLUMN x int DEFAULT 7",
    "ALTER TABLE second.t DROP COLUMN x",
    "ALTER TABLE second.t RENAME COLUMN n TO o",
    "ALTER TABLE second.t ALTER COLUMN o TYPE text USING 'n' || o",
    "ALTER TABLE second.t ALTER COLUMN f TYPE bigint",
    "ALTER TABLE second.t ALTER COLUMN f TYPE int",
    "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
    "ALTER TYPE mood RENAME VALUE 'fine' TO 'ok'",
    "ALTER TABLE second.t RENAME TO u",
    "ALTER TABLE second.u RENAME TO t",
    "ALTER TABLE second.t SET SCHEMA first; GRANT SELECT ON first.t TO readers",
    "ALTER TABLE first.t SET SCHEMA second",
    "CREATE TABLE first.t (id int PRIMARY KEY, f int, m mood); GRANT SELECT ON first.t TO readers; \
     INSERT INTO first.t VALUES (7, 1); SELECT sync_track('first.t', '{f,m}')",
    "ALTER SCHEMA first RENAME TO third",
    "ALTER SCHEMA third RENAME TO first",
    "DROP TABLE first.t",
    "ALTER TABLE parted DETACH PARTITION high",
    "ALTER TABLE parted ATTACH PARTITION high FOR VALUES FROM (10) TO (20)",
    "ALTER TABLE level DISABLE TRIGGER syncline_log",
    "SELECT sync_define('odd', '{\"tables\": {\"second.t\": {\"where\": \"f <> $1\"}}}')",
    "SELECT sync_untrack('second.t')",
];

/// What the session says of each shape: from nothing, and behind the cursor if that is of the shape.
fn answers(session: &mut Client, cursors: &[String]) -> Vec<String> {
    let sql = "SELECT string_agg(concat_ws(' ', op, relation, key::text, value::text), E'\\n' ORDER BY op, key::text) \
               FROM sync_changes($1::text, $2::text::jsonb)";
    let mut all = Vec::new();
    for (shape, cursor) in SHAPES.iter().zip(cursors) {
        for since in [None, Some(cursor)] {
            let answer = session.query_one(sql, &[&since, shape]).map(|row| row.get::<_, String>(0));
            all.push(answer.unwrap_or_else(|error| state(&error)));
        }
    }
    all
}

fn connect(cluster: &Cluster<'_>) -> Client {
    cluster.config("postgres").user("ann").connect(NoTls).unwrap()
}

#[test]
fn session_answers_after_each_alteration_as_a_new_one_does() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut owner = cluster.connect();
    owner.batch_execute(SETUP).unwrap();
    let mut old = connect(&cluster);
    let sql = "SELECT cursor FROM sync_changes(NULL, $1::text::jsonb) WHERE op = 'commit'";
    let cursors: Vec<String> = SHAPES.iter().map(|shape| old.query_one(sql, &[shape]).unwrap().get(0)).collect();
    let mut before = answers(&mut old, &cursors);
    for alteration in ALTERATIONS {
        owner.batch_execute(alteration).unwrap_or_else(|error| panic!("{alteration}: {error:?}"));
        let kept = answers(&mut old, &cursors);
        assert_eq!(kept, answers(&mut connect(&cluster), &cursors), "{alteration}");
        assert_ne!(kept, before, "{alteration} changes nothing that the shapes show");
        // Now from what is kept.
        assert_eq!(kept, answers(&mut old, &cursors), "{alteration}");
        before = kept;
    }
}

#[test]
fn role_path_and_own_alterations_of_a_session_count() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut session = cluster.connect();
    session.batch_execute(SETUP).unwrap();
    session.batch_execute("SET search_path = first, second, public").unwrap();
    let none = vec![String::new(); SHAPES.len()];
    let all = answers(&mut session, &none);
    for (change, back) in [
        ("SET ROLE bob", "RESET ROLE"),
        ("SET search_path = public", "SET search_path = first, second, public"),
        ("BEGIN; ALTER TABLE parted DETACH PARTITION high; SAVEPOINT s; SET ROLE bob; ROLLBACK TO s", "ROLLBACK"),
        ("BEGIN; ALTER TABLE second.t DROP COLUMN n", "ROLLBACK"),
    ] {
        for _ in 0..2 {
            session.batch_execute(change).unwrap();
            // In a transaction that wrote a pull is refused; what it would show is seen all the same.
            let changed = previews(&mut session);
            session.batch_execute(back).unwrap();
            let restored = previews(&mut session);
            assert_ne!(changed, restored, "{change}");
            assert_eq!(all, answers(&mut session, &none), "{change}");
        }
    }
}

fn previews(session: &mut Client) -> Vec<String> {
    let sql = "SELECT coalesce(string_agg(concat_ws(' ', key::text, value::text), E'\\n' ORDER BY key::text), '') \
               FROM sync_preview($1::text::jsonb)";
    let answer = |row: postgres::Row| row.get(0);
    SHAPES.map(|shape| session.query_one(sql, &[&shape]).map_or_else(|error| state(&error), answer)).to_vec()
}
