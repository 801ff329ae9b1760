//! Rules that random runs cannot be trusted to reach, each with the smallest history that needs it.

use std::time::Duration;

use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use syncline_tests::histories::{self, HISTORIES, pull, state};
use syncline_tests::{Cluster, Install};

/// A cluster with one tracked table.
fn tracked(install: &Install) -> (Cluster<'_>, Client) {
    histories::tracked(install, &[])
}

#[test]
fn histories_that_need_each_rule_keep_the_law() {
    let install = Install::new();
    for (rule, history) in HISTORIES {
        assert_eq!(history(&install, None), Ok(()), "{rule}");
    }
}

#[test]
fn readme_statements_run_and_answer_as_shown() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    let readme = include_str!("../../README.md");
    let (mut answers, mut cursor) = (0, String::new());
    for block in readme.split("```sql\n").skip(1) {
        let (statements, text) = block.split_once("```").expect("a block ends");
        let (mut sql, mut last) = (String::new(), Vec::new());
        for line in statements.lines() {
            sql += &format!("{line}\n");
            if !line.ends_with(';') && !line.ends_with("\\gset") {
                continue;
            }
            let statement = std::mem::take(&mut sql).replace(":'cursor'", &format!("'{cursor}'"));
            last = answer(&mut client, statement.trim_end().trim_end_matches("\\gset"));
            if line.ends_with("\\gset") {
                cursor.clone_from(&last[0][0]);
            }
        }
        assert!(sql.trim().is_empty(), "{sql} has no end");
        let shown = shown(text);
        if !shown.is_empty() {
            last.sort();
            assert_eq!(last, shown, "after {statements}");
            answers += 1;
        }
    }
    assert_eq!(answers, 4);
}

/// The cells of what a statement answers.
fn answer(client: &mut Client, sql: &str) -> Vec<Vec<String>> {
    let cells = |row: &SimpleQueryRow| (0..row.len()).map(|n| row.get(n).unwrap_or_default().to_owned()).collect();
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages.iter().filter_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(cells(row)) } else { None }).collect()
}

/// The cells of the answer that follows a block, in an order that no plan changes.
fn shown(text: &str) -> Vec<Vec<String>> {
    let table = text.trim_start_matches('\n').lines().take_while(|line| line.starts_with("    "));
    let mut rows: Vec<Vec<String>> =
        table.skip(2).map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect();
    rows.sort();
    rows
}

#[test]
fn restored_rows_from_the_future_are_stamped_anew_by_sync_track() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    // What a dump from a busier cluster leaves behind.
    client
        .batch_execute(
            "ALTER TABLE t DISABLE TRIGGER USER; UPDATE t SET _sync_version = 4000000000 WHERE id = 1; \
             ALTER TABLE t ENABLE ALWAYS TRIGGER \"~syncline_stamp\"; ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_log; \
             SELECT sync_track('t')",
        )
        .unwrap();
    let (_, cursor) = pull(&mut client, None).unwrap();
    assert!(pull(&mut client, Some(&cursor)).unwrap().0.is_empty());
}

#[test]
fn truncate_under_an_old_snapshot_is_a_retry_and_then_a_reset() {
    let install = Install::new();
    let (cluster, mut new) = tracked(&install);
    let (_, cursor) = pull(&mut new, None).unwrap();
    let mut old = cluster.connect();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    new.batch_execute("TRUNCATE t").unwrap();
    assert_eq!(state(&pull(&mut old, Some(&cursor)).unwrap_err()), "40001");
    old.batch_execute("ROLLBACK").unwrap();
    assert_eq!(pull(&mut old, Some(&cursor)).unwrap().0, ["reset schema"]);
}

#[test]
fn truncate_whose_barrier_was_pruned_is_a_retry_under_an_old_snapshot() {
    let install = Install::new();
    let (cluster, mut new) = tracked(&install);
    let (_, cursor) = pull(&mut new, None).unwrap();
    let mut old = cluster.connect();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    new.batch_execute("TRUNCATE t").unwrap();
    new.batch_execute("SELECT sync_prune('0')").unwrap();
    assert_eq!(state(&pull(&mut old, Some(&cursor)).unwrap_err()), "40001");
}

#[test]
fn writer_cannot_pull_in_its_transaction() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    client.batch_execute("BEGIN; UPDATE t SET n = 1").unwrap();
    assert_eq!(state(&pull(&mut client, None).unwrap_err()), "25001");
}

#[test]
fn pruned_history_resets_and_kept_history_does_not() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    let (_, cursor) = pull(&mut client, None).unwrap();
    client
        .batch_execute("SELECT sync_prune('1 hour'); DELETE FROM t WHERE id = 1; SELECT sync_prune('1 hour')")
        .unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["delete 1"]);
    client.batch_execute("SELECT sync_prune('0')").unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["reset too_old", "upsert 3", "upsert 5"]);
}

#[test]
fn statement_inside_an_after_trigger_does_not_hide_what_the_row_was() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    client
        .batch_execute(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.f = 7 THEN UPDATE t SET f = 8 WHERE id = NEW.id; END IF; RETURN NULL; END $$; \
             CREATE TRIGGER aaa AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION again()",
        )
        .unwrap();
    let (_, cursor) = pull(&mut client, None).unwrap();
    client
        .batch_execute("BEGIN; UPDATE t SET n = 5 WHERE id = 3; UPDATE t SET f = 7 WHERE id IN (1, 3); COMMIT")
        .unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["delete 1", "delete 3"]);
}

/// The trigger's statement logs what row 30 was before the statement around it logs that there was none.
#[test]
fn statement_inside_an_after_trigger_does_not_make_a_new_key_an_old_one() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    client
        .batch_execute(
            "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.id >= 30 AND NEW.f = 1 THEN UPDATE t SET f = 8 WHERE id = NEW.id; END IF; RETURN NULL; END $$; \
             CREATE TRIGGER aaa AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION away()",
        )
        .unwrap();
    for log_inserts in [false, true] {
        client.batch_execute(&format!("SELECT sync_track('t', log_inserts => {log_inserts})")).unwrap();
        client.batch_execute("DELETE FROM t; INSERT INTO t VALUES (3, 1)").unwrap();
        let (_, cursor) = pull(&mut client, None).unwrap();
        client.batch_execute("UPDATE t SET id = 30 WHERE id = 3; INSERT INTO t VALUES (31, 1)").unwrap();
        assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["delete 3"], "{log_inserts}");
    }
}

#[test]
fn key_that_was_never_committed_is_never_sent() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    let (_, cursor) = pull(&mut client, None).unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (70, 1); UPDATE t SET n = 1 WHERE id = 70; DELETE FROM t WHERE id = 70; COMMIT")
        .unwrap();
    assert!(pull(&mut client, Some(&cursor)).unwrap().0.is_empty());
}

#[test]
fn disabled_trigger_stops_pulls_and_resets_afterwards() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    let (_, cursor) = pull(&mut client, None).unwrap();
    client.batch_execute("ALTER TABLE t DISABLE TRIGGER syncline_log").unwrap();
    assert_eq!(state(&pull(&mut client, Some(&cursor)).unwrap_err()), "55000");
    client.batch_execute("DELETE FROM t WHERE id = 1; ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_log").unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["reset schema", "upsert 3", "upsert 5"]);
}

#[test]
fn triggers_that_were_all_switched_off_and_on_fire_always_again() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    let (_, cursor) = pull(&mut client, None).unwrap();
    // What a framework does around loading fixtures: origin is what ENABLE leaves behind.
    client
        .batch_execute(
            "ALTER TABLE t DISABLE TRIGGER ALL; DELETE FROM t WHERE id = 1; ALTER TABLE t ENABLE TRIGGER ALL",
        )
        .unwrap();
    let (ops, cursor) = pull(&mut client, Some(&cursor)).unwrap();
    assert_eq!(ops, ["reset schema", "upsert 3", "upsert 5"]);
    client.batch_execute("SET session_replication_role = replica; DELETE FROM t WHERE id = 3").unwrap();
    let (ops, cursor) = pull(&mut client, Some(&cursor)).unwrap();
    assert_eq!(ops, ["delete 3"]);
    client.batch_execute("TRUNCATE t").unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["reset schema"]);
}

#[test]
fn partition_whose_triggers_were_all_switched_off_and_on_is_watched_again() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n int DEFAULT 0) PARTITION BY RANGE (id); \
             CREATE TABLE leaf PARTITION OF t FOR VALUES FROM (0) TO (10); SELECT sync_track('t', '{f}'); \
             INSERT INTO t VALUES (1, 1), (2, 1)",
        )
        .unwrap();
    for switched in ["leaf", "t"] {
        client
            .batch_execute(&format!(
                "ALTER TABLE {switched} DISABLE TRIGGER ALL; ALTER TABLE {switched} ENABLE TRIGGER ALL"
            ))
            .unwrap();
        let (_, cursor) = pull(&mut client, None).unwrap();
        client
            .batch_execute(
                "SET session_replication_role = replica; UPDATE leaf SET n = n + 1; RESET session_replication_role",
            )
            .unwrap();
        assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["upsert 1", "upsert 2"], "{switched}");
    }
    let (_, cursor) = pull(&mut client, None).unwrap();
    client.batch_execute("SET session_replication_role = replica; TRUNCATE leaf").unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["reset schema"]);
}

#[test]
fn truncate_is_never_missed_where_its_trigger_was_disabled_or_dropped() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    client
        .batch_execute(
            "ALTER TABLE t DISABLE TRIGGER USER; ALTER TABLE t ENABLE ALWAYS TRIGGER \"~syncline_stamp\"; \
             ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_log",
        )
        .unwrap();
    let (_, cursor) = pull(&mut client, None).unwrap();
    client.batch_execute("TRUNCATE t").unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["reset schema"]);
    client.batch_execute("INSERT INTO t VALUES (1, 1)").unwrap();
    let (_, cursor) = pull(&mut client, None).unwrap();
    client.batch_execute("DROP TRIGGER syncline_truncate ON t; TRUNCATE t").unwrap();
    assert_eq!(state(&pull(&mut client, Some(&cursor)).unwrap_err()), "55000");
    client.batch_execute("SELECT sync_track('t')").unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["reset schema"]);
}

#[test]
fn harmless_alterations_reset_nobody() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    let sql = "SELECT op, value->>'reason', cursor FROM sync_changes($1, '{\"tables\":{\"t\":{\"columns\":[\"n\"]}}}')";
    let first = client.query(sql, &[&None::<String>]).unwrap();
    let cursor: Option<String> = first.last().unwrap().get(2);
    client
        .batch_execute(
            "ALTER TABLE t ADD COLUMN extra int; CREATE INDEX ON t (n); GRANT SELECT ON t TO PUBLIC; \
             ALTER TABLE t ADD CHECK (n < 100); SELECT sync_track('t', filter_columns => '{n}')",
        )
        .unwrap();
    assert_eq!(client.query(sql, &[&cursor]).unwrap().len(), 1, "only a commit");
}

#[test]
fn rewrite_under_an_old_snapshot_is_a_retry_and_resets_nobody_who_does_not_read_it() {
    let install = Install::new();
    let (cluster, mut client) = tracked(&install);
    let sql = "SELECT op, value->>'reason', cursor FROM sync_changes($1, '{\"tables\":{\"t\":{\"columns\":[\"f\"]}}}')";
    let cursor: Option<String> = client.query(sql, &[&None::<String>]).unwrap().last().unwrap().get(2);
    let mut old = cluster.connect();
    for alteration in ["ADD COLUMN v float8 DEFAULT random()", "ALTER COLUMN n TYPE bigint"] {
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
        client.batch_execute(&format!("ALTER TABLE t {alteration}")).unwrap();
        assert_eq!(state(&old.query(sql, &[&cursor]).unwrap_err()), "40001", "{alteration}");
        old.batch_execute("ROLLBACK").unwrap();
        assert_eq!(old.query(sql, &[&cursor]).unwrap().len(), 1, "only a commit after {alteration}");
    }
    client.batch_execute("ALTER TABLE t ALTER COLUMN f TYPE int USING f + 0").unwrap();
    let rows = client.query(sql, &[&cursor]).unwrap();
    assert_eq!(rows[0].get::<_, Option<&str>>(1), Some("schema"));
}

#[test]
fn log_row_from_before_a_column_was_logged_is_not_read_as_null() {
    let install = Install::new();
    let (cluster, mut client) = tracked(&install);
    let mut old = cluster.connect();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    client.batch_execute("DELETE FROM t WHERE id = 1; SELECT sync_track('t', filter_columns => '{n}')").unwrap();
    let sql = "SELECT op || coalesce(key->>'id', value->>'reason', ''), cursor \
               FROM sync_changes($1, '{\"tables\":{\"t\":{\"where\":\"n = 0 AND f = 1\"}}}')";
    // This snapshot holds row 1, whose log row was written when n was not logged.
    let cursor: Option<String> = old.query(sql, &[&None::<String>]).unwrap().last().unwrap().get(1);
    let rows = client.query(sql, &[&cursor]).unwrap();
    assert_eq!(rows[0].get::<_, &str>(0), "resetschema");
}

#[test]
fn filter_column_renamed_and_back_resets_who_reads_it() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    let (_, cursor) = pull(&mut client, None).unwrap();
    client
        .batch_execute("ALTER TABLE t RENAME f TO g; UPDATE t SET g = 2 WHERE id = 1; ALTER TABLE t RENAME g TO f")
        .unwrap();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["reset schema", "upsert 3", "upsert 5"]);
}

#[test]
fn pull_right_after_a_segment_switch_on_an_idle_server_answers() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    for _ in 0..3 {
        client.batch_execute("SELECT pg_switch_wal()").unwrap();
        pull(&mut client, None).unwrap();
    }
}

#[test]
fn wait_holds_no_snapshot_and_returns_on_a_change() {
    let install = Install::new();
    let (cluster, mut client) = tracked(&install);
    let (_, cursor) = pull(&mut client, None).unwrap();
    let mut waiter = cluster.connect();
    let waiting = std::thread::spawn(move || {
        let sql = format!("CALL sync_wait('{cursor}', '{{\"tables\":{{\"t\":{{\"where\":\"f = 1\"}}}}}}', '20 s')");
        match waiter.simple_query(&sql).unwrap().into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }) {
            Some(changed) => changed,
            None => "nothing".to_owned(),
        }
    });
    let mut held = client.query_one("SELECT 1", &[]).map(|_| Vec::new()).unwrap_or_default();
    for _ in 0..50 {
        let row = client
            .query_opt("SELECT backend_xmin::text FROM pg_stat_activity WHERE query LIKE 'CALL sync_wait%' AND wait_event = 'Extension'", &[])
            .unwrap();
        held.extend(row.map(|row| row.get::<_, Option<String>>(0)));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!held.is_empty() && held.iter().all(Option::is_none), "{held:?}");
    client.batch_execute("UPDATE t SET n = 9 WHERE id = 1").unwrap();
    assert_eq!(waiting.join().unwrap(), "t");
}

#[test]
fn wait_for_any_table_sees_every_kind_of_change_and_only_that() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    let changed = |client: &mut Client, cursor: &str| -> bool {
        let sql = format!("CALL sync_wait('{cursor}', NULL, '1 ms')");
        let rows = client.simple_query(&sql).unwrap();
        rows.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")))
    };
    for change in
        ["INSERT INTO t VALUES (9, 1)", "UPDATE t SET n = 2 WHERE id = 1", "DELETE FROM t WHERE id = 3", "TRUNCATE t"]
    {
        let cursor: String = client.query_one("SELECT sync_position()", &[]).unwrap().get(0);
        client.batch_execute("CREATE TABLE IF NOT EXISTS other (id int); INSERT INTO other VALUES (1)").unwrap();
        assert!(!changed(&mut client, &cursor), "before {change}");
        client.batch_execute(change).unwrap();
        assert!(changed(&mut client, &cursor), "after {change}");
    }
}

#[test]
fn more_filters_than_plans_are_kept_for_are_answered_and_so_are_changed_tables() {
    let install = Install::new();
    let (_cluster, mut client) = tracked(&install);
    for round in 0..2 {
        for terms in 1..=300 {
            let filter = vec!["f = 1"; terms % 150 + 1].join(if terms < 150 { " OR " } else { " AND " });
            let sql =
                format!("SELECT count(*) FROM sync_preview('{{\"tables\":{{\"t\":{{\"where\":\"{filter}\"}}}}}}')");
            assert_eq!(client.query_one(&sql, &[]).unwrap().get::<_, i64>(0), 4);
        }
        let type_name = if round == 0 { "bigint" } else { "numeric" };
        client.batch_execute(&format!("ALTER TABLE t ALTER COLUMN n TYPE {type_name}")).unwrap();
    }
    assert_eq!(pull(&mut client, None).unwrap().0, ["reset start", "upsert 1", "upsert 3", "upsert 5"]);
}

#[test]
fn promoted_standby_accepts_cursors_from_before() {
    let install = Install::new();
    let (primary, mut client) = tracked(&install);
    let standby = primary.standby();
    let (_, cursor) = pull(&mut client, None).unwrap();
    client.batch_execute("DELETE FROM t WHERE id = 1").unwrap();
    primary.stop();
    standby.promote();
    assert_eq!(pull(&mut standby.connect(), Some(&cursor)).unwrap().0, ["delete 1"]);
}

#[test]
fn plain_owner_of_a_database_creates_and_uses_the_extension() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut admin = cluster.connect();
    admin.batch_execute("CREATE ROLE owner LOGIN").unwrap();
    admin.batch_execute("CREATE DATABASE own OWNER owner").unwrap();
    let mut config = cluster.config("own");
    let mut client = config.user("owner").connect(postgres::NoTls).unwrap();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE public.t (id int PRIMARY KEY, f int); SELECT sync_track('t', '{f}'); \
             INSERT INTO t VALUES (1, 1); DELETE FROM t; INSERT INTO t VALUES (2, 1); TRUNCATE t; INSERT INTO t VALUES (3, 1)",
        )
        .unwrap();
    assert_eq!(pull(&mut client, None).unwrap().0, ["reset start", "upsert 3"]);
}

#[test]
fn role_without_select_on_a_column_is_told_so() {
    let install = Install::new();
    let (cluster, mut client) = tracked(&install);
    client.batch_execute("CREATE ROLE reader LOGIN; GRANT SELECT (id, f, _sync_version) ON t TO reader").unwrap();
    let mut config = cluster.config("postgres");
    let mut reader = config.user("reader").connect(postgres::NoTls).unwrap();
    assert_eq!(state(&pull(&mut reader, None).unwrap_err()), "42501");
    client.batch_execute("GRANT SELECT (n) ON t TO reader").unwrap();
    assert_eq!(pull(&mut reader, None).unwrap().0, ["reset start", "upsert 1", "upsert 3", "upsert 5"]);
}

#[test]
fn published_table_is_refused_in_a_schema_whose_name_needs_quotes_too() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE SCHEMA \"My App\"; CREATE TABLE \"My App\".t (id int PRIMARY KEY); \
             CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    assert_eq!(state(&client.batch_execute("SELECT sync_track('\"My App\".t')").unwrap_err()), "55000");
}
