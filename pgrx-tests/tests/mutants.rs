//! The oracle has teeth: each deliberate fault is found. Needs the library built with `--features mutants`.

use std::time::{Duration, Instant};

use syncline_tests::histories::HISTORIES;
use syncline_tests::oracle::{Report, Violation};
use syncline_tests::{Install, oracle};

const MUTANTS: [&str; 13] = [
    "no_xip",
    "horizon_ignored",
    "second_snapshot",
    "no_filter_tombstone",
    "no_delete_tombstone",
    "standby_current_snapshot",
    "no_enter",
    "no_leave",
    "no_insert_log",
    "first_by_xid",
    "no_key_enter",
    "page_boundary",
    SECURED,
];

/// Even seeds have clients under row security: it gets those.
const SECURED: &str = "policy_ignored";

/// Faults of the stream: its followers must notice.
const OF_STREAM: [&str; 5] =
    ["stream_no_leave", "stream_level_ignored", "stream_watermark", "stream_barrier_ignored", "stream_upserts_first"];

/// How long a fault may hide.
const LENGTH: Duration = Duration::from_secs(30);

/// Two seeds are a quick look, ten are the proof.
fn seeds() -> u64 {
    std::env::var("MUTANT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Whether enough seeds find a fault: one in a quick look, nine in the proof.
fn is_found(mutant: &str, run: impl Fn(u64) -> Result<Report, Violation>) -> bool {
    let seeds = seeds();
    let needed = if seeds < 10 { 1 } else { seeds * 9 / 10 };
    let mut found = 0;
    for seed in 1..=seeds {
        let start = Instant::now();
        match run(seed) {
            Ok(report) => println!("{mutant}, seed {seed}: not found: {report:?}"),
            Err(violation) => {
                found += 1;
                let text = violation.to_string();
                let seconds = start.elapsed().as_secs();
                println!("{mutant}, {seconds} s: {}", text.lines().take(2).collect::<Vec<_>>().join(" | "));
            }
        }
        if found >= needed {
            break;
        }
    }
    found >= needed
}

#[test]
#[ignore = "needs the library with the faults in it: make oracle-mutants builds and runs it"]
fn each_fault_is_found() {
    let install = Install::new();
    let mut missed = Vec::from(MUTANTS);
    // What a random run may miss in a quick look, a history tells.
    missed.retain(|mutant| seeds() >= 10 || HISTORIES.iter().all(|(fault, _)| fault != mutant));
    missed.retain(|mutant| {
        let secured = if *mutant == SECURED { 2 } else { 1 };
        !is_found(mutant, |seed| oracle::run(&install, secured * seed, LENGTH, 0, Some(mutant)))
    });
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
#[ignore = "needs the library with the faults in it: make oracle-mutants builds and runs it"]
fn each_fault_of_the_stream_is_found() {
    let install = Install::new();
    let mut missed = Vec::from(OF_STREAM);
    missed.retain(|mutant| !is_found(mutant, |seed| oracle::run_streams(&install, seed, LENGTH, Some(mutant))));
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
#[ignore = "needs the library with the faults in it: make oracle-mutants builds and runs it"]
fn each_history_breaks_without_its_rule() {
    let install = Install::new();
    for (fault, history) in HISTORIES {
        let broken = history(&install, Some(fault));
        println!("{fault}: {broken:?}");
        assert!(broken.is_err(), "{fault} broke nothing");
    }
}

#[test]
#[ignore = "needs the library with the faults in it: make oracle-mutants builds and runs it"]
fn killed_servers_tell_a_missing_flush() {
    let install = Install::new();
    let found = (1..=5).find_map(|seed| oracle::kill(&install, seed, 20, "off", Some("no_flush")).err());
    println!("no_flush: {found:?}");
    assert!(found.is_some(), "cursors that see what a crash forgets went unnoticed");
}
