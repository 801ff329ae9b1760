//! Faults: processes and servers that die while writers write and clients pull. `FAULTS_KILLS` and `FAULTS_SEED` run it longer.

use syncline_tests::{Install, oracle};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Every pull is compared with the truth, and no cursor from before a kill may be told of another timeline.
fn every_pull_equals_the_truth_while_servers_die(seed: u64, synchronous_commit: &str) {
    let (kills, seed) = (number("FAULTS_KILLS", 5), number("FAULTS_SEED", seed));
    let report = oracle::kill(&Install::new(), seed, kills, synchronous_commit, None);
    let report = report.unwrap_or_else(|violation| panic!("{violation}"));
    println!("synchronous_commit {synchronous_commit}: {report:?}");
    assert_eq!(report.kills, kills);
    assert!(report.deletes > 0 && report.upserts > 0 && report.standby > 0, "the run did its work");
}

#[test]
fn every_pull_equals_the_truth_while_servers_die_under_synchronous_commits() {
    every_pull_equals_the_truth_while_servers_die(1, "on");
}

#[test]
fn every_pull_equals_the_truth_while_servers_die_under_asynchronous_commits() {
    every_pull_equals_the_truth_while_servers_die(2, "off");
}
