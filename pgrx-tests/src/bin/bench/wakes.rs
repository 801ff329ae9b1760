//! What it costs eight writers that somebody waits for what they write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fallible_iterator::FallibleIterator;
use postgres::{Client, Statement};

use super::Bench;
use super::measure::{Session, cost, cpu, in_turns, pid};

const WRITERS: usize = 8;

/// Clients behind the session that waits, each with a cursor of its own.
const FOLLOWERS: usize = 100;

/// How often a follower pulls at most.
const PERIOD: Duration = Duration::from_secs(1);

const SHAPE: &str = r#"{"tables": {"busy": {"where": "project = 1"}}}"#;

/// Who is told of the writes.
#[derive(Clone, Copy, PartialEq)]
enum Audience {
    Nobody,
    /// A waiter wakes the followers.
    Waiter,
    /// The same, and they pull.
    Pulling,
    /// A listener, told by each writer, wakes the followers.
    Listener,
}

/// Nobody twice: what differs between these differs by chance.
const AUDIENCES: [Audience; 5] =
    [Audience::Nobody, Audience::Nobody, Audience::Waiter, Audience::Pulling, Audience::Listener];

/// The followers of one process: each is woken by a flag of its own.
struct Followers {
    flags: Vec<AtomicBool>,
    has_ended: AtomicBool,
}

impl Followers {
    fn new() -> Self {
        let flags = (0..FOLLOWERS).map(|_| AtomicBool::new(false)).collect();
        Self { flags, has_ended: AtomicBool::new(false) }
    }

    fn wake(&self) {
        self.flags.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// One session waits for any tracked table.
    fn wait(&self, client: &mut Client) {
        while !self.has_ended() {
            let position: String = client.query_one("SELECT sync_position()", &[]).expect("a position").get(0);
            self.wake();
            client.batch_execute(&format!("CALL sync_wait('{position}', NULL, '20 s')")).expect("a wait ends");
        }
    }

    fn listen(&self, client: &mut Client) {
        while !self.has_ended() {
            client.notifications().blocking_iter().next().expect("the server is there").expect("the server is there");
            self.wake();
        }
    }

    /// Those that were woken pull, spread over the period, through one session.
    fn pull(&self, client: &mut Client, pull: &Statement, cursors: &mut [String]) {
        for place in (0..FOLLOWERS).cycle().take_while(|_| !self.has_ended()) {
            let start = Instant::now();
            if self.flags[place].swap(false, Ordering::Relaxed) {
                let rows = client.query(pull, &[&cursors[place], &SHAPE]).expect("a pull answers");
                cursors[place] = rows.last().expect("it ends with a cursor").get(4);
            }
            thread::sleep((PERIOD / FOLLOWERS as u32).saturating_sub(start.elapsed()));
        }
    }
}

/// Random rows, each in a transaction of its own.
fn write(sessions: &mut [Session], operations: usize, announce: &str, seed: u32) {
    thread::scope(|scope| {
        for (writer, session) in (0u32..).zip(sessions) {
            scope.spawn(move || {
                for n in 0..operations as u32 / WRITERS as u32 {
                    let id = 1 + (seed + writer * 7919 + n * 104_729) % 100_000;
                    let sql =
                        format!("BEGIN; UPDATE busy SET title = 'write {seed} {n}' WHERE id = {id}{announce}; COMMIT");
                    session.client.batch_execute(&sql).expect("a row can be written");
                }
            });
        }
    });
}

impl Bench<'_> {
    /// Throughput of the writers with each audience.
    pub fn wakes(&mut self) {
        self.table("busy", 100_000);
        let mut writers: Vec<Session> = (0..WRITERS).map(|_| Session::new(self.connect())).collect();
        let [mut waiting, mut listening, mut pulling] = [(); 3].map(|()| self.connect());
        let audience_pids = [&mut waiting, &mut listening, &mut pulling].map(pid);
        listening.batch_execute("LISTEN changed").expect("a session can listen");
        let sql = "SELECT op, relation, key::text, value::text, cursor FROM sync_changes($1, $2::text::jsonb)";
        let pull = pulling.prepare(sql).expect("it can be prepared");
        let cursor = pulling.query(&pull, &[&None::<String>, &SHAPE]).expect("a pull answers");
        let mut cursors = vec![cursor.last().expect("it ends with a cursor").get::<_, String>(4); FOLLOWERS];
        let (turns, operations) = if self.quick { (13, 3_000) } else { (15, 16_000) };
        let costs = in_turns(turns + 1, &mut AUDIENCES.clone(), |&mut audience| {
            let followers = Followers::new();
            let seed = self.next() as u32 * 31;
            let announce = if audience == Audience::Listener { "; NOTIFY changed" } else { "" };
            thread::scope(|scope| {
                let told = match audience {
                    Audience::Nobody => None,
                    Audience::Listener => Some(scope.spawn(|| followers.listen(&mut listening))),
                    Audience::Waiter | Audience::Pulling => Some(scope.spawn(|| followers.wait(&mut waiting))),
                };
                if audience == Audience::Pulling {
                    scope.spawn(|| followers.pull(&mut pulling, &pull, &mut cursors));
                }
                let audience_cpu = || audience_pids.into_iter().map(cpu).sum::<f64>();
                let before = audience_cpu();
                let mut cost = cost(&mut self.client, &mut writers, operations, |sessions| {
                    write(sessions, operations, announce, seed);
                });
                // Of the waiter, the listener and those who pull as well.
                cost.cpu += (audience_cpu() - before) / operations as f64;
                followers.has_ended.store(true, Ordering::Relaxed);
                // Whoever still waits is told once more, and again where that was a moment too early.
                while told.as_ref().is_some_and(|told| !told.is_finished()) {
                    // Another text than before: nobody is woken by a row that stays as it is.
                    write(&mut writers[..1], WRITERS, announce, self.next() as u32 * 31);
                    thread::sleep(Duration::from_millis(10));
                }
                cost
            })
        });
        let names = [
            ("8 writers that nobody waits for", None),
            ("8 writers with a waiter and 100 followers", Some(0.95)),
            ("8 writers with a waiter and 100 followers that pull once a second", None),
            ("8 writers that NOTIFY a listener with 100 followers", None),
        ];
        for ((name, goal), audience) in names.into_iter().zip(&costs[1..]) {
            let name = format!("{name}, against 8 alone: transactions");
            // The first turn fills caches.
            self.report.rates("live", &name, &audience[1..], &costs[0][1..], goal);
        }
    }
}
