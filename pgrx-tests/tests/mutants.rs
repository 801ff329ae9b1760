//! The oracle has teeth: each deliberate fault is found. Needs the library built with `--features mutants`.

use std::time::Duration;

use syncline_tests::{Install, oracle};

#[test]
#[ignore = "needs the library with the faults in it: make test builds and runs it"]
fn each_fault_is_found_in_nine_of_ten_seeds() {
    let seeds: u64 = std::env::var("MUTANT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let install = Install::new();
    let mut missed = Vec::new();
    for mutant in [
        "no_xip",
        "horizon_ignored",
        "second_snapshot",
        "no_filter_tombstone",
        "no_delete_tombstone",
        "standby_current_snapshot",
    ] {
        let found = (1..=seeds)
            .filter(|&seed| oracle::run(&install, seed, Duration::from_secs(20), Some(mutant)).is_err())
            .count() as u64;
        println!("{mutant}: found in {found} of {seeds}");
        if found * 10 < seeds * 9 {
            missed.push(mutant);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
