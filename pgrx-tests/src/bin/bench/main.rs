//! What the extension costs, as ratios against peers interleaved in the same run: this kind of machine is noisy.
//!
//! `QUICK=1` takes a fraction of the rows, `ONLY=write,pull` runs these parts only.

mod bulk;
mod charts;
mod control;
mod curves;
mod decode;
mod delta;
mod first;
mod live;
mod measure;
mod pages;
mod pull;
mod relational;
mod report;
mod summary;
mod take;
mod wakes;
mod write;

use std::env;
use std::time::Instant;

use measure::{Cost, in_turns};
use postgres::Client;
use report::Report;
use syncline_tests::{Cluster, Install};

/// Runs of each measurement; the median is compared.
const RUNS: usize = 9;

/// What can be run on its own, each in a database of its own.
const PARTS: [(&str, Part); 9] = [
    ("control", |bench| bench.control()),
    ("write", |bench| bench.write()),
    ("first", |bench| bench.first()),
    ("delta", |bench| bench.delta()),
    ("pull", |bench| bench.pull()),
    ("live", |bench| bench.live()),
    ("curves", |bench| bench.curves()),
    ("decode", |bench| decode::measure(bench.install, &mut bench.report, bench.quick)),
    ("memory", |bench| decode::measure_memory(bench.install, &mut bench.report, bench.quick)),
];

type Part = fn(&mut Bench<'_>);

/// Autovacuum would come at another moment in each run, and so would the images of whole pages after a checkpoint.
const SETTINGS: [(&str, &str); 6] = [
    ("full_page_writes", "off"),
    ("max_prepared_transactions", "1100"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
];

struct Bench<'a> {
    install: &'a Install,
    cluster: &'a Cluster<'a>,
    /// The database of the part that runs.
    database: &'static str,
    client: Client,
    report: Report,
    quick: bool,
    /// How often `next` was called.
    counter: u64,
}

fn main() {
    let quick = env::var("QUICK").is_ok_and(|value| value == "1");
    let only = env::var("ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    let is_unknown = |name: &&&str| PARTS.iter().all(|(part, _)| part != *name);
    if let Some(name) = only.iter().find(is_unknown) {
        let names = PARTS.map(|(name, _)| name).join(", ");
        eprintln!("ONLY: there is no part {name}; there are: {names}");
        std::process::exit(2);
    }
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &SETTINGS);
    let client = cluster.connect();
    let mut bench = Bench {
        install: &install,
        cluster: &cluster,
        database: "postgres",
        client,
        report: Report::default(),
        quick,
        counter: 0,
    };
    for (name, part) in PARTS.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        let start = Instant::now();
        bench.run(name, *part);
        println!("{name}: {:.0} s", start.elapsed().as_secs_f64());
    }
    bench.report.write(&syncline_tests::repository().join("bench/results"));
}

impl Bench<'_> {
    /// Runs a part in a database that goes with it.
    fn run(&mut self, name: &'static str, part: Part) {
        let mut admin = self.cluster.connect();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).expect("a database can be made");
        // One core for each side: a pull runs in one backend, and so does its peer here.
        admin
            .batch_execute(&format!("ALTER DATABASE {name} SET max_parallel_workers_per_gather = 0"))
            .expect("it can be set up");
        self.database = name;
        self.client = self.connect();
        self.client.batch_execute("CREATE EXTENSION syncline").expect("the extension can be made");
        part(self);
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).expect("a database can be dropped");
    }

    /// A further session in the database of the part.
    fn connect(&self) -> Client {
        self.cluster.connect_to(self.database)
    }

    /// Another number each time.
    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// What the small run divides numbers of rows by.
    fn scale(&self) -> u32 {
        if self.quick { 10 } else { 1 }
    }

    /// A tracked table of rows of about 100 bytes.
    fn table(&mut self, name: &str, rows: u32) {
        let sql = format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, project int, title text, state text, at timestamptz);
             SELECT sync_track('{name}', '{{project}}')"
        );
        self.client.batch_execute(&sql).expect("the table can be made");
        self.load(name, 1, rows);
    }

    /// More rows into such a table.
    fn load(&mut self, name: &str, from: u32, to: u32) {
        println!("loading rows {from} to {to} into {name}");
        let sql = format!(
            "INSERT INTO {name} SELECT g, g % 1000, 'title of row ' || g, 'open', '2024-01-01'::timestamptz + g * '1 s'::interval
             FROM generate_series({from}, {to}) g"
        );
        self.client.batch_execute(&sql).expect("the table can be loaded");
        self.client.batch_execute(&format!("VACUUM ANALYZE {name}")).expect("the table can be vacuumed");
    }

    /// Milliseconds of one statement.
    fn time(&mut self, sql: &str) -> f64 {
        let start = Instant::now();
        self.client.batch_execute(sql).expect("a measured statement runs");
        start.elapsed().as_secs_f64() * 1e3
    }

    /// Runs both statements in turns and notes the ratios of CPU and time.
    fn compare(&mut self, name: &str, ours: &str, peer: &str, goal: Option<f64>) {
        let pid = measure::pid(&mut self.client);
        let mut measure = |sql: &str, repeats: usize| {
            let (cpu, start) = (measure::cpu(pid), Instant::now());
            measure::on_one_core(pid, || {
                for _ in 0..repeats {
                    self.client.batch_execute(sql).expect("a measured statement runs");
                }
            });
            let wall = start.elapsed().as_secs_f64() * 1e6 / repeats as f64;
            Cost { wall, cpu: (measure::cpu(pid) - cpu) / repeats as f64, wal: 0.0 }
        };
        // The first run fills caches; the second tells how many make up five milliseconds.
        let mut sides = [ours, peer].map(|sql| {
            measure(sql, 1);
            (sql, (5_000.0 / measure(sql, 1).cpu).clamp(1.0, 100.0) as usize)
        });
        let costs = in_turns(RUNS, &mut sides, |(sql, repeats)| measure(sql, *repeats));
        self.report.times(self.database, name, &costs[0], &costs[1], goal);
    }
}
