//! A against A: what this machine tells apart.

use super::Bench;
use super::delta::since;
use super::measure::in_turns;
use super::report::{Against, Goals};
use super::write::{Subject, UNTRACKED};

impl Bench<'_> {
    /// Twins of a writer and of a pull. What differs between them differs by chance.
    pub fn control(&mut self) {
        for clients in [1, 4] {
            let mut twins = ["one", "two"].map(|name| self.subject(&format!("{name}_{clients}"), UNTRACKED, 0));
            let costs = self.slices(&mut twins, clients, Subject::update);
            let name = format!("UPDATE, {}", super::write::of(clients));
            self.report.costs("control", &name, Against("its twin"), &costs[0], &costs[1], Goals::default());
        }
        let mut twins = ["one_1", "two_1"];
        let sql = |table: &str| format!("UPDATE {table} SET body = lower(body)");
        let mut session = [self.lazy_session()];
        let costs = in_turns(super::RUNS, &mut twins, |table| {
            self.client.batch_execute(&format!("VACUUM {table}")).expect("a table can be vacuumed");
            super::measure::cost(&mut self.client, &mut session, 1, |session| {
                session[0].client.batch_execute(&sql(table)).expect("many rows can be written");
            })
        });
        self.report.costs("control", "bulk UPDATE", Against("its twin"), &costs[0], &costs[1], Goals::default());
        self.table("pulled", 100_000);
        let cursor = self.cursor_of_all("pulled");
        self.time("UPDATE pulled SET title = 'changed' WHERE id <= 1000");
        let delta = since("pulled", &cursor);
        self.compare("delta of 1,000 rows against itself", &delta, &delta, None);
        let first = "SELECT count(*) FROM sync_changes(NULL, '{\"tables\":{\"pulled\":{}}}')";
        self.compare("first pull of 100,000 rows against itself", first, first, None);
    }
}
