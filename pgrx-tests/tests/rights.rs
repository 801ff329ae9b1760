//! What each role may do, and what it may make others do. A trap tells in the server's log with whose rights it ran.

use postgres::{Client, NoTls};
use syncline_tests::histories::{self, pull, state};
use syncline_tests::{Cluster, Install};

/// A session of another role than the superuser.
fn login(cluster: &Cluster<'_>, role: &str) -> Client {
    let mut config = cluster.config("postgres");
    config.user(role).connect(NoTls).expect("the role can log in")
}

/// A cluster with the tracked table `t`, and role `mallory`, who may create what she likes in a schema of her own.
fn with_mallory(install: &Install) -> (Cluster<'_>, Client, Client) {
    let (cluster, mut admin) = histories::tracked(install, &[]);
    admin
        .batch_execute(
            "CREATE ROLE mallory LOGIN; CREATE SCHEMA mallory AUTHORIZATION mallory; GRANT SELECT ON t TO mallory",
        )
        .unwrap();
    let mut mallory = login(&cluster, "mallory");
    mallory.batch_execute(TRAP).unwrap();
    (cluster, admin, mallory)
}

/// Functions that tell who runs them. They stand in indexes and generated columns too, so they call themselves immutable.
const TRAP: &str = "
    CREATE FUNCTION mallory.trap() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN RAISE LOG 'trapped %.', current_user; RETURN true; END $$;
    CREATE FUNCTION mallory.trap(anyelement) RETURNS anyelement IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN PERFORM mallory.trap(); RETURN $1; END $$;
    CREATE FUNCTION mallory.trap_trigger() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM mallory.trap(); RETURN NEW; END $$;";

/// That traps were run by `mallory`, so that they work, and never by the superuser.
fn assert_only_mallory(cluster: &Cluster<'_>) {
    let log = cluster.log();
    let superuser: Vec<&str> = log.lines().filter(|line| line.contains("trapped postgres.")).collect();
    assert!(superuser.is_empty(), "run as superuser: {superuser:?}");
    assert!(log.contains("trapped mallory."), "no trap was ever run");
}

#[test]
fn reader_of_a_table_reaches_nothing_of_ours() {
    let install = Install::new();
    let (_cluster, mut admin, mut mallory) = with_mallory(&install);
    let (_, cursor) = pull(&mut admin, None).unwrap();
    admin.batch_execute("DELETE FROM t WHERE id = 1; SELECT sync_prune('1 hour')").unwrap();
    let mut denied: Vec<String> = [
        "SELECT * FROM sync_health",
        "SELECT nextval('syncline.barrier_id_seq')",
        "SELECT syncline.set_barrier('t'::regclass, 'x')",
        "SELECT syncline.adopt('t'::regclass)",
        "SELECT syncline.on_ddl('any', NULL, true, false)",
        "SELECT syncline.attached(0)",
        "SELECT syncline.set_type_barrier(0)",
        "SELECT syncline.track('t', '{}', false, false)",
        "SELECT sync_track('t')",
        "SELECT sync_untrack('t')",
        "SELECT sync_prune('0')",
        "SELECT sync_rotate_epoch()",
        "CREATE TABLE syncline.mine (id int)",
        "CREATE TRIGGER x AFTER TRUNCATE ON t EXECUTE FUNCTION syncline.truncated()",
        "DELETE FROM t",
        "ALTER SYSTEM SET syncline.filter_settings = ''",
        "SET syncline.filter_settings = 'is_'",
        "DROP EXTENSION syncline",
        "DROP EVENT TRIGGER syncline_ddl",
        "CREATE OR REPLACE FUNCTION syncline.root(relation oid) RETURNS oid LANGUAGE sql AS 'SELECT $1'",
    ]
    .map(str::to_owned)
    .to_vec();
    for (table, column) in
        [("log", "rows"), ("barrier", "reason"), ("state", "epoch"), ("sample", "taken"), ("leaf", "root")]
    {
        denied.extend([
            format!("SELECT {column} FROM syncline.{table}"),
            format!("INSERT INTO syncline.{table} DEFAULT VALUES"),
            format!("UPDATE syncline.{table} SET {column} = NULL"),
            format!("DELETE FROM syncline.{table}"),
            format!("TRUNCATE syncline.{table}"),
            format!("DO 'BEGIN LOCK syncline.{table}; END'"),
            format!("CREATE TRIGGER x AFTER INSERT ON syncline.{table} EXECUTE FUNCTION mallory.trap_trigger()"),
            format!("CREATE POLICY x ON syncline.{table}"),
        ]);
    }
    mallory.batch_execute("SET syncline.pruning = on").unwrap();
    for sql in denied {
        let refused = mallory.batch_execute(&sql).map_err(|error| state(&error));
        assert_eq!(refused, Err("42501".to_owned()), "{sql}");
    }
    for (sql, refused) in [
        ("SELECT syncline.stamp()", "39P01"),
        ("SELECT syncline.log()", "39P01"),
        ("SELECT syncline.ddl()", "39P03"),
        ("SELECT syncline.truncated()", "0A000"),
        ("SELECT syncline.refuse()", "0A000"),
        ("SELECT syncline.dropped()", "0A000"),
        ("SELECT syncline.rewritten()", "0A000"),
    ] {
        assert_eq!(mallory.batch_execute(sql).map_err(|error| state(&error)), Err(refused.to_owned()), "{sql}");
    }
    // What she may read she gets, and all that happened before is still told.
    assert_eq!(pull(&mut mallory, Some(&cursor)).unwrap().0, ["delete 1"]);
    admin
        .batch_execute(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.h (id int PRIMARY KEY); GRANT SELECT ON hidden.h TO mallory; \
             SELECT sync_track('hidden.h')",
        )
        .unwrap();
    let hidden = "SELECT sync_changes(NULL, '{\"tables\":{\"hidden.h\":{}}}')";
    assert_eq!(mallory.batch_execute(hidden).map_err(|error| state(&error)), Err("42501".to_owned()));
}

#[test]
fn triggers_of_ours_on_tables_of_any_form_touch_nobody_else() {
    let install = Install::new();
    let (_cluster, mut admin, mut mallory) = with_mallory(&install);
    let (_, cursor) = pull(&mut admin, None).unwrap();
    for (columns, refused) in [
        ("id int PRIMARY KEY, _sync_version text", Some("55000")),
        ("id int PRIMARY KEY, _sync_version int", Some("55000")),
        ("id int PRIMARY KEY, _sync_version numeric[]", Some("55000")),
        ("id int PRIMARY KEY", Some("55000")),
        ("id int, _sync_version bigint", None),
    ] {
        mallory
            .batch_execute(&format!(
                "CREATE TABLE mallory.odd ({columns}); \
                 CREATE TRIGGER a BEFORE INSERT OR UPDATE ON mallory.odd FOR EACH ROW EXECUTE FUNCTION syncline.stamp(); \
                 CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON mallory.odd FOR EACH ROW EXECUTE FUNCTION syncline.log('x'); \
                 CREATE TRIGGER c AFTER TRUNCATE ON mallory.odd EXECUTE FUNCTION syncline.truncated()"
            ))
            .unwrap();
        let written = mallory.batch_execute("INSERT INTO mallory.odd VALUES (1)").map_err(|error| state(&error));
        assert_eq!(written.err().as_deref(), refused, "{columns}");
        mallory.batch_execute("TRUNCATE mallory.odd; DROP TRIGGER b ON mallory.odd; DROP TABLE mallory.odd").unwrap();
    }
    assert!(pull(&mut admin, Some(&cursor)).unwrap().0.is_empty(), "no barrier for others");
    // The version of a tracked table that becomes something else.
    mallory
        .batch_execute(
            "CREATE TABLE mallory.own (id int PRIMARY KEY); SELECT sync_track('mallory.own'); \
             ALTER TABLE mallory.own ALTER COLUMN _sync_version DROP DEFAULT, ALTER COLUMN _sync_version TYPE text",
        )
        .unwrap();
    for sql in
        ["INSERT INTO mallory.own VALUES (1, 'x')", "SELECT sync_changes(NULL, '{\"tables\":{\"mallory.own\":{}}}')"]
    {
        assert_eq!(mallory.batch_execute(sql).map_err(|error| state(&error)), Err("55000".to_owned()), "{sql}");
    }
}

/// Operators and functions that match calls in our SQL better than those of `pg_catalog` do, where both are looked for.
fn lures(schema: &str) -> String {
    let mut sql = String::new();
    for (symbol, left, right, result, body) in [
        ("=", "oid", "regprocedure", "boolean", "$1 = $2::oid"),
        ("=", "oid", "regclass", "boolean", "$1 = $2::oid"),
        ("=", "oid", "int4", "boolean", "$1 = $2::oid"),
        ("=", "name", "text", "boolean", "$1::text = $2"),
        ("=", "oid", "oid", "boolean", "$1::text = $2::text"),
        ("=", "\"char\"", "text", "boolean", "$1::text = $2"),
        ("&", "int2", "int4", "int4", "$1::int4 & $2"),
        ("<>", "int4", "int8", "boolean", "$1::int8 <> $2"),
        (">=", "xid8", "xid8", "boolean", "$1::text >= $2::text"),
        ("&&", "int2[]", "int2[]", "boolean", "true"),
    ] {
        let name: String = symbol.bytes().map(|byte| format!("{byte}")).collect();
        sql.push_str(&format!(
            "CREATE FUNCTION {schema}.op{name}({left}, {right}) RETURNS {result} LANGUAGE plpgsql \
             SET search_path = pg_catalog AS $$ BEGIN PERFORM mallory.trap(); RETURN {body}; END $$; \
             CREATE OPERATOR {schema}.{symbol} (FUNCTION = {schema}.op{name}, LEFTARG = {left}, RIGHTARG = {right}); "
        ));
    }
    for (call, result, body) in [
        ("array_remove(text[], text)", "text[]", "$1"),
        ("array_agg(text)", "text[]", "ARRAY[$1]"),
        ("unnest(text[])", "text", "$1[1]"),
        ("format(text, text)", "text", "$1"),
        ("format(text, regclass)", "text", "$1"),
        ("array_position(int2[], int2)", "int", "0"),
        ("pg_partition_root(oid)", "regclass", "$1::regclass"),
        ("current_setting(text, boolean)", "text", "'on'"),
        ("lower(text)", "text", "$1"),
    ] {
        sql.push_str(&format!(
            "CREATE FUNCTION {schema}.{call} RETURNS {result} LANGUAGE plpgsql SET search_path = pg_catalog AS \
             $$ BEGIN PERFORM mallory.trap(); RETURN {body}; END $$; "
        ));
    }
    sql
}

#[test]
fn names_before_ours_in_the_search_path_are_not_taken() {
    let install = Install::new();
    let (cluster, mut admin, mut mallory) = with_mallory(&install);
    mallory.batch_execute(&lures("mallory")).unwrap();
    mallory
        .batch_execute(
            "SET search_path = mallory, pg_temp, public, pg_catalog; SELECT 1::oid = 1::oid; \
             CREATE TABLE mallory.pg_trigger AS SELECT * FROM pg_catalog.pg_trigger; \
             CREATE TEMP TABLE pg_class AS SELECT * FROM pg_catalog.pg_class; \
             CREATE TEMP TABLE log (id int); CREATE TEMP TABLE state (epoch bigint); \
             CREATE TEMP TABLE t (id int PRIMARY KEY, f int, n int, _sync_version bigint); INSERT INTO t VALUES (99, 1); \
             CREATE TYPE mallory.kind AS ENUM ('a'); \
             CREATE TABLE mallory.p (id int PRIMARY KEY, f int, k mallory.kind) PARTITION BY LIST (id); \
             CREATE TABLE mallory.p1 PARTITION OF mallory.p FOR VALUES IN (1); \
             SELECT sync_track('mallory.p', '{f}'); INSERT INTO mallory.p VALUES (1, 1)",
        )
        .unwrap();
    let shape = "{\"tables\":{\"mallory.p\":{\"where\":\"f = 1\"}}}";
    let sql = format!("SELECT cursor FROM public.sync_changes(NULL, '{shape}') WHERE cursor IS NOT NULL");
    let cursor: String = mallory.query_one(&sql, &[]).unwrap().get(0);
    // Each in a transaction of its own: who has written cannot pull.
    let statements = format!(
        "UPDATE mallory.p SET f = 2; \
             SELECT public.sync_changes('{cursor}', '{shape}'); SELECT public.sync_pull('{cursor}', '{shape}'); \
             SELECT public.sync_digest('{shape}'); SELECT public.sync_preview('{shape}'); SELECT * FROM public.sync_tables; \
             ALTER TABLE mallory.p RENAME COLUMN f TO g; ALTER TABLE mallory.p RENAME COLUMN g TO f; \
             ALTER TYPE mallory.kind RENAME VALUE 'a' TO 'b'; ALTER TABLE mallory.p ALTER COLUMN f TYPE bigint; \
             CREATE TABLE mallory.p2 PARTITION OF mallory.p FOR VALUES IN (2); \
             ALTER TABLE mallory.p DETACH PARTITION mallory.p2; TRUNCATE mallory.p; DROP TABLE mallory.p1; \
             ALTER TABLE mallory.p DISABLE TRIGGER syncline_log; DROP TRIGGER syncline_log ON mallory.p; \
             SELECT public.sync_track('mallory.p', '{{f}}'); SELECT public.sync_untrack('mallory.p')"
    );
    for sql in statements.split("; ") {
        mallory.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    mallory.batch_execute(&format!("CALL public.sync_wait('{cursor}', NULL, '1 ms')")).unwrap();
    // The temporary table of the same name stands in nobody's way.
    assert_eq!(pull(&mut mallory, None).map(|delta| delta.0).unwrap_or_default().len(), 4);
    admin
        .batch_execute(
            "SET search_path = mallory, public; SELECT public.sync_prune('0'); SELECT public.sync_rotate_epoch()",
        )
        .unwrap();
    assert_only_mallory(&cluster);
}

#[test]
fn views_of_an_extension_in_a_hostile_schema_run_nothing_of_it() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    cluster.connect().batch_execute("CREATE ROLE mallory LOGIN; GRANT CREATE ON DATABASE postgres TO mallory").unwrap();
    let mut mallory = login(&cluster, "mallory");
    mallory.batch_execute("CREATE SCHEMA mallory").unwrap();
    mallory.batch_execute(TRAP).unwrap();
    mallory.batch_execute(&lures("mallory")).unwrap();
    mallory
        .batch_execute(
            "SELECT mallory.trap(); SET search_path = mallory; CREATE EXTENSION syncline SCHEMA mallory; \
             CREATE TABLE t (id int PRIMARY KEY); SELECT sync_track('t')",
        )
        .unwrap();
    let mut admin = cluster.connect();
    // "syncline.client" and "syncline.message" are tracked too.
    for (view, rows) in [("sync_tables", 3), ("sync_health", 1)] {
        assert_eq!(admin.query(&format!("SELECT * FROM mallory.{view}"), &[]).unwrap().len(), rows, "{view}");
    }
    assert_only_mallory(&cluster);
    // Whoever created it looks after it.
    mallory.batch_execute("SELECT sync_prune('0'); SELECT sync_rotate_epoch(); SELECT * FROM sync_health").unwrap();
}

#[test]
fn superuser_who_tracks_a_hostile_table_runs_nothing_of_its_owner() {
    let install = Install::new();
    let (cluster, mut admin, mut mallory) = with_mallory(&install);
    mallory
        .batch_execute(
            "CREATE DOMAIN mallory.checked AS int CHECK (mallory.trap(VALUE) > 0); \
             CREATE TABLE mallory.bait (id int PRIMARY KEY, f int DEFAULT 1 CHECK (mallory.trap(f) > 0), \
                 c mallory.checked DEFAULT 1, g int GENERATED ALWAYS AS (mallory.trap(id)) STORED, \
                 _sync_version bigint NOT NULL DEFAULT 4000000000, syncline_log int, relation int, \"x'; --\" int); \
             CREATE INDEX ON mallory.bait (mallory.trap(f)); CREATE INDEX ON mallory.bait (f) WHERE mallory.trap(f) > 0; \
             CREATE STATISTICS mallory.st ON mallory.trap(f), f FROM mallory.bait; \
             CREATE TRIGGER a BEFORE UPDATE ON mallory.bait FOR EACH ROW EXECUTE FUNCTION mallory.trap_trigger(); \
             CREATE TRIGGER z AFTER UPDATE ON mallory.bait EXECUTE FUNCTION mallory.trap_trigger(); \
             CREATE TRIGGER syncline_log AFTER UPDATE ON mallory.bait FOR EACH ROW EXECUTE FUNCTION mallory.trap_trigger('x''; --'); \
             CREATE RULE r AS ON UPDATE TO mallory.bait DO ALSO SELECT mallory.trap(); \
             ALTER TABLE mallory.bait ENABLE ROW LEVEL SECURITY; ALTER TABLE mallory.bait FORCE ROW LEVEL SECURITY; \
             CREATE POLICY p ON mallory.bait USING (mallory.trap()); \
             INSERT INTO mallory.bait (id) VALUES (1), (2)",
        )
        .unwrap();
    admin.batch_execute("SELECT sync_track('mallory.bait', '{f,c}')").unwrap();
    admin
        .batch_execute(
            "SELECT sync_track('mallory.bait', '{g}'); SELECT syncline.track('mallory.bait', '{}', true, false)",
        )
        .unwrap();
    let shape = "{\"tables\":{\"mallory.bait\":{\"where\":\"f = 1 OR c = 1\"}}}";
    admin.batch_execute(&format!("SELECT sync_changes(NULL, '{shape}'); SELECT sync_digest('{shape}')")).unwrap();
    admin.batch_execute("SELECT sync_untrack('mallory.bait')").unwrap();
    // An index that is evaluated when a query is planned, and a trigger that would fire when the superuser commits.
    mallory
        .batch_execute(
            "CREATE TABLE mallory.more (id int PRIMARY KEY, _sync_version bigint NOT NULL DEFAULT 4000000000); \
             CREATE INDEX ON mallory.more (mallory.trap(1)); INSERT INTO mallory.more VALUES (1)",
        )
        .unwrap();
    admin.batch_execute("SELECT sync_track('mallory.more'); SELECT sync_untrack('mallory.more')").unwrap();
    mallory
        .batch_execute(
            "ALTER TABLE mallory.more ADD COLUMN _sync_version bigint NOT NULL DEFAULT 4000000000; \
             CREATE CONSTRAINT TRIGGER d AFTER UPDATE ON mallory.more DEFERRABLE INITIALLY DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION mallory.trap_trigger()",
        )
        .unwrap();
    let track = "SELECT sync_track('mallory.more')";
    assert_eq!(admin.batch_execute(track).map_err(|error| state(&error)), Err("42501".to_owned()));
    mallory.batch_execute(track).unwrap();
    assert_only_mallory(&cluster);
}

#[test]
fn functions_of_types_run_with_the_rights_of_who_pulls() {
    let install = Install::new();
    let (cluster, _admin, mut mallory) = with_mallory(&install);
    mallory
        .batch_execute(
            "CREATE TYPE mallory.pair AS (x int, y int); \
             CREATE FUNCTION mallory.to_json(mallory.pair) RETURNS json LANGUAGE plpgsql AS \
                 $$ BEGIN PERFORM mallory.trap(); RETURN to_json($1.x); END $$; \
             CREATE CAST (mallory.pair AS json) WITH FUNCTION mallory.to_json(mallory.pair); \
             CREATE DOMAIN mallory.checked AS int CHECK (mallory.trap(VALUE) > 0); \
             CREATE TABLE mallory.own (p mallory.pair PRIMARY KEY, f mallory.checked); \
             SELECT sync_track('mallory.own', '{f}'); INSERT INTO mallory.own VALUES ((1, 1), 1), ((2, 1), 1)",
        )
        .unwrap();
    let shape = "{\"tables\":{\"mallory.own\":{\"where\":\"f = 1\"}}}";
    let sql = format!("SELECT cursor FROM sync_changes(NULL, '{shape}') WHERE cursor IS NOT NULL");
    let cursor: String = mallory.query_one(&sql, &[]).unwrap().get(0);
    mallory.batch_execute("DELETE FROM mallory.own WHERE (p).x = 1; UPDATE mallory.own SET f = 2").unwrap();
    let rows = mallory.query(&format!("SELECT * FROM sync_changes('{cursor}', '{shape}')"), &[]).unwrap();
    assert_eq!(rows.len(), 3, "two deletes, whose keys the cast writes, and a commit");
    assert_only_mallory(&cluster);
}
