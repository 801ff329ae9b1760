//! Pulls: what they cost by the size of the table and the age of the oldest transaction, whole and in pages, over related tables.

use std::fs;
use std::thread;
use std::time::Duration;

use super::Bench;

impl Bench<'_> {
    /// All of it.
    pub fn pull(&mut self) {
        let scale = self.scale();
        self.delta_by_table_size(scale);
        self.old_transaction(scale);
        self.first_pull(scale);
        self.pages(scale);
        self.relational(scale);
        self.memory(scale);
    }

    pub fn count(table: &str, cursor: &str) -> String {
        format!(
            "SELECT count(*) FROM sync_changes('{cursor}', '{{\"tables\":{{\"{table}\":{{\"where\":\"id >= 0\"}}}}}}')"
        )
    }

    pub fn cursor_of_all(&mut self, table: &str) -> String {
        let sql = format!(
            "SELECT cursor FROM sync_changes(NULL, '{{\"tables\":{{\"{table}\":{{\"where\":\"id >= 0\"}}}}}}') WHERE op = 'commit'"
        );
        self.client.query_one(&sql, &[]).expect("a cursor can be had").get(0)
    }

    fn delta_by_table_size(&mut self, scale: u32) {
        self.table("small", 100_000 / scale);
        self.table("large", 10_000_000 / scale);
        let mut pulls = Vec::new();
        for table in ["large", "small"] {
            let cursor = self.cursor_of_all(table);
            self.time(&format!("UPDATE {table} SET title = 'changed' WHERE id <= 10"));
            pulls.push(Self::count(table, &cursor));
        }
        self.compare("delta of 10 rows, table x 100", &pulls[0], &pulls[1], None);
    }

    /// The same pull while an old transaction is open, and after it ended: a million changes lie between.
    fn old_transaction(&mut self, scale: u32) {
        let mut old = self.connect();
        let mut pulls = Vec::new();
        for (table, open) in [("calm", false), ("held", true)] {
            self.table(table, 100_000 / scale);
            if open {
                old.batch_execute("BEGIN; SELECT pg_current_xact_id()").expect("a transaction can be left open");
            }
            println!("changing {} rows of {table}", 1_000_000 / scale);
            for _ in 0..10 {
                self.time(&format!("UPDATE {table} SET state = 'x'"));
            }
            let cursor = self.cursor_of_all(table);
            self.time(&format!("UPDATE {table} SET title = 'changed' WHERE id <= 10"));
            pulls.push(Self::count(table, &cursor));
        }
        // Both tables have ten dead versions of each row, which the open transaction keeps from vacuum.
        self.compare("delta of 10 rows, old transaction and 1M changes", &pulls[1], &pulls[0], None);
        old.batch_execute("ROLLBACK").expect("a transaction can be ended");
    }

    fn first_pull(&mut self, scale: u32) {
        self.table("million", 1_000_000 / scale);
        let ours = "SELECT sum(octet_length(value::text)) FROM sync_changes(NULL, '{\"tables\":{\"million\":{}}}')";
        let peer = "SELECT sum(octet_length(to_jsonb(t)::text)) FROM million t";
        self.compare("first pull of 1M rows against to_jsonb", ours, peer, Some(0.25));
        self.compare(
            "first pull of 1M rows against row_to_json",
            ours,
            "SELECT sum(octet_length(row_to_json(t)::text)) FROM million t",
            Some(0.5),
        );
    }

    fn memory(&mut self, scale: u32) {
        self.table("five", 5_000_000 / scale);
        let mut fresh = self.connect();
        let pid: i32 = fresh.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
        let resident = || {
            let status = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let private = status.lines().filter(|line| line.starts_with("Private_Dirty:"));
            private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum::<f64>() / 1024.0
        };
        let before = resident();
        let sql = "SELECT count(*) FROM sync_changes(NULL, '{\"tables\":{\"five\":{}}}')";
        let pull = thread::spawn(move || fresh.batch_execute(sql).map(|()| fresh).expect("the pull runs"));
        let mut peak = before;
        while !pull.is_finished() {
            peak = peak.max(resident());
            thread::sleep(Duration::from_millis(20));
        }
        self.report.ratio(
            "pull",
            "private memory, first pull of 5M rows against before",
            "MB",
            &[peak],
            &[before],
            None,
        );
    }
}
