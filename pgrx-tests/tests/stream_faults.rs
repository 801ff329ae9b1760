//! Followers of the stream while servers and their walsenders are killed, commits hang, and slots are dropped: `STREAM_KILLS`
//! and `STREAM_SEED` run it longer.

use syncline_tests::{Install, oracle};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What was streamed is compared with the truth between the kills, and at the end by digest too.
fn copies_are_the_truth_while_servers_die(seed: u64, heartbeats: bool) {
    let (kills, seed) = (number("STREAM_KILLS", 4), number("STREAM_SEED", seed));
    let report = oracle::kill_streams(&Install::new(), seed, kills, heartbeats);
    let report = report.unwrap_or_else(|violation| panic!("{violation}"));
    println!("heartbeats {heartbeats}: {report:?}");
    assert_eq!(report.kills, kills);
    assert!(report.streamed > 100 && report.checks > 20 && report.slots > 2, "the run did its work: {report:?}");
}

#[test]
fn copies_are_the_truth_while_servers_die_with_heartbeats() {
    copies_are_the_truth_while_servers_die(1, true);
}

#[test]
fn copies_are_the_truth_while_servers_die_without_heartbeats() {
    copies_are_the_truth_while_servers_die(2, false);
}
