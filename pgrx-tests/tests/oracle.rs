//! `ORACLE_SECONDS` of writers and clients: not one pull may differ from the truth. `ORACLE_SEED` chooses
//! shapes and statements; how the threads interleave differs from run to run.

use std::time::Duration;

use syncline_tests::{Install, oracle};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_pull_equals_the_truth_of_its_snapshot() {
    let (seconds, seed) = (number("ORACLE_SECONDS", 60), number("ORACLE_SEED", 1));
    let mutant = std::env::var("ORACLE_MUTANT").ok();
    let report = oracle::run(&Install::new(), seed, Duration::from_secs(seconds), 0, mutant.as_deref());
    let report = report.unwrap_or_else(|violation| panic!("{violation}"));
    println!("{report:?}");
    let [flat, nested, mixed] = report.excess();
    println!("sent for each byte lacked: {flat:.2} flat, {nested:.2} nested, {mixed:.2} with OR or NOT");
    // On a few bytes chance would decide.
    let enough = |n: usize| report.bytes[n].1 > 20_000;
    assert!(!enough(0) || flat <= 1.25, "{flat} flat");
    assert!(!enough(1) || nested <= 1.25, "{nested} nested");
    assert!(report.pulls >= 200, "fewer than 200 pulls show nothing");
    assert!(report.deletes > 0 && report.upserts > 0 && report.standby > 0, "the run did its work");
}
