//! The oracle while tables are altered: not one pull may differ from the truth, and none may fail but with "try again".
//! `STORM_SECONDS` and `STORM_SEED` as `ORACLE_…`.

use std::time::Duration;

use syncline_tests::{Install, oracle};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Of two seeds one has clients whom row security restricts.
#[test]
fn every_pull_equals_the_truth_while_tables_are_altered() {
    let (seconds, seed) = (number("STORM_SECONDS", 30), number("STORM_SEED", 1));
    for seed in [seed, seed + 1] {
        let report = oracle::run(&Install::new(), seed, Duration::from_secs(seconds) / 2, oracle::ALTERERS, None);
        let report = report.unwrap_or_else(|violation| panic!("{violation}"));
        println!("{report:?}");
        assert!(report.alterations > 0 && report.resets > 0 && report.retries > 0, "the run did its work");
        assert!(report.pulls >= 50 && report.deletes > 0 && report.standby > 0, "the run did its work");
    }
}
