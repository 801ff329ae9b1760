//! The oracle: writers write, clients pull, and after every pull a client's copy must be the shape's rows in
//! the very snapshot of the pull.
//!
//! Half of the pulls compute the truth in the statement that pulls: only that catches a second
//! snapshot. The others pull in a REPEATABLE READ transaction whose snapshot may be old by then.

mod alterer;
mod client;
mod shape;
mod stream;
mod writer;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::{Cluster, Install};

/// A small key space makes them collide.
const WRITERS: u64 = 8;

/// Each with a shape of its own, on the primary and the standby in turns.
const CLIENTS: u64 = 6;

const SETUP: &str = "
    CREATE EXTENSION syncline;
    CREATE TABLE issues (id int PRIMARY KEY, project_id int, state text, title text);
    CREATE TABLE items (id int, region int, state text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE items_0 PARTITION OF items FOR VALUES IN (0);
    CREATE TABLE items_1 (note text, region int NOT NULL, gone int, id int NOT NULL, state text);
    ALTER TABLE items_1 DROP COLUMN gone;
    ALTER TABLE items ATTACH PARTITION items_1 FOR VALUES IN (1);
    CREATE TABLE items_2 PARTITION OF items FOR VALUES IN (2) PARTITION BY HASH (id);
    CREATE TABLE items_2a PARTITION OF items_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE items_2b PARTITION OF items_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE projects (id int PRIMARY KEY, parent int, team int, is_open boolean, title text);
    CREATE TABLE members (id int PRIMARY KEY, project_id int NOT NULL, who int);
    CREATE INDEX ON members (project_id);
    CREATE INDEX ON issues (project_id);
    SELECT sync_track('issues', filter_columns => '{project_id,state}');
    SELECT sync_track('items', filter_columns => '{state}');
    SELECT sync_track('projects', filter_columns => '{parent,team,is_open}', log_inserts => true);
    SELECT sync_track('members', filter_columns => '{project_id,who}', log_inserts => true);
    INSERT INTO projects SELECT g, g / 2, g % 4, g % 3 > 0, 'title' FROM generate_series(0, 7) g;
    INSERT INTO members SELECT g, g % 8, g % 4 FROM generate_series(0, 11) g;
    INSERT INTO issues SELECT g, g % 8, 'open', 'title' FROM generate_series(0, 30) g;
    INSERT INTO items SELECT g, g % 3, 'open', 'note' FROM generate_series(0, 15) g;";

/// Half of the seeds: some clients are a role that row security restricts, at leaves and levels.
const SECURED: &str = "
    SELECT sync_track('issues', log_inserts => true);
    CREATE ROLE ann; GRANT SELECT ON ALL TABLES IN SCHEMA public TO ann;
    ALTER TABLE issues ENABLE ROW LEVEL SECURITY;
    ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
    ALTER TABLE members ENABLE ROW LEVEL SECURITY;
    CREATE POLICY by_member ON issues USING (EXISTS (
        SELECT FROM members WHERE members.project_id = issues.project_id AND members.who = length(current_user) - 2));
    CREATE POLICY open ON issues FOR SELECT TO ann USING (state = 'open');
    CREATE POLICY narrow ON issues AS RESTRICTIVE USING (id <> 13);
    CREATE POLICY open ON projects USING (is_open OR team = 1);
    CREATE POLICY of_some ON members USING (who <> 2);";

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Pulls that answered.
    pub pulls: u64,
    /// Of them, on the standby.
    pub standby: u64,
    /// Of them, with a cursor and the copy of that time.
    pub replays: u64,
    /// Pulls that began with a reset.
    pub resets: u64,
    /// Pulls told to try again.
    pub retries: u64,
    /// Rows that left.
    pub deletes: u64,
    /// Rows that came or changed.
    pub upserts: u64,
    /// Transactions written.
    pub writes: u64,
    /// Alterations of tables.
    pub alterations: u64,
    /// Transactions that came by the stream, for one shape each.
    pub streamed: u64,
    /// Shapes that became stale.
    pub stale: u64,
}

/// The first difference between a copy and the truth, or another proof that something is wrong.
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the threads count.
#[derive(Clone, Copy)]
enum Count {
    Pulls,
    Standby,
    Replays,
    Resets,
    Retries,
    Deletes,
    Upserts,
    Writes,
    Alterations,
    Streamed,
    Stale,
}

/// What all threads share.
#[derive(Default)]
struct Shared {
    /// Whether row security restricts the role `ann`.
    secured: bool,
    stop: AtomicBool,
    counts: [AtomicU64; 11],
    /// How many may still write.
    writing: AtomicU64,
    violation: Mutex<Option<String>>,
}

impl Shared {
    fn count(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn counted(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// Adds what a follower of the stream did.
    fn count_stream(&self, count: &crate::relay::Count) {
        let counts = [(Count::Pulls, count.pulls), (Count::Streamed, count.applied), (Count::Stale, count.stale)];
        for (what, number) in counts {
            self.counts[what as usize].fetch_add(number, Ordering::Relaxed);
        }
    }

    /// Whether somebody may still write.
    fn has_writers(&self) -> bool {
        self.writing.load(Ordering::Relaxed) > 0
    }

    /// Runs one who writes.
    fn writing(&self, write: impl FnOnce()) {
        write();
        self.writing.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// The first one is kept; it ends the run.
    fn fail(&self, text: String) {
        self.violation.lock().unwrap_or_else(|error| error.into_inner()).get_or_insert(text);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn end(self, seed: u64, servers: [(&str, &Cluster<'_>); 2]) -> Result<Report, Violation> {
        let report = Report {
            pulls: self.counted(Count::Pulls),
            standby: self.counted(Count::Standby),
            replays: self.counted(Count::Replays),
            resets: self.counted(Count::Resets),
            retries: self.counted(Count::Retries),
            deletes: self.counted(Count::Deletes),
            upserts: self.counted(Count::Upserts),
            writes: self.counted(Count::Writes),
            alterations: self.counted(Count::Alterations),
            streamed: self.counted(Count::Streamed),
            stale: self.counted(Count::Stale),
        };
        for (name, server) in servers {
            let log = server.log();
            let crash = log.lines().find(|line| line.contains("PANIC:") || line.contains("terminated by signal"));
            if let Some(line) = crash {
                return Err(Violation(format!("seed {seed}: {name}: {line}")));
            }
        }
        match self.violation.into_inner().unwrap_or_else(|error| error.into_inner()) {
            Some(text) => Err(Violation(format!("seed {seed}: {text}\nafter {report:?}"))),
            None => Ok(report),
        }
    }
}

/// Calls `sync_prune` often: mostly with a margin that leaves most cursors valid, sometimes with none.
fn prune(shared: &Shared, primary: &Cluster<'_>, mut rng: Rng) {
    let mut client = primary.connect();
    while shared.is_running() {
        thread::sleep(Duration::from_millis(100));
        let keep = if rng.one_in(10) { "0" } else { "400 ms" };
        if let Err(error) = client.execute(&format!("SELECT sync_prune('{keep}')"), &[]) {
            shared.fail(format!("sync_prune('{keep}'): {error:?}"));
        }
    }
}

/// Makes all sessions of the database commit a fault. A library without faults would pass as one whose
/// faults are not found.
fn set_mutant(primary: &Cluster<'_>, name: &str) {
    let mut admin = primary.connect();
    admin.batch_execute("LOAD 'syncline'").expect("the library can be loaded");
    let sql = "SELECT count(*) FROM pg_settings WHERE name = 'syncline.mutant'";
    let known: i64 = admin.query_one(sql, &[]).expect("the server answers").get(0);
    assert_eq!(known, 1, "the library was built without --features mutants: make oracle-mutants builds one");
    admin.batch_execute(&format!("ALTER DATABASE postgres SET syncline.mutant = '{name}'")).expect("it can be set");
}

/// How many alter tables meanwhile: none, or enough to meet each other.
pub const ALTERERS: u64 = 2;

/// Runs writers and clients for `length`, and so many who alter tables; an error is the first difference between a copy and the truth.
pub fn run(
    install: &Install,
    seed: u64,
    length: Duration,
    alterers: u64,
    mutant: Option<&str>,
) -> Result<Report, Violation> {
    run_all(install, seed, length, [alterers, 0], mutant)
}

/// The same with so many who alter tables, and so many followers of the stream.
pub fn run_all(
    install: &Install,
    seed: u64,
    length: Duration,
    [alterers, streams]: [u64; 2],
    mutant: Option<&str>,
) -> Result<Report, Violation> {
    // A standby that waits for its readers: they are to be told to try again by us, not to be cancelled.
    let settings =
        [("max_standby_streaming_delay", "-1"), ("hot_standby_feedback", "on"), ("deadlock_timeout", "50ms")];
    let primary = Cluster::start_with(install, &settings);
    if let Some(name) = mutant {
        set_mutant(&primary, name);
    }
    primary.connect().batch_execute(SETUP).expect("the tables can be tracked");
    let secured = seed.is_multiple_of(2);
    if secured {
        primary.connect().batch_execute(SECURED).expect("the tables can be secured");
    }
    let standby = primary.standby();
    standby.catch_up(&primary);
    let shared = Shared { secured, writing: AtomicU64::new(WRITERS + 1 + alterers), ..Shared::default() };
    thread::scope(|scope| {
        let (shared, primary, standby) = (&shared, &primary, &standby);
        let end = Instant::now() + length;
        for actor in 0..WRITERS {
            scope.spawn(move || shared.writing(|| writer::write(shared, primary, Rng::new(seed, actor), actor)));
        }
        for actor in WRITERS..WRITERS + CLIENTS {
            scope.spawn(move || client::follow(shared, primary, standby, Rng::new(seed, actor)));
        }
        for actor in 0..streams {
            scope.spawn(move || stream::follow(shared, primary, Rng::new(seed, 1000 + actor), actor));
        }
        scope.spawn(move || shared.writing(|| prune(shared, primary, Rng::new(seed, WRITERS + CLIENTS))));
        for actor in 1..=alterers {
            let rng = Rng::new(seed, WRITERS + CLIENTS + actor);
            scope.spawn(move || shared.writing(|| alterer::alter(shared, primary, rng)));
        }
        while shared.is_running() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
        shared.stop.store(true, Ordering::Relaxed);
    });
    shared.end(seed, [("primary", &primary), ("standby", &standby)])
}
