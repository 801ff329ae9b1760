//! From a commit to the client, by each of the ways to be told.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use fallible_iterator::FallibleIterator;
use postgres::Client;
use syncline_tests::Cluster;
use syncline_tests::rng::Rng;
use syncline_tests::slot::object;

use super::Bench;
use super::report::median;

/// What a change carries, so that the client knows it again.
#[derive(serde::Deserialize)]
struct Row {
    n: i64,
}

/// The last number that is written: a receiver ends with it.
const END: i64 = -1;

/// How long a change may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way to be told, with a table of its own, and the numbers that it has brought.
struct Told {
    table: &'static str,
    /// What its writers do beside writing.
    announce: &'static str,
    told: Receiver<(i64, Instant)>,
    latencies: Vec<f64>,
}

fn number(value: &str) -> i64 {
    serde_json::from_str::<Row>(value).expect("a row has its number").n
}

/// Waits with `sync_wait` and pulls.
fn follow_by_waiting(mut client: Client, to: &Sender<(i64, Instant)>) {
    let shape = r#"{"tables": {"waited": {}}}"#;
    let sql = "SELECT op, value::text, cursor FROM sync_changes($1::text, $2::text::jsonb)";
    let pull = client.prepare(sql).expect("it can be prepared");
    let mut cursor: Option<String> = None;
    loop {
        let mut last = 0;
        for row in client.query(&pull, &[&cursor, &shape]).expect("a pull answers") {
            match row.get(0) {
                "upsert" => last = number(row.get(1)),
                "commit" => cursor = row.get(2),
                _ => {}
            }
        }
        if to.send((last, Instant::now())).is_err() || last == END {
            return;
        }
        let since = cursor.as_deref().expect("a pull ends with a cursor");
        client.batch_execute(&format!("CALL sync_wait('{since}', '{shape}', '20 s')")).expect("a wait ends");
    }
}

/// Listens, and selects the row that is named.
fn follow_by_listening(mut client: Client, to: &Sender<(i64, Instant)>) {
    let sql = "SELECT to_jsonb(t)::text FROM notified t WHERE id = $1";
    let select = client.prepare(sql).expect("it can be prepared");
    loop {
        let notification = client.notifications().blocking_iter().next().expect("the server is there");
        let id: i32 = notification.expect("the server is there").payload().parse().expect("the payload is a key");
        let last = number(client.query_one(&select, &[&id]).expect("the row is there").get(0));
        if to.send((last, Instant::now())).is_err() || last == END {
            return;
        }
    }
}

/// A client of the replication protocol, whose output is the stream.
fn receive(cluster: &Cluster<'_>, database: &str) -> Child {
    let shapes = r#"shapes={"all": {"tables": {"streamed": {"table": "public.streamed"}}}}"#;
    Command::new(cluster.install().program("pg_recvlogical"))
        .arg("-h")
        .arg(cluster.socket())
        .args(["-U", "postgres", "-d", database, "-S", "bench", "--start", "--no-loop", "-f", "-", "-o", shapes])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client of the protocol can be started")
}

impl Bench<'_> {
    /// What a commit takes to the client, and what being told costs the writers.
    pub fn live(&mut self) {
        self.latency();
        self.wakes();
    }

    fn latency(&mut self) {
        for table in ["waited", "notified", "streamed"] {
            let sql = format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, n bigint NOT NULL);
                 INSERT INTO {table} SELECT g, 0 FROM generate_series(1, 1000) g"
            );
            self.client.batch_execute(&sql).expect("the table can be loaded");
        }
        for sql in [
            "SELECT sync_track('waited'), sync_track('streamed')",
            "SELECT pg_create_logical_replication_slot('bench', 'syncline')",
        ] {
            self.client.batch_execute(sql).expect("tables can be tracked, and a slot made");
        }
        let (waiting, mut listening) = (self.connect(), self.connect());
        listening.batch_execute("LISTEN changed").expect("a session can listen");
        let mut child = receive(self.cluster, self.database);
        let lines = BufReader::new(child.stdout.take().expect("it has an output")).lines();
        let ([one, two, three], receivers): ([Sender<_>; 3], [Receiver<_>; 3]) = {
            let [a, b, c] = [channel(), channel(), channel()];
            ([a.0, b.0, c.0], [a.1, b.1, c.1])
        };
        let threads = [
            thread::spawn(move || follow_by_waiting(waiting, &one)),
            thread::spawn(move || follow_by_listening(listening, &two)),
            thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    let change = object(&line);
                    if change.op == "upsert" {
                        let last = number(change.value.expect("an upsert has a value").get());
                        three.send((last, Instant::now())).expect("somebody waits");
                    }
                }
            }),
        ];
        let mut ways: Vec<Told> = [("waited", ""), ("notified", "; NOTIFY changed, '$id'"), ("streamed", "")]
            .into_iter()
            .zip(receivers)
            .map(|((table, announce), told)| Told { table, announce, told, latencies: Vec::new() })
            .collect();
        self.tell(&mut ways);
        child.kill().and_then(|()| child.wait()).expect("the client can be ended");
        for thread in threads {
            thread.join().expect("the followers end");
        }
        self.cluster.wait_until("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'bench'");
        self.client.batch_execute("SELECT pg_drop_replication_slot('bench')").expect("the slot can be dropped");
        self.note_latencies(&ways);
    }

    /// Commits a change for each in turn, at moments that follow no clock, and waits until it has come.
    fn tell(&mut self, ways: &mut [Told]) {
        let mut rng = Rng::new(1, 0);
        let events = if self.quick { 150 } else { 1_000 };
        let mut writer = self.connect();
        // The first ones are not counted: sessions and caches warm up.
        for n in (1..=events + 10).chain([END]) {
            for way in &mut *ways {
                thread::sleep(Duration::from_micros(u64::from(rng.below(10_000))));
                let id = (1 + rng.below(1000)).to_string();
                let Told { table, announce, .. } = way;
                let announce = announce.replace("$id", &id);
                let sql = format!("BEGIN; UPDATE {table} SET n = {n} WHERE id = {id}{announce}");
                writer.batch_execute(&sql).expect("a row can be written");
                let start = Instant::now();
                writer.batch_execute("COMMIT").expect("a transaction can be ended");
                let end = loop {
                    let (told, at) = way.told.recv_timeout(PATIENCE).expect("the change comes");
                    if told == n {
                        break at;
                    }
                };
                if n > 10 {
                    way.latencies.push(end.duration_since(start).as_secs_f64() * 1e3);
                }
            }
        }
    }

    fn note_latencies(&mut self, ways: &[Told]) {
        let turns = if self.quick { 5 } else { 10 };
        let medians = |way: &Told| way.latencies.chunks(way.latencies.len() / turns).map(median).collect::<Vec<f64>>();
        let slow = |way: &Told| {
            let mut sorted = way.latencies.clone();
            sorted.sort_by(f64::total_cmp);
            [sorted[sorted.len() * 99 / 100]]
        };
        let [waited, notified, streamed] = ways else { panic!("three ways were measured") };
        for (name, way) in [("sync_wait + pull", waited), ("stream", streamed)] {
            let what = format!("commit to client, {name}");
            let ours = medians(way);
            self.report.ratio(
                "live",
                &format!("{what}, p50 against 5 ms"),
                "ms",
                &ours,
                &vec![5.0; ours.len()],
                Some(1.0),
            );
            let name = format!("{what} against LISTEN/NOTIFY + SELECT, p50");
            self.report.ratio("live", &name, "ms", &ours, &medians(notified), Some(1.5));
            let name = format!("{what} against LISTEN/NOTIFY + SELECT, p99");
            self.report.ratio("live", &name, "ms", &slow(way), &slow(notified), None);
        }
    }
}
