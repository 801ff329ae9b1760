//! What one session can show. Several sessions, crashes and standbys are for `pgrx-tests/`.
//!
//! pgrx runs each test in a transaction of its own and rolls it back.

use pgrx::prelude::*;

extension_sql!(
    "CREATE TABLE tests.issues (id int PRIMARY KEY, project_id int);
     SELECT sync_track('tests.issues', '{project_id}');
     INSERT INTO tests.issues VALUES (1, 3), (2, 4);
     CREATE FUNCTION tests.state(statement text) RETURNS text LANGUAGE plpgsql AS $$
     BEGIN
         EXECUTE statement;
         RETURN '00000';
     EXCEPTION WHEN OTHERS THEN
         RETURN SQLSTATE;
     END $$;",
    name = "tracked_table",
    finalize
);

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    const SHAPE: &str = r#"'{"tables":{"issues":{"table":"tests.issues","where":"project_id = 3"}}}'"#;

    /// The first column of the first row. Read-only: pgrx's other ways assign a transaction id.
    fn one<T: FromDatum + IntoDatum>(sql: &str) -> Option<T> {
        Spi::connect(|client| client.select(sql, Some(1), &[]).and_then(|rows| rows.first().get(1))).expect(sql)
    }

    fn state(statement: &str) -> Option<String> {
        one(&format!("SELECT tests.state($statement${statement}$statement$)"))
    }

    #[pg_test]
    fn a_written_row_carries_its_writers_xid() {
        Spi::run("INSERT INTO tests.issues VALUES (5, 3)").expect("the table is tracked");
        let sql = "SELECT _sync_version = pg_current_xact_id()::text::bigint FROM tests.issues WHERE id = 5";
        assert_eq!(one(sql), Some(true));
    }

    #[pg_test]
    fn a_forged_version_is_stamped_over() {
        Spi::run("UPDATE tests.issues SET _sync_version = 7 WHERE id = 1").expect("the table is tracked");
        let sql = "SELECT _sync_version = pg_current_xact_id()::text::bigint FROM tests.issues WHERE id = 1";
        assert_eq!(one(sql), Some(true));
    }

    #[pg_test]
    fn preview_shows_uncommitted_rows_and_gives_no_cursor() {
        Spi::run("INSERT INTO tests.issues VALUES (5, 3)").expect("the table is tracked");
        let sql = format!(
            "SELECT string_agg(op || coalesce(key->>'id', ''), ' ' ORDER BY op DESC, key->>'id') FROM sync_preview({SHAPE})"
        );
        assert_eq!(one::<String>(&sql).as_deref(), Some("upsert1 upsert5 commit"));
        assert_eq!(one(&format!("SELECT count(*) FROM sync_preview({SHAPE}) WHERE cursor IS NOT NULL")), Some(0i64));
    }

    #[pg_test]
    fn a_transaction_that_has_written_cannot_pull() {
        let pull = format!("SELECT sync_pull(NULL, {SHAPE})");
        assert_eq!(state(&pull).as_deref(), Some("00000"));
        Spi::run("INSERT INTO tests.issues VALUES (5, 3)").expect("the table is tracked");
        assert_eq!(state(&pull).as_deref(), Some("25001"));
    }

    #[pg_test]
    fn a_cursor_sees_the_past_and_not_the_transaction_that_took_it() {
        let cursor: String = one(&format!("SELECT sync_pull(NULL, {SHAPE})->>'cursor'")).expect("a cursor");
        let sees = |xid: &str| one::<bool>(&format!("SELECT sync_sees('{cursor}', {xid})"));
        assert_eq!(sees("(SELECT _sync_version::text::xid8 FROM tests.issues WHERE id = 1)"), Some(true));
        assert_eq!(sees("pg_current_xact_id()"), Some(false));
    }

    #[pg_test]
    fn text_that_is_no_cursor_is_22p02() {
        assert_eq!(state("SELECT sync_sees('nonsense', '3')").as_deref(), Some("22P02"));
        assert_eq!(state(&format!("SELECT sync_pull('nonsense', {SHAPE})")).as_deref(), Some("22P02"));
    }

    #[pg_test]
    fn a_filter_over_a_column_that_is_not_logged_is_refused() {
        let shape = r#"'{"tables":{"t":{"where":"b = 1"}}}'"#;
        Spi::run("CREATE TABLE t (a int PRIMARY KEY, b int); SELECT sync_track('t')").expect("it can be tracked");
        assert_eq!(state(&format!("SELECT sync_preview({shape})")).as_deref(), Some("0A000"));
    }
}
