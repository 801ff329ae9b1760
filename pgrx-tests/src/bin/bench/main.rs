//! What pulls cost, as ratios against a peer interleaved in the same run: this kind of machine is noisy.
//!
//! `QUICK=1` takes a tenth of the rows, `ONLY=decode` (or others, by commas) runs these parts.

mod decode;
mod pages;
mod relational;
mod report;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use report::Report;
use syncline_tests::{Cluster, Install};

/// Runs of each measurement; the median is compared.
const RUNS: usize = 9;

struct Bench {
    client: Client,
    report: Report,
}

fn main() {
    let quick = std::env::var("QUICK").is_ok_and(|value| value == "1");
    let scale = if quick { 10 } else { 1 };
    let install = Install::new();
    let mut report = Report::default();
    if is_wanted("decode") {
        decode::measure(&install, &mut report, quick);
    }
    if is_wanted("decode-memory") {
        decode::measure_memory(&install, &mut report, quick);
    }
    if is_wanted("pull") {
        report = pulls(&install, report, scale);
    }
    report.write(&syncline_tests::repository().join("bench/results"));
}

/// Whether a part is to run.
fn is_wanted(part: &str) -> bool {
    std::env::var("ONLY").map_or(true, |parts| parts.split(',').any(|wanted| wanted == part))
}

fn pulls(install: &Install, report: Report, scale: u32) -> Report {
    let cluster = Cluster::start_with(install, &[("shared_buffers", "1GB"), ("max_wal_size", "8GB")]);
    let mut client = cluster.connect();
    // One core for each side: a pull runs in one backend, and so does its peer here.
    client
        .batch_execute("CREATE EXTENSION syncline; ALTER DATABASE postgres SET max_parallel_workers_per_gather = 0")
        .expect("the extension can be made");
    let client = cluster.connect();
    let mut bench = Bench { client, report };
    bench.delta_by_table_size(scale);
    bench.old_transaction(&cluster, scale);
    bench.first_pull(scale);
    bench.pages(scale);
    bench.relational(scale);
    bench.memory(&cluster, scale);
    bench.report
}

impl Bench {
    fn table(&mut self, name: &str, rows: u32) {
        println!("loading {rows} rows into {name}");
        self.client
            .batch_execute(&format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, project int, title text, state text, at timestamptz);
                 SELECT sync_track('{name}', '{{project}}');
                 INSERT INTO {name} SELECT g, g % 1000, 'title of row ' || g, 'open', '2024-01-01'::timestamptz + g * '1 s'::interval
                 FROM generate_series(1, {rows}) g",
            ))
            .expect("the table can be loaded");
        self.client.batch_execute(&format!("VACUUM ANALYZE {name}")).expect("the table can be vacuumed");
    }

    /// Milliseconds of one statement.
    fn time(&mut self, sql: &str) -> f64 {
        let start = Instant::now();
        self.client.batch_execute(sql).expect("a measured statement runs");
        start.elapsed().as_secs_f64() * 1e3
    }

    /// Interleaves both statements and notes the ratio of their medians.
    fn compare(&mut self, name: &str, ours: &str, peer: &str, goal: Option<f64>) {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            a.push(self.time(ours));
            b.push(self.time(peer));
        }
        self.report.ratio("pull", name, "ms", &a, &b, goal);
    }

    fn pull(table: &str, cursor: &str) -> String {
        format!(
            "SELECT count(*) FROM sync_changes('{cursor}', '{{\"tables\":{{\"{table}\":{{\"where\":\"id >= 0\"}}}}}}')"
        )
    }

    fn cursor_of_all(&mut self, table: &str) -> String {
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
            pulls.push(Self::pull(table, &cursor));
        }
        self.compare("delta of 10 rows, table x 100", &pulls[0], &pulls[1], None);
    }

    /// The same pull while an old transaction is open, and after it ended: a million changes lie between.
    fn old_transaction(&mut self, cluster: &Cluster<'_>, scale: u32) {
        let mut old = cluster.connect();
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
            pulls.push(Self::pull(table, &cursor));
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

    fn memory(&mut self, cluster: &Cluster<'_>, scale: u32) {
        self.table("five", 5_000_000 / scale);
        let mut fresh = cluster.connect();
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
