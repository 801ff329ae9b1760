//! `STREAM_SECONDS` of the oracle's writers, with followers of the stream: whenever one of them pulls, and at the end without
//! a pull, its copies must be the truth. `STREAM_SEED` chooses shapes and statements.

use std::time::Duration;

use syncline_tests::{Install, oracle};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn slot_pull_and_stream_in_any_order_lead_to_the_truth() {
    let (seconds, seed) = (number("STREAM_SECONDS", 20), number("STREAM_SEED", 1));
    let install = Install::new();
    for alterers in [0, 1] {
        // Even seeds have row security, and who alters tables tracks them again without what that needs.
        let seed = if alterers > 0 { seed | 1 } else { seed };
        let report = oracle::run_all(&install, seed, Duration::from_secs(seconds), [alterers, 3], None);
        let report = report.unwrap_or_else(|violation| panic!("{violation}"));
        println!("{report:?}");
        assert!(report.streamed > 100 && report.stale > 0, "the followers did their work: {report:?}");
    }
}
