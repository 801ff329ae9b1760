//! What a load does to servers: memory of each backend, rows of the log.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use crate::Cluster;

/// What was measured.
#[derive(Debug, Default)]
pub struct Load {
    /// Backends of writers and clients, on both servers, that were there all the time.
    pub backends: usize,
    /// Private memory of a backend on average, in kB: after each third of the time.
    pub mean: [i64; 3],
    /// By how many kB the backend grew that grew most in the last third.
    pub most_growth: i64,
    /// Private memory of the largest backend at the end, in kB.
    pub largest: i64,
    /// The most log rows that `sync_prune` left, in each third.
    pub log_rows: [i64; 3],
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

/// Of writers and clients. The one that is a table itself has buffers of its own.
fn memory(servers: [&Cluster<'_>; 2]) -> Memory {
    let pids = servers.into_iter().flat_map(|server| {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
                   AND pid <> pg_backend_pid() AND application_name <> 'table'";
        server.connect().query(sql, &[]).expect("the server answers")
    });
    pids.map(|row| row.get(0)).filter_map(|pid| Some((pid, private_memory(pid)?))).collect()
}

/// Waits and measures.
pub(super) fn measure(shared: &Shared, servers: [&Cluster<'_>; 2], length: Duration) -> Load {
    const LOG: &str = "SELECT count(*), pg_total_relation_size('syncline.log') / 1024 FROM syncline.log";
    let (mut session, mut load) = (servers[0].connect(), Load::default());
    let mut samples: Vec<Memory> = Vec::new();
    for log_rows in &mut load.log_rows {
        let end = Instant::now() + length / 3;
        while shared.is_running() && Instant::now() < end {
            let row = session.query_one(LOG, &[]).expect("the server answers");
            *log_rows = row.get::<_, i64>(0).max(*log_rows);
            load.log_size = row.get(1);
            thread::sleep(Duration::from_millis(100));
        }
        samples.push(memory(servers));
    }
    let stayed: Vec<i32> =
        samples[0].keys().copied().filter(|pid| samples.iter().all(|s| s.contains_key(pid))).collect();
    let growth = stayed.iter().map(|pid| samples[2][pid] - samples[1][pid]);
    load.most_growth = growth.max().unwrap_or_default();
    load.largest = stayed.iter().map(|pid| samples[2][pid]).max().unwrap_or_default();
    load.backends = stayed.len();
    for (mean, sample) in load.mean.iter_mut().zip(&samples) {
        *mean = stayed.iter().map(|pid| sample[pid]).sum::<i64>() / stayed.len().max(1) as i64;
    }
    load
}
