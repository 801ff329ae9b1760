//! A killer: SIGKILL to processes of a server, at any moment, and to whole servers.

use std::thread;
use std::time::{Duration, Instant};

use super::{Count, PATIENCE, Shared};
use crate::rng::Rng;
use crate::{Cluster, cluster};

/// Answered pulls that check the law between two kills.
const PULLS: u64 = 30;

/// Kills so many times. Each time the server must come back, and clients go on with the cursors that they have.
pub fn kill(shared: &Shared, primary: &Cluster<'_>, standby: &Cluster<'_>, mut rng: Rng, kills: u64) {
    while shared.counted(Count::Kills) < kills {
        let server = if rng.one_in(4) { standby } else { primary };
        match rng.below(3) {
            0 => {
                if !kill_child(shared, server, &mut rng) {
                    continue;
                }
            }
            1 => {
                server.kill_9();
                server.start_again();
            }
            _ => {
                server.kill_9_all();
                server.start_again();
            }
        }
        shared.count(Count::Kills);
        if !end_prepared(shared, primary, &mut rng) || !answers(shared) {
            return;
        }
        thread::sleep(Duration::from_millis(u64::from(rng.below(400))));
    }
}

/// The same to a primary whose log is followed; every third time commits hang for a while instead.
pub fn kill_primary(shared: &Shared, primary: &Cluster<'_>, mut rng: Rng, kills: u64) {
    while shared.counted(Count::Kills) < kills {
        match rng.below(6) {
            0 | 1 => hang(shared, primary, &mut rng),
            2 | 3 => {
                if !kill_child(shared, primary, &mut rng) {
                    continue;
                }
            }
            4 => {
                primary.kill_9();
                primary.start_again();
            }
            _ => {
                primary.kill_9_all();
                primary.start_again();
            }
        }
        shared.count(Count::Kills);
        if !end_prepared(shared, primary, &mut rng) || !answers(shared) {
            return;
        }
    }
}

/// Commits wait for a standby that is not there: they are in the log, and no snapshot sees them.
fn hang(shared: &Shared, primary: &Cluster<'_>, rng: &mut Rng) {
    for names in ["nobody", ""] {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        // A statement for itself: it is none for a block.
        for sql in [&*set, "SELECT pg_reload_conf()"] {
            let Some(mut session) = shared.session(primary, "SET synchronous_commit = local") else { return };
            match session.batch_execute(sql) {
                Err(error) if !shared.is_loss(&error) => return shared.fail(format!("{sql}: {error:?}")),
                _ => {}
            }
        }
        thread::sleep(Duration::from_millis(u64::from(100 + rng.below(500))));
    }
}

/// What a postmaster says when it has ended all others because one died: it goes on, or, without its startup process, ends.
const REACTIONS: [&str; 3] =
    ["terminated; reinitializing", "shutting down due to startup process failure", "aborting startup due to"];

/// Kills any process but the postmaster; false if it had ended by itself before.
fn kill_child(shared: &Shared, server: &Cluster<'_>, rng: &mut Rng) -> bool {
    let reactions = || {
        let log = server.log();
        REACTIONS.iter().map(|reaction| log.matches(reaction).count()).sum::<usize>()
    };
    let before = reactions();
    cluster::kill_9(&[*rng.pick(&server.children())]);
    let start = Instant::now();
    while reactions() == before {
        if start.elapsed() > PATIENCE / 6 {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    while server.try_connect().is_err() {
        if !server.has_postmaster() {
            server.start_again();
        } else if start.elapsed() > PATIENCE {
            shared.fail("the server does not come back".to_owned());
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Nobody else ends what a lost session has prepared; it would keep its locks.
fn end_prepared(shared: &Shared, primary: &Cluster<'_>, rng: &mut Rng) -> bool {
    let Some(mut session) = shared.session(primary, "") else { return false };
    let prepared = match session.query("SELECT gid FROM pg_prepared_xacts", &[]) {
        Ok(prepared) => prepared,
        Err(error) if shared.is_loss(&error) => return end_prepared(shared, primary, rng),
        Err(error) => {
            shared.fail(format!("pg_prepared_xacts: {error:?}"));
            return false;
        }
    };
    for row in prepared {
        let verb = rng.pick(&["COMMIT", "ROLLBACK"]);
        // A writer that has a session still may come first.
        let _ = session.batch_execute(&format!("{verb} PREPARED '{}'", row.get::<_, &str>(0)));
    }
    true
}

/// Waits until the law was checked often enough since now.
fn answers(shared: &Shared) -> bool {
    let (before, start) = (shared.counted(Count::Pulls), Instant::now());
    while shared.is_running() && shared.counted(Count::Pulls) < before + PULLS {
        if start.elapsed() > PATIENCE {
            shared.fail("no answers after a kill".to_owned());
        }
        thread::sleep(Duration::from_millis(10));
    }
    shared.is_running()
}
