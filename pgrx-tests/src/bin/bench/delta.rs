//! Deltas of a large table, against the same predicate written by hand.

use postgres::Statement;

use super::Bench;
use super::measure::{Session, cost, in_turns};
use super::take::{NONE, take};

/// Kept by hand: the transaction that wrote a row, and an index on it.
const BY_HAND: &str = "CREATE TABLE $t AS SELECT id, project, title, state, at, 0::bigint AS version FROM $ours;
    ALTER TABLE $t ADD PRIMARY KEY (id);
    CREATE INDEX ON $t (version);";

/// By someone who knows the snapshot of the last query: what it did not see because it came later, or was in progress.
const QUERY_BY_HAND: &str = "
    SELECT to_jsonb(t) FROM $t t WHERE version >= $xmax AND project >= 0
    UNION ALL
    SELECT to_jsonb(t) FROM $t t WHERE version = ANY ('$xip'::bigint[]) AND version < $xmax AND project >= 0";

/// What brings a client who holds all rows of a table that was made by `table` what has changed.
pub fn since(table: &str, cursor: &str) -> String {
    format!(
        r#"SELECT op, relation, key, value, cursor FROM sync_changes('{cursor}', '{{"tables": {{"{table}": {{"where": "project >= 0"}}}}}}')"#
    )
}

/// Exactly so many of a table's rows, all over it.
pub fn spread(rows: u32, changed: u32) -> String {
    format!("WHERE id::bigint * {changed} % {rows} < {changed}")
}

impl Bench<'_> {
    /// A few rows, many, and very many, of a table and of one ten times as large.
    pub fn delta(&mut self) {
        let scale = self.scale();
        let tables = [("small", 1_000_000 / scale), ("large", 10_000_000 / scale)];
        for (table, rows) in tables {
            self.table(table, rows);
            let sql = BY_HAND.replace("$t", &format!("{table}_by_hand")).replace("$ours", table);
            self.client.batch_execute(&sql).expect("the table can be copied");
            self.client.batch_execute(&format!("VACUUM ANALYZE {table}_by_hand")).expect("it can be vacuumed");
        }
        let mut session = [Session::new(self.connect())];
        for changed in [10, 1_000, 100_000 / scale] {
            let mut statements: Vec<Statement> =
                tables.iter().flat_map(|(table, rows)| self.change(&mut session[0], table, *rows, changed)).collect();
            let repeats = (2_000 / changed as usize).clamp(1, 50);
            let turns = if self.quick { 9 } else { 15 };
            let mut costs = in_turns(turns + 1, &mut statements, |statement| {
                cost(&mut self.client, &mut session, repeats, |session| {
                    session[0].beside(|session| {
                        for _ in 0..repeats {
                            assert!(take(session, statement, NONE) >= 50 * changed as usize, "all rows come");
                        }
                    });
                })
            });
            // The first turn plans and fills caches.
            costs.iter_mut().for_each(|costs| costs.rotate_left(1));
            costs.iter_mut().for_each(|costs| costs.truncate(turns));
            let [small, small_by_hand, large, large_by_hand] = &costs[..] else {
                panic!("four statements were measured")
            };
            for ((_, rows), ours, peer) in [(tables[0], small, small_by_hand), (tables[1], large, large_by_hand)] {
                let name = format!("delta of {changed} rows in {rows} against SQL by hand");
                self.report.times("delta", &name, ours, peer, Some(1.0));
            }
            let name = format!("delta of {changed} rows in {} against in {}", tables[1].1, tables[0].1);
            self.report.times("delta", &name, large, small, None);
        }
    }

    /// Changes rows all over the table; the queries that bring them, ours and the one by hand.
    fn change(&mut self, session: &mut Session, table: &str, rows: u32, changed: u32) -> [Statement; 2] {
        let cursor = self.cursor_of_all(table);
        let sql =
            "SELECT pg_snapshot_xmax(s)::text, ARRAY(SELECT pg_snapshot_xip(s))::text FROM pg_current_snapshot() s";
        let row = self.client.query_one(sql, &[]).expect("there is a snapshot");
        let (xmax, xip): (&str, &str) = (row.get(0), row.get(1));
        let spread = spread(rows, changed);
        self.time(&format!("UPDATE {table} SET title = 'changed ' || id {spread}"));
        self.time(&format!(
            "UPDATE {table}_by_hand SET title = 'changed ' || id, version = pg_current_xact_id()::text::bigint {spread}"
        ));
        let ours = since(table, &cursor);
        let by_hand =
            QUERY_BY_HAND.replace("$t", &format!("{table}_by_hand")).replace("$xmax", xmax).replace("$xip", xip);
        [ours, by_hand].map(|sql| session.client.prepare(&sql).expect("it can be prepared"))
    }

    /// A cursor for all rows of a table that was made by `table`.
    pub fn cursor_of_all(&mut self, table: &str) -> String {
        let sql = format!(
            r#"SELECT cursor FROM sync_changes(NULL, '{{"tables": {{"{table}": {{"where": "project >= 0"}}}}}}') WHERE op = 'commit'"#
        );
        self.client.query_one(&sql, &[]).expect("a cursor can be had").get(0)
    }
}
