//! The length of positions: `STREAM_SIZE_SECONDS` of twelve writers, of whom the slot does not see all, and a heartbeat each second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Error};
use syncline_tests::replication::Replication;
use syncline_tests::rng::Rng;
use syncline_tests::slot::{object, run};
use syncline_tests::{Cluster, Install};

const SHAPES: &str = r#"{"a": {"tables": {"t": {"where": "f = 1"}}}}"#;

const TABLES: &str = "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, f int, n int); SELECT sync_track('t', '{f}'); \
     INSERT INTO t SELECT g, g % 2, 0 FROM generate_series(0, 1199) g; CREATE TABLE other (id int PRIMARY KEY, n int); \
     INSERT INTO other SELECT g, 0 FROM generate_series(0, 11) g;; SELECT pg_create_logical_replication_slot('s', 'syncline')";

const WRITERS: u32 = 12;

/// Ends those who write, also where the reader fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A transaction on rows that no other writer has.
fn write(client: &mut Client, rng: &mut Rng, actor: u32, number: u64) -> Result<(), Error> {
    let id = actor * 100 + rng.below(100);
    let change = format!("UPDATE t SET n = n + 1, f = {} WHERE id = {id}", rng.below(2));
    match rng.below(10) {
        0..=3 => client.batch_execute(&change),
        4..=5 => client.batch_execute(&format!("UPDATE other SET n = n + 1 WHERE id = {actor}")),
        6 => client.batch_execute(&format!("BEGIN; {change}; ROLLBACK")),
        7 => {
            client.batch_execute(&format!("BEGIN; SAVEPOINT a; {change}; ROLLBACK TO a; SAVEPOINT b; {change}; COMMIT"))
        }
        8 => {
            client.batch_execute(&format!("BEGIN; {change}"))?;
            thread::sleep(Duration::from_millis(u64::from(rng.below(100))));
            client.batch_execute("COMMIT")
        }
        _ => {
            client.batch_execute(&format!("BEGIN; {change}; PREPARE TRANSACTION '{actor} {number}'"))?;
            thread::sleep(Duration::from_millis(u64::from(rng.below(400))));
            let verb = if rng.one_in(3) { "ROLLBACK" } else { "COMMIT" };
            client.batch_execute(&format!("{verb} PREPARED '{actor} {number}'"))
        }
    }
}

#[test]
fn positions_of_twelve_writers_stay_below_two_kilobytes_in_the_median() {
    let seconds = std::env::var("STREAM_SIZE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let install = Install::new();
    let cluster = Cluster::start(&install);
    run(&mut cluster.connect(), TABLES);
    let (stop, mut sizes) = (AtomicBool::new(false), Vec::new());
    let xid = cluster.next_xid();
    thread::scope(|scope| {
        let _ending = Ending(&stop);
        for actor in 0..WRITERS {
            let (mut client, stop) = (cluster.connect(), &stop);
            scope.spawn(move || {
                let mut rng = Rng::new(1, u64::from(actor));
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    write(&mut client, &mut rng, actor, number).unwrap_or_else(|error| panic!("{error:?}"));
                }
            });
        }
        let (mut client, stop) = (cluster.connect(), &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                run(&mut client, "SELECT sync_heartbeat()");
                thread::sleep(Duration::from_secs(1));
            }
        });
        let mut replication = Replication::start(&cluster, "s", &[("shapes", SHAPES)]).unwrap();
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let text = replication.read(Duration::from_secs(1)).unwrap().unwrap_or_default();
            let commits = text.lines().map(object).filter_map(|object| object.cursor.map(str::len));
            sizes.extend(commits);
        }
    });
    sizes.sort_unstable();
    let at = |percent: usize| sizes[(sizes.len() - 1) * percent / 100];
    let per_second = (cluster.next_xid() - xid) / seconds;
    println!(
        "{} positions, {per_second} transaction ids a second: median {} bytes, p99 {}, max {}",
        sizes.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(sizes.len() > 100, "the writers wrote: {}", sizes.len());
    assert!(at(50) <= 2_048, "median {}", at(50));
}
