//! `isolation/specs/*.spec`: interleavings of sessions go as `isolation/expected/*.out` says. `GOLDEN=name`
//! runs one spec, `UPDATE_GOLDENS=1` accepts the answers: read the diff before it is committed.

use syncline_tests::{Cluster, Install, golden};

#[test]
fn interleavings_go_as_expected() {
    let install = Install::new();
    golden::ISOLATION.run(&Cluster::start(&install));
}
