//! One minute (or `ORACLE_SECONDS`) of writers and clients: not one pull may differ from the truth.

use std::time::Duration;

use syncline_tests::{Install, oracle};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_pull_equals_the_truth_of_its_snapshot() {
    let (seconds, seed) = (number("ORACLE_SECONDS", 20), number("ORACLE_SEED", 1));
    let report = oracle::run(&Install::new(), seed, Duration::from_secs(seconds), None).unwrap();
    println!("{report:?}");
    assert!(
        report.pulls > 200 && report.deletes > 0 && report.standby > 0 && report.writes > 100,
        "the run did its work"
    );
}
