//! Whole tables to a client that reads all the bytes, against the ways of PostgreSQL to send them.

use super::Bench;
use super::measure::{Session, cost, in_turns};
use super::take::{NONE, take, take_copy, take_pages};

/// A query, and how many times its rows per second ours should reach.
const PEERS: [(&str, &str, f64); 4] = [
    ("to_jsonb", "SELECT to_jsonb(t) FROM plain t", 4.0),
    ("row_to_json", "SELECT row_to_json(t) FROM plain t", 2.0),
    ("json_agg", "SELECT json_agg(t) FROM plain t", 1.0),
    ("COPY text", "COPY plain TO STDOUT", 0.7),
];

const SHAPE: &str = r#"{"tables": {"million": {}}}"#;

/// Not in pages: the server holds the whole of it before the first row goes out.
const SET: &str = r#"SELECT op, relation, key, value, cursor FROM sync_changes(NULL, '{"tables": {"million": {}}}')"#;

/// Stands for `sync_pull` until the client is up to date.
const PAGES: &str = "pages";

/// What json_agg can make of it ends at 1 GB.
const ONE_VALUE: u32 = 2_000_000;

fn take_all(session: &mut Session, sql: &str) -> usize {
    match sql {
        PAGES => take_pages(session, SHAPE),
        _ if sql.starts_with("COPY") => take_copy(session, sql),
        _ => take(session, sql, NONE),
    }
}

impl Bench<'_> {
    /// Millions of rows, and the first page of them.
    pub fn first(&mut self) {
        for (rows, turns) in if self.quick { vec![(100_000, 5)] } else { vec![(1_000_000, 7), (5_000_000, 3)] } {
            self.table("million", rows);
            let sql = "CREATE TABLE plain AS SELECT id, project, title, state, at FROM million";
            self.client.batch_execute(sql).expect("a table can be copied");
            self.client.batch_execute("VACUUM ANALYZE plain").expect("a table can be vacuumed");
            self.whole(rows, turns);
            self.first_page();
            self.client.batch_execute("DROP TABLE million, plain").expect("tables can be dropped");
        }
    }

    fn whole(&mut self, rows: u32, turns: usize) {
        let peers: Vec<_> = PEERS.iter().filter(|(name, ..)| *name != "json_agg" || rows <= ONE_VALUE).collect();
        let mut queries: Vec<&str> = peers.iter().map(|(_, sql, _)| *sql).chain([SET, PAGES]).collect();
        let mut session = [Session::new(self.connect())];
        for sql in &queries {
            assert!(take_all(&mut session[0], sql) > rows as usize * 20, "all rows come: {sql}");
        }
        let costs = in_turns(turns, &mut queries, |sql| {
            cost(&mut self.client, &mut session, rows as usize, |session| {
                assert!(take_all(&mut session[0], sql) > 0);
            })
        });
        let (set, pages) = (&costs[peers.len()], &costs[peers.len() + 1]);
        for ((name, _, goal), peer) in peers.iter().zip(&costs) {
            let name = format!("first pull of {rows} rows against {name}, rows");
            self.report.rates("first", &name, pages, peer, Some(*goal));
        }
        let name = format!("first pull of {rows} rows as one set against pages, rows");
        self.report.rates("first", &name, set, pages, None);
    }

    fn first_page(&mut self) {
        let sql = SET.replace("}}')", "}}', 1000)");
        let mut session = Session::new(self.connect());
        let times: Vec<f64> = (0..super::RUNS)
            .map(|_| {
                let start = std::time::Instant::now();
                take_all(&mut session, &sql);
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        let bound = [50.0; super::RUNS];
        self.report.ratio("first", "first page of 1,000 rows against 50 ms", "ms", &times, &bound, Some(1.0));
    }
}
