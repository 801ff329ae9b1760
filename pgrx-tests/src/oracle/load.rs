//! What a load does to servers: memory of each backend, rows of the log.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use crate::Cluster;

/// What was measured from the end of the warm-up on.
#[derive(Debug, Default)]
pub struct Load {
    /// Backends of clients, writers and their kind, on both servers, that were there all the time.
    pub backends: usize,
    /// By how many kB the private memory of a backend grew, at most.
    pub most_growth: i64,
    /// The same on average.
    pub mean_growth: i64,
    /// Private memory of the largest backend at the end, in kB.
    pub largest: i64,
    /// The most log rows that `sync_prune` left, before half time.
    pub log_rows_before: i64,
    /// The same after half time.
    pub log_rows_after: i64,
    /// Size of the log with its index at the end, in kB.
    pub log_size: i64,
}

/// Private memory by process, in kB.
type Memory = BTreeMap<i32, i64>;

/// Private memory of a process: what it shares with others is not its own growth.
pub fn private_memory(pid: i32) -> Option<i64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn memory(servers: [&Cluster<'_>; 2]) -> Memory {
    let pids = servers.into_iter().flat_map(|server| {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        server.connect().query(sql, &[]).expect("the server answers")
    });
    pids.map(|row| row.get(0)).filter_map(|pid| Some((pid, private_memory(pid)?))).collect()
}

/// Waits and measures: a third of the time is warm-up.
pub(super) fn measure(shared: &Shared, servers: [&Cluster<'_>; 2], length: Duration) -> Load {
    let mut session = servers[0].connect();
    super::wait(shared, length / 3);
    let (before, mut load, start) = (memory(servers), Load::default(), Instant::now());
    let rest = length - length / 3;
    while shared.is_running() && start.elapsed() < rest {
        let row =
            session.query_one("SELECT count(*), pg_total_relation_size('syncline.log') / 1024 FROM syncline.log", &[]);
        let row = row.expect("the server answers");
        let most = if start.elapsed() < rest / 2 { &mut load.log_rows_before } else { &mut load.log_rows_after };
        *most = row.get::<_, i64>(0).max(*most);
        load.log_size = row.get(1);
        thread::sleep(Duration::from_millis(100));
    }
    let after = memory(servers);
    let growth: Vec<i64> = before.iter().filter_map(|(pid, kb)| Some(after.get(pid)? - kb)).collect();
    load.backends = growth.len();
    load.most_growth = growth.iter().copied().max().unwrap_or_default();
    load.mean_growth = growth.iter().sum::<i64>() / growth.len().max(1) as i64;
    load.largest = after.values().copied().max().unwrap_or_default();
    load
}
