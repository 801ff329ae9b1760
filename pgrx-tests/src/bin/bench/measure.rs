//! What a piece of work takes: time, CPU time of the backends that did it, and write-ahead log.

use std::time::Instant;
use std::{fs, thread};

use postgres::Client;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// A session whose backend's CPU time is known.
pub struct Session {
    pub client: Client,
    pid: i32,
}

/// What was measured of one slice of work.
#[derive(Clone, Copy)]
pub struct Cost {
    /// Microseconds.
    pub wall: f64,
    /// Microseconds, summed over the backends.
    pub cpu: f64,
    /// Bytes.
    pub wal: f64,
}

impl Session {
    pub fn new(mut client: Client) -> Self {
        let pid = pid(&mut client);
        Self { client, pid }
    }

    /// Keeps the backend on one core.
    pub fn pin(&self, place: usize) {
        pin(Pid::from_raw(self.pid), place);
    }

    /// Microseconds of CPU so far.
    fn cpu(&self) -> f64 {
        cpu(self.pid)
    }

    /// Does work of which the backend has its part, on one core: neither side has to be woken up for the other.
    pub fn beside(&mut self, work: impl FnOnce(&mut Self) + Send) {
        on_one_core(self.pid, || work(self));
    }

    /// Tells the megabytes that the backend has for itself, at any time: not shared buffers.
    pub fn private_memory(&self) -> impl Fn() -> f64 + use<> {
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        move || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines = text.lines().filter(|line| line.starts_with("Private_Dirty:"));
            lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum::<f64>() / 1024.0
        }
    }
}

/// Keeps this thread on one core.
pub fn pin_thread(place: usize) {
    pin(None, place);
}

fn pin(process: Option<Pid>, place: usize) {
    let of_all = sched_getaffinity(None).expect("a process knows its cores");
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| of_all.is_set(*core)).collect();
    let mut one = CpuSet::new();
    one.set(allowed[place % allowed.len()]);
    sched_setaffinity(process, &one).expect("a process may be kept on one of them");
}

/// Bytes of write-ahead log so far.
fn wal(admin: &mut Client) -> f64 {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
    admin.query_one(sql, &[]).expect("a primary tells its position").get(0)
}

/// Does work in a thread on the core of a backend that does its part.
pub fn on_one_core(pid: i32, work: impl FnOnce() + Send) {
    pin(Pid::from_raw(pid), 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_thread(0);
            work();
        });
    });
}

/// Microseconds of CPU that a process of one thread has used; exact while it waits.
pub fn cpu(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the kernel tells what a process has used");
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse::<f64>().ok());
    nanoseconds.expect("it begins with a number of nanoseconds") / 1e3
}

/// The process of a session.
pub fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend has a pid").get(0)
}

/// Does work of `operations` equal parts in these sessions, and tells what one of them took.
pub fn cost(
    admin: &mut Client,
    sessions: &mut [Session],
    operations: usize,
    work: impl FnOnce(&mut [Session]),
) -> Cost {
    let cpu = |sessions: &[Session]| sessions.iter().map(Session::cpu).sum::<f64>();
    let (wal_before, cpu_before, start) = (wal(admin), cpu(sessions), Instant::now());
    work(sessions);
    let wall = start.elapsed().as_secs_f64() * 1e6;
    let operations = operations as f64;
    Cost {
        wall: wall / operations,
        cpu: (cpu(sessions) - cpu_before) / operations,
        wal: (wal(admin) - wal_before) / operations,
    }
}

/// Measures every subject once in each turn, each time another one first; what they gave, by subject.
pub fn in_turns<S, M>(turns: usize, subjects: &mut [S], mut measure: impl FnMut(&mut S) -> M) -> Vec<Vec<M>> {
    let mut costs: Vec<Vec<M>> = subjects.iter().map(|_| Vec::new()).collect();
    for turn in 0..turns {
        for place in 0..subjects.len() {
            let subject = (turn + place) % subjects.len();
            costs[subject].push(measure(&mut subjects[subject]));
        }
    }
    costs
}
