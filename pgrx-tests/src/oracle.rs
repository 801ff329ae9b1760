//! The oracle: writers write, clients pull, and after every pull a client's copy must be the shape's rows in
//! the very snapshot of the pull.
//!
//! Half of the pulls compute the truth in the statement that pulls: only that catches a second
//! snapshot. It is planned there too: a statement is planned before its snapshot is taken, and a partition may be attached
//! or detached in between. The others pull in a REPEATABLE READ transaction whose snapshot may be old by then.

mod alterer;
mod client;
mod killer;
mod load;
mod shape;
mod stream;
mod writer;

use std::error::Error as _;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Error};

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
    INSERT INTO items SELECT g, g % 3, 'open', 'note' FROM generate_series(0, 15) g;
    CREATE FUNCTION planned_now(query text) RETURNS TABLE (op text, relation text, key text, value text, cursor text)
        LANGUAGE plpgsql STABLE AS 'BEGIN RETURN QUERY EXECUTE query; END';";

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

/// How long a server that was killed may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Pulls that answered.
    pub pulls: u64,
    /// Of them, on the standby.
    pub standby: u64,
    /// Of them, with a cursor and the copy of that time.
    pub replays: u64,
    /// Of them, pages with more to come.
    pub pages: u64,
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
    /// Bytes of whole deltas, and of what a copy lacked, by kind of filter: without sub-selects, with some that have neither
    /// OR nor NOT, and any other.
    pub bytes: [(u64, u64); 3],
    /// Processes and servers killed.
    pub kills: u64,
    /// Transactions that came by the stream, for one shape each.
    pub streamed: u64,
    /// Shapes that became stale.
    pub stale: u64,
    /// Times that what was streamed and the delta to it were compared with the truth.
    pub checks: u64,
    /// Times that a slot was new to its follower.
    pub slots: u64,
}

impl Report {
    /// What was sent for each byte that had to be, by kind of filter.
    pub fn excess(&self) -> [f64; 3] {
        self.bytes.map(|(sent, lacked)| sent as f64 / (lacked as f64).max(1.0))
    }
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
    Pages,
    Resets,
    Retries,
    Deletes,
    Upserts,
    Writes,
    Alterations,
    Kills,
    Streamed,
    Stale,
    Checks,
    Slots,
}

/// What may happen in a run.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Rules {
    /// Anything that users do: deadlocks of their own making, TRUNCATE, new columns.
    #[default]
    Everyday,
    /// Servers are killed too, so that sessions are lost.
    Kills,
    /// Writers take their rows in one order and alter nothing: nobody may be told more than to try again.
    Load,
}

/// What filters a shape has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No sub-select.
    Flat,
    /// Sub-selects, and neither OR nor NOT.
    Nested,
    /// Any other.
    Mixed,
}

/// What all threads share.
#[derive(Default)]
struct Shared {
    /// Whether row security restricts the role `ann`.
    secured: bool,
    /// Whether nobody calls `sync_heartbeat`.
    silent: bool,
    rules: Rules,
    stop: AtomicBool,
    counts: [AtomicU64; 15],
    bytes: Mutex<[(u64, u64); 3]>,
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

    fn add_bytes(&self, kind: Kind, sent: u64, lacked: u64) {
        let mut bytes = self.bytes.lock().unwrap_or_else(|error| error.into_inner());
        let (all_sent, all_lacked) = &mut bytes[kind as usize];
        *all_sent += sent;
        *all_lacked += lacked;
    }

    /// Adds what a follower of the stream did.
    fn count_stream(&self, count: &crate::relay::Count) {
        let counts = [(Count::Streamed, count.applied), (Count::Stale, count.stale), (Count::Slots, count.begun)];
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

    /// Whether an error means that the session went with its server, which this run kills.
    fn is_loss(&self, error: &Error) -> bool {
        // Shutdown, crash and start of a server.
        let told = error.code().is_some_and(|code| ["57P01", "57P02", "57P03"].contains(&code.code()));
        let broken = error.source().is_some_and(|cause| cause.is::<std::io::Error>());
        self.rules == Rules::Kills && (told || broken || error.is_closed())
    }

    /// A session, prepared for use; none if the run ended before the server was back.
    fn session(&self, server: &Cluster<'_>, prepare: &str) -> Option<Client> {
        let start = Instant::now();
        while self.is_running() {
            let session = server.try_connect().and_then(|mut session| {
                session.batch_execute(prepare)?;
                Ok(session)
            });
            match session {
                Ok(session) => return Some(session),
                // A standby also ends those who have just come and are in the way of what it replays.
                Err(error)
                    if (self.is_loss(&error) || error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE))
                        && start.elapsed() < PATIENCE =>
                {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => self.fail(format!("no session, {prepare}: {error:?}")),
            }
        }
        None
    }

    fn end(self, seed: u64, servers: [(&str, &Cluster<'_>); 2]) -> Result<Report, Violation> {
        let report = Report {
            pulls: self.counted(Count::Pulls),
            standby: self.counted(Count::Standby),
            replays: self.counted(Count::Replays),
            pages: self.counted(Count::Pages),
            resets: self.counted(Count::Resets),
            retries: self.counted(Count::Retries),
            deletes: self.counted(Count::Deletes),
            upserts: self.counted(Count::Upserts),
            writes: self.counted(Count::Writes),
            alterations: self.counted(Count::Alterations),
            bytes: *self.bytes.lock().unwrap_or_else(|error| error.into_inner()),
            kills: self.counted(Count::Kills),
            streamed: self.counted(Count::Streamed),
            stale: self.counted(Count::Stale),
            checks: self.counted(Count::Checks),
            slots: self.counted(Count::Slots),
        };
        for (name, server) in servers {
            let log = server.log();
            let is_wrong = |line: &str| match line {
                _ if line.contains("PANIC:") => true,
                _ if line.contains("terminated by signal 9") => self.rules != Rules::Kills,
                _ if line.contains("deadlock detected") => self.rules == Rules::Load,
                _ => line.contains("terminated by signal"),
            };
            if let Some(at) = log.lines().position(is_wrong) {
                let lines: Vec<&str> = log.lines().skip(at).take(6).collect();
                return Err(Violation(format!("seed {seed}: {name}: {}", lines.join("\n"))));
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
    while let Some(mut client) = shared.session(primary, "") {
        loop {
            thread::sleep(Duration::from_millis(100));
            let keep = if rng.one_in(10) { "0" } else { "400 ms" };
            match client.execute(&format!("SELECT sync_prune('{keep}')"), &[]) {
                Ok(_) if shared.is_running() => {}
                Ok(_) => return,
                Err(error) if shared.is_loss(&error) => break,
                Err(error) => return shared.fail(format!("sync_prune('{keep}'): {error:?}")),
            }
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

/// Who plays beside those who prune.
struct Cast {
    writers: u64,
    clients: u64,
    alterers: u64,
    streams: u64,
}

/// A primary with the tables; half of the seeds have row security.
fn primary<'a>(install: &'a Install, seed: u64, settings: &[(&str, &str)], mutant: Option<&str>) -> Cluster<'a> {
    // A standby that waits for its readers: they are to be told to try again by us, not to be cancelled.
    let common = [("max_standby_streaming_delay", "-1"), ("hot_standby_feedback", "on"), ("deadlock_timeout", "50ms")];
    let primary = Cluster::start_with(install, &[&common, settings].concat());
    if let Some(name) = mutant {
        set_mutant(&primary, name);
    }
    primary.connect().batch_execute(SETUP).expect("the tables can be tracked");
    if is_secured(seed) {
        primary.connect().batch_execute(SECURED).expect("the tables can be secured");
    }
    primary
}

fn with_standby(primary: Cluster<'_>) -> [Cluster<'_>; 2] {
    let standby = primary.standby();
    standby.catch_up(&primary);
    [primary, standby]
}

fn is_secured(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

/// Ends a run, also where its direction failed.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Lets all play until `direct` returns or somebody finds a difference.
fn play(
    seed: u64,
    shared: Shared,
    [primary, standby]: [Cluster<'_>; 2],
    cast: Cast,
    direct: impl FnOnce(&Shared, &Cluster<'_>, &Cluster<'_>),
) -> Result<Report, Violation> {
    shared.writing.store(cast.writers + 1 + cast.alterers, Ordering::Relaxed);
    thread::scope(|scope| {
        let (shared, primary, standby) = (&shared, &primary, &standby);
        let mut actors = 0..;
        let mut rng = || Rng::new(seed, actors.next().expect("there is always a next number"));
        for actor in 0..cast.writers {
            let rng = rng();
            scope.spawn(move || shared.writing(|| writer::write(shared, primary, rng, actor)));
        }
        for _ in 0..cast.clients {
            let rng = rng();
            scope.spawn(move || client::follow(shared, primary, standby, rng));
        }
        let pruning = rng();
        scope.spawn(move || shared.writing(|| prune(shared, primary, pruning)));
        for _ in 0..cast.alterers {
            let rng = rng();
            scope.spawn(move || shared.writing(|| alterer::alter(shared, primary, rng)));
        }
        for actor in 0..cast.streams {
            let rng = rng();
            scope.spawn(move || stream::follow(shared, primary, rng, actor));
        }
        let _ending = Ending(shared);
        direct(shared, primary, standby);
    });
    shared.end(seed, [("primary", &primary), ("standby", &standby)])
}

fn wait(shared: &Shared, length: Duration) {
    let end = Instant::now() + length;
    while shared.is_running() && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
}

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
    let servers = with_standby(primary(install, seed, &[], mutant));
    let shared = Shared { secured: is_secured(seed), ..Shared::default() };
    let cast = Cast { writers: WRITERS, clients: CLIENTS, alterers, streams };
    play(seed, shared, servers, cast, |shared, _, _| wait(shared, length))
}

/// Runs writers and followers of the stream, and nobody who only pulls.
pub fn run_streams(install: &Install, seed: u64, length: Duration, mutant: Option<&str>) -> Result<Report, Violation> {
    let servers = with_standby(primary(install, seed, &[], mutant));
    let shared = Shared { secured: is_secured(seed), ..Shared::default() };
    let cast = Cast { writers: WRITERS, clients: 0, alterers: 0, streams: 4 };
    play(seed, shared, servers, cast, |shared, _, _| wait(shared, length))
}

/// Settings of servers that are killed.
const MORTAL: [(&str, &str); 4] = [
    ("fsync", "on"),
    ("wal_retrieve_retry_interval", "100ms"),
    // A primary that was killed has lost what its standby told it: without an end, replay and a reader that waits for
    // a lock of its can wait for each other.
    ("max_standby_streaming_delay", "'1 s'"),
    ("statement_timeout", "'60 s'"),
];

/// Runs writers and clients while processes of both servers are killed, so many times.
pub fn kill(
    install: &Install,
    seed: u64,
    kills: u64,
    synchronous_commit: &str,
    mutant: Option<&str>,
) -> Result<Report, Violation> {
    // Asynchronous commits are to be there to be lost.
    let settings = [("synchronous_commit", synchronous_commit), ("wal_writer_delay", "'10 s'")];
    let servers = with_standby(primary(install, seed, &[&MORTAL, &settings[..]].concat(), mutant));
    let shared = Shared { secured: is_secured(seed), rules: Rules::Kills, ..Shared::default() };
    let cast = Cast { writers: WRITERS, clients: CLIENTS, alterers: 0, streams: 0 };
    play(seed, shared, servers, cast, |shared, primary, standby| {
        killer::kill(shared, primary, standby, Rng::new(seed, u64::MAX), kills);
    })
}

/// The same with followers of the stream, on the primary alone, which also lets commits hang as if their standby did not
/// answer; with or without heartbeats.
pub fn kill_streams(install: &Install, seed: u64, kills: u64, heartbeats: bool) -> Result<Report, Violation> {
    let servers = with_standby(primary(install, seed, &MORTAL, None));
    let shared = Shared { secured: is_secured(seed), silent: !heartbeats, rules: Rules::Kills, ..Shared::default() };
    let cast = Cast { writers: WRITERS, clients: 0, alterers: 0, streams: 2 };
    play(seed, shared, servers, cast, |shared, primary, _| {
        killer::kill_primary(shared, primary, Rng::new(seed, u64::MAX), kills);
    })
}

/// Runs writers and clients while the ids of transactions go past `boundary`, until `pulls` have answered behind it.
pub fn cross(install: &Install, seed: u64, boundary: u64, pulls: u64) -> Result<Report, Violation> {
    let primary = primary(install, seed, &[], None);
    primary.move_xid(boundary - 500);
    let shared = Shared { secured: is_secured(seed), ..Shared::default() };
    let cast = Cast { writers: WRITERS, clients: CLIENTS, alterers: 0, streams: 0 };
    play(seed, shared, with_standby(primary), cast, |shared, primary, _| {
        let start = Instant::now();
        while shared.is_running() && primary.next_xid() < boundary + 500 {
            if start.elapsed() > PATIENCE {
                shared.fail("the boundary was not reached".to_owned());
            }
            thread::sleep(Duration::from_millis(100));
        }
        let before = shared.counted(Count::Pulls);
        while shared.is_running() && shared.counted(Count::Pulls) < before + pulls {
            thread::sleep(Duration::from_millis(50));
        }
    })
}

pub use load::{Load, private_memory};

/// Runs 16 writers and 64 clients for `length`, and measures.
pub fn load(install: &Install, seed: u64, length: Duration) -> Result<(Report, Load), Violation> {
    // A statement that waits for a minute waits for ever.
    let settings = [("max_connections", "200"), ("statement_timeout", "'60 s'")];
    let servers = with_standby(primary(install, seed, &settings, None));
    let shared = Shared { secured: is_secured(seed), rules: Rules::Load, ..Shared::default() };
    let cast = Cast { writers: 16, clients: 64, alterers: 0, streams: 0 };
    let mut measured = Load::default();
    let report = play(seed, shared, servers, cast, |shared, primary, standby| {
        measured = load::measure(shared, [primary, standby], length);
    })?;
    Ok((report, measured))
}
