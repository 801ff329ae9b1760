//! `regress/sql/*.sql` answers what `regress/expected/*.out` says. `GOLDEN=name` runs one file,
//! `UPDATE_GOLDENS=1` accepts the answers: read the diff before it is committed.

use syncline_tests::{Cluster, Install, golden};

#[test]
fn statements_answer_as_expected() {
    let install = Install::new();
    golden::REGRESS.run(&Cluster::start(&install));
}
