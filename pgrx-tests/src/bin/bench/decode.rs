//! What a change costs the walsender: output plugins over the same log, through the same reader, in turns.
//!
//! A workload is written once, behind a slot of its own. Each round copies that slot for each plugin and reads the copy with
//! `pg_recvlogical` until all is sent; the measure is the time that the walsender was on a core. Peers are asked for the one
//! table only, where they can be.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use syncline_tests::{Cluster, Install, repository};

use super::report::Report;

/// How long a slot may take to be read.
const PATIENCE: Duration = Duration::from_secs(300);

/// A hundredth of the rows is in a project.
const TABLE: &str = "CREATE EXTENSION syncline;
    CREATE TABLE decoded (id bigint PRIMARY KEY, project_id int NOT NULL, title text NOT NULL, state text NOT NULL,
                          at timestamptz NOT NULL, body text NOT NULL);
    SELECT sync_track('decoded', '{project_id}');
    CREATE PUBLICATION bench FOR TABLE decoded;
    ALTER DATABASE postgres SET synchronous_commit = off";

/// An output plugin and what it is asked for.
#[derive(Clone, Copy)]
struct Reader {
    name: &'static str,
    plugin: &'static str,
    options: &'static [&'static str],
}

const ALL: Reader = Reader {
    name: "all changes",
    plugin: "syncline",
    options: &[r#"shapes={"s": {"tables": {"public.decoded": {}}}}"#],
};
const FEW: Reader = Reader {
    name: "1% of the changes",
    plugin: "syncline",
    options: &[r#"shapes={"s": {"tables": {"public.decoded": {"where": "project_id = 7"}}}}"#],
};
const FLOOR: Reader = Reader { name: "a plugin that writes nothing", plugin: "nothing", options: &[] };
const PGOUTPUT: Reader =
    Reader { name: "pgoutput", plugin: "pgoutput", options: &["proto_version=1", "publication_names=bench"] };
const WAL2JSON: Reader = Reader {
    name: "wal2json v2",
    plugin: "wal2json",
    options: &["format-version=2", "add-tables=public.decoded", "include-transaction=true"],
};
const PEERS: [Reader; 5] = [
    WAL2JSON,
    PGOUTPUT,
    Reader {
        name: "pgoutput, binary",
        plugin: "pgoutput",
        options: &["proto_version=1", "publication_names=bench", "binary=true"],
    },
    Reader { name: "test_decoding", plugin: "test_decoding", options: &[] },
    Reader { name: "decoderbufs", plugin: "decoderbufs", options: &[] },
];

/// What is written.
#[derive(Clone, Copy)]
struct Workload {
    rows: u32,
    change: &'static str,
    bytes: u32,
}

impl Workload {
    /// Statements that change `count` rows, so many in each transaction.
    fn sql(self, count: u32) -> String {
        let (rows, last) = (self.rows, count / self.rows - 1);
        let texts = if self.bytes == 200 { 4 } else { 59 };
        let change = match self.change {
            "insert" => format!(
                "INSERT INTO decoded SELECT g, g % 100, 'title of row ' || g, 'open', '2024-01-01'::timestamptz + g * '1 s'::interval, \
                 repeat(md5(g::text), {texts}) FROM generate_series(first, first + {rows} - 1) g"
            ),
            "update" => {
                format!("UPDATE decoded SET title = 'changed ' || id WHERE id BETWEEN first AND first + {rows} - 1")
            }
            _ => format!("DELETE FROM decoded WHERE id BETWEEN first AND first + {rows} - 1"),
        };
        format!(
            "DO $$ DECLARE first int; BEGIN FOR i IN 0..{last} LOOP first := i * {rows}; {change}; COMMIT; END LOOP; END $$"
        )
    }
}

/// Builds the plugin that writes nothing into the installation.
fn build_floor(install: &Install) {
    let ask = |option: &str| {
        let output = Command::new(install.program("pg_config")).arg(option).output().expect("pg_config runs");
        String::from_utf8(output.stdout).expect("paths are UTF-8").trim().to_owned()
    };
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-fPIC", "-shared", "-I"]).arg(ask("--includedir-server"));
    compiler.arg("-o").arg(format!("{}/nothing.so", ask("--pkglibdir")));
    compiler.arg(repository().join("pgrx-tests/src/bin/bench/nothing.c"));
    assert!(compiler.status().is_ok_and(|status| status.success()), "{compiler:?}");
}

/// Lets the peers decode where the server asks for their names.
fn allow(cluster: &Cluster<'_>, client: Client) -> Client {
    let mut client = client;
    let sql = "SELECT FROM pg_settings WHERE name = 'output_plugin_libraries'";
    if client.query_opt(sql, &[]).expect("the server answers").is_none() {
        return client;
    }
    let names = "syncline, nothing, pgoutput, wal2json, test_decoding, decoderbufs";
    client.batch_execute(&format!("ALTER SYSTEM SET output_plugin_libraries = {names}")).expect("a superuser may");
    drop(client);
    cluster.stop();
    cluster.start_again();
    cluster.connect()
}

struct Decoding<'a> {
    cluster: &'a Cluster<'a>,
    client: Client,
    rounds: usize,
    count: u32,
    peers: Vec<Reader>,
}

/// Against peers.
pub fn measure(install: &Install, report: &mut Report, quick: bool) {
    build_floor(install);
    let cluster = start(install);
    let mut decoding = Decoding::new(&cluster, quick);
    decoding.find_peers();
    let sizes: &[(u32, u32)] = if quick {
        &[(1, 200), (10, 200), (1000, 200), (10, 2000)]
    } else {
        &[(1, 200), (10, 200), (1000, 200), (1, 2000), (10, 2000), (1000, 2000)]
    };
    for &(rows, bytes) in sizes {
        decoding.table(report, rows, bytes);
    }
}

/// The memory of a walsender over many changes.
pub fn measure_memory(install: &Install, report: &mut Report, quick: bool) {
    let cluster = start(install);
    Decoding::new(&cluster, quick).memory(report, if quick { 1_000_000 } else { 10_000_000 });
}

fn start(install: &Install) -> Cluster<'_> {
    let settings =
        [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("autovacuum", "off"), ("checkpoint_timeout", "1h")];
    Cluster::start_with(install, &settings)
}

/// A walsender and its client.
struct Running {
    client: Child,
    walsender: i32,
}

impl Running {
    /// Nanoseconds on a core so far.
    fn time(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.walsender)).expect("the walsender runs");
        text.split(' ').next().and_then(|time| time.parse().ok()).expect("the first field is a time")
    }

    /// Megabytes that no file stands for.
    fn memory(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.walsender)).expect("the walsender runs");
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

impl<'a> Decoding<'a> {
    fn new(cluster: &'a Cluster<'a>, quick: bool) -> Self {
        let mut client = allow(cluster, cluster.connect());
        client.batch_execute(TABLE).expect("the table can be made");
        let (rounds, count) = if quick { (3, 20_000) } else { (5, 50_000) };
        // With what the database has set meanwhile.
        Self { cluster, client: cluster.connect(), rounds, count, peers: Vec::new() }
    }

    fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn ask(&mut self, sql: &str) -> String {
        self.client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// Peers that are not installed are left out.
    fn find_peers(&mut self) {
        for peer in PEERS {
            let sql = format!("SELECT pg_create_logical_replication_slot('probe', '{}')::text", peer.plugin);
            match self.client.query_one(&sql, &[]) {
                Ok(_) => {
                    self.run("SELECT pg_drop_replication_slot('probe')");
                    self.peers.push(peer);
                }
                Err(error) => println!("without {}: {error}", peer.plugin),
            }
        }
    }

    /// The end of the log, which is flushed up to there.
    fn end(&mut self) -> String {
        let lsn = self.ask("SELECT pg_logical_emit_message(false, 'bench', '')::text");
        self.run(
            "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'bench', ''); RESET synchronous_commit",
        );
        lsn
    }

    fn start(&mut self, slot: &str, options: &[&str]) -> Running {
        let mut command = Command::new(self.cluster.install().program("pg_recvlogical"));
        command.args(["-p", "5432", "-U", "postgres", "-d", "postgres", "-h"]).arg(self.cluster.socket());
        command.args(["--start", "--no-loop", "-F", "0", "-f", "/dev/null", "-S", slot]);
        command.args(options.iter().flat_map(|option| ["-o", option]));
        let client = command.stdin(Stdio::null()).spawn().expect("pg_recvlogical runs");
        let mut running = Running { client, walsender: 0 };
        let sql =
            format!("SELECT coalesce(max(active_pid), 0)::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
        let start = Instant::now();
        while running.walsender == 0 {
            assert!(start.elapsed() < PATIENCE, "slot {slot} is not read");
            thread::sleep(Duration::from_millis(1));
            running.walsender = self.ask(&sql).parse().expect("a pid");
        }
        running
    }

    /// Waits until a walsender has sent what lies before a position.
    fn wait(&mut self, walsender: i32, lsn: &str) {
        let sql = format!(
            "SELECT coalesce(max(sent_lsn), '0/0') >= '{lsn}' FROM pg_stat_replication WHERE pid = {walsender}"
        );
        let start = Instant::now();
        while !self.client.query_one(&sql, &[]).expect("the server answers").get::<_, bool>(0) {
            assert!(start.elapsed() < PATIENCE, "{lsn} is not sent");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(&mut self, mut running: Running, slot: &str) {
        running.client.kill().expect("it is our child");
        running.client.wait().expect("it is our child");
        let sql = format!("SELECT count(active_pid)::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
        while self.ask(&sql) != "0" {
            thread::sleep(Duration::from_millis(1));
        }
        self.run(&format!("SELECT pg_drop_replication_slot('{slot}')"));
    }

    /// Microseconds per change of one reading from `source` up to `end`.
    fn read(&mut self, source: &str, end: &str, reader: Reader) -> f64 {
        let plugin = reader.plugin;
        self.run(&format!("SELECT pg_copy_logical_replication_slot('{source}', 'reader', false, '{plugin}')"));
        let running = self.start("reader", reader.options);
        self.wait(running.walsender, end);
        let time = running.time();
        self.stop(running, "reader");
        time / 1e3 / f64::from(self.count)
    }

    /// Inserts, updates and deletes of one size.
    fn table(&mut self, report: &mut Report, rows: u32, bytes: u32) {
        println!("writing {} rows of {bytes} B, {rows} in a transaction: insert, update, delete", self.count);
        let mut ends = Vec::new();
        for change in ["insert", "update", "delete"] {
            self.run(&format!("SELECT pg_create_logical_replication_slot('{change}', 'test_decoding')"));
            let workload = Workload { rows, change, bytes };
            self.run(&workload.sql(self.count));
            ends.push((workload, self.end()));
        }
        for (workload, end) in ends {
            self.compare(report, workload, &end);
            self.run(&format!("SELECT pg_drop_replication_slot('{}')", workload.change));
        }
    }

    fn compare(&mut self, report: &mut Report, workload: Workload, end: &str) {
        let Workload { rows, change, bytes } = workload;
        let readers: Vec<Reader> = [ALL, FEW, FLOOR].into_iter().chain(self.peers.iter().copied()).collect();
        let mut times = vec![Vec::new(); readers.len()];
        for _ in 0..self.rounds {
            for (reader, times) in readers.iter().zip(&mut times) {
                times.push(self.read(change, end, *reader));
            }
        }
        let mut ratio = |ours: usize, peer: usize, goal| {
            let name = format!("{change}, {rows} a commit, {bytes} B: {} / {}", readers[ours].name, readers[peer].name);
            report.ratio("decode", &name, "µs", &times[ours], &times[peer], goal);
        };
        ratio(0, 2, (rows == 10).then_some(2.0));
        ratio(1, 2, Some(1.25));
        for (place, reader) in readers.iter().enumerate().skip(3) {
            let goal = match reader.name {
                name if name == WAL2JSON.name => Some(0.4),
                name if name == PGOUTPUT.name => Some(0.6),
                _ => None,
            };
            ratio(0, place, goal);
            if goal.is_some() {
                // What no plugin can stay below.
                ratio(2, place, None);
            }
        }
    }

    /// A walsender that follows many changes as they come: its memory at the end against a tenth of the way.
    fn memory(&mut self, report: &mut Report, changes: u32) {
        const ROWS: u32 = 100_000;
        self.run("TRUNCATE decoded");
        self.run(&Workload { rows: 1000, change: "insert", bytes: 200 }.sql(ROWS));
        self.run("SELECT pg_create_logical_replication_slot('live', 'syncline')");
        let running = self.start("live", ALL.options);
        let update = Workload { rows: 1000, change: "update", bytes: 200 }.sql(ROWS);
        let mut taken = Vec::new();
        for _ in 0..changes / ROWS {
            self.run(&update);
            let end = self.end();
            self.wait(running.walsender, &end);
            taken.push(running.memory());
            self.run("VACUUM decoded");
        }
        self.stop(running, "live");
        let (early, last) = (taken[taken.len() / 10 - 1], taken[taken.len() - 1]);
        let name = format!("walsender's memory: {changes} changes / a tenth of them");
        report.ratio("memory", &name, "MB", &[last], &[early], Some(1.1));
    }
}
