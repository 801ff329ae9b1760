//! How the cost of a pull grows with everything that can grow.

use syncline_tests::rng::Rng;

use super::delta::{since, spread};
use super::measure::{Session, cost};
use super::report::{Curve, median};
use super::take::{NONE, take};
use super::{Bench, RUNS};

/// Rows that a pull brings, where something else grows.
const FEW: u32 = 10;

/// Of an exponent that should be nothing: what is left for caches that grow full.
const FLAT: Option<f64> = Some(0.1);

/// The same of one that should be one.
const LINEAR: Option<f64> = Some(1.05);

impl Bench<'_> {
    /// All of them. The small run stops at a tenth of the sizes or earlier.
    pub fn curves(&mut self) {
        let mut session = [Session::new(self.connect())];
        self.by_table(&mut session);
        self.by_delta(&mut session);
        self.by_log(&mut session);
        self.by_open_transactions(&mut session);
        self.by_old_transaction(&mut session);
    }

    /// Sizes in steps of about a half of a power of ten, from one power to another.
    fn sizes(&self, from: u32, to: u32) -> Vec<u32> {
        let to = if self.quick { to - 1 } else { to };
        let powers = (from..=to).map(|power| 10u32.pow(power));
        powers.flat_map(|power| [power, 3 * power]).filter(|size| *size <= 10u32.pow(to)).collect()
    }

    /// Least, median and greatest microseconds of CPU that a statement takes.
    fn point(&mut self, session: &mut [Session; 1], sql: &str) -> [f64; 3] {
        let statement = session[0].client.prepare(sql).expect("it can be prepared");
        let mut measure = |repeats: usize| {
            let cost = cost(&mut self.client, session, repeats, |session| {
                session[0].beside(|session| {
                    for _ in 0..repeats {
                        assert!(take(session, &statement, NONE) > 0, "something comes");
                    }
                });
            });
            cost.cpu
        };
        // The first run plans and fills caches; it also tells how many make up five milliseconds.
        let repeats = (5_000.0 / measure(1)).clamp(1.0, 100.0) as usize;
        let mut runs: Vec<f64> = (0..RUNS).map(|_| measure(repeats)).collect();
        runs.sort_by(f64::total_cmp);
        [runs[0], median(&runs), runs[RUNS - 1]]
    }

    /// What a client takes who has seen all but the rows that change now, all over the table.
    fn after_change(&mut self, session: &mut [Session; 1], table: &str, rows: u32, changed: u32) -> [f64; 3] {
        let cursor = self.cursor_of_all(table);
        let text = self.next();
        self.time(&format!("UPDATE {table} SET title = 'changed {text}' {}", spread(rows, changed)));
        self.point(session, &since(table, &cursor))
    }

    fn draw(&mut self, name: &'static str, grows: &'static str, points: Vec<(f64, [f64; 3])>, goal: Option<f64>) {
        self.report.curve(Curve { name, grows, unit: "µs of CPU", points, goal });
    }

    fn by_table(&mut self, session: &mut [Session; 1]) {
        self.table("growing", 0);
        let (mut points, mut loaded) = (Vec::new(), 0);
        for rows in self.sizes(if self.quick { 4 } else { 5 }, 7) {
            self.load("growing", loaded + 1, rows);
            loaded = rows;
            points.push((f64::from(rows), self.after_change(session, "growing", rows, FEW)));
        }
        self.draw("delta of 10 rows by size of the table", "rows of the table", points, FLAT);
        self.client.batch_execute("DROP TABLE growing").expect("a table can be dropped");
    }

    fn by_delta(&mut self, session: &mut [Session; 1]) {
        let sizes = self.sizes(0, 6);
        let rows = sizes[sizes.len() - 1];
        self.table("changing", rows);
        let mut points = Vec::new();
        for changed in sizes {
            points.push((f64::from(changed), self.after_change(session, "changing", rows, changed)));
            self.client.batch_execute("VACUUM changing").expect("a table can be vacuumed");
        }
        self.draw("delta by its rows", "rows of the delta", points, LINEAR);
        self.client.batch_execute("DROP TABLE changing").expect("a table can be dropped");
    }

    /// Log rows that the cursor has seen.
    fn by_log(&mut self, session: &mut [Session; 1]) {
        let rows = 100_000;
        self.table("logged", rows);
        let (mut points, mut logged) = (Vec::new(), 0);
        for size in [0].into_iter().chain(self.sizes(if self.quick { 3 } else { 4 }, 7 - u32::from(self.quick))) {
            while logged < size {
                let some = (size - logged).min(rows);
                // A filter column: the log keeps what it was.
                self.time(&format!("UPDATE logged SET project = project + 1 WHERE id <= {some}"));
                self.client.batch_execute("VACUUM logged").expect("a table can be vacuumed");
                logged += some;
            }
            self.client.batch_execute("VACUUM ANALYZE logged, syncline.log").expect("tables can be vacuumed");
            points.push((f64::from(size), self.after_change(session, "logged", rows, FEW)));
        }
        self.draw("delta of 10 rows by rows of the log", "rows of the log", points, FLAT);
        self.client.batch_execute("DROP TABLE logged").expect("a table can be dropped");
    }

    /// Prepared ones: to a snapshot they are in progress like others, and need no session each.
    fn by_open_transactions(&mut self, session: &mut [Session; 1]) {
        let rows = 100_000;
        self.table("shared", rows);
        let mut rng = Rng::new(1, 0);
        let (mut points, mut sizes, mut open) = (Vec::new(), Vec::new(), 0);
        for size in [0, 1, 3, 10, 30, 100, 300, 1_000] {
            while open < size {
                open += 1;
                self.time("BEGIN; SELECT pg_current_xact_id()");
                self.time(&format!("PREPARE TRANSACTION 'open {open}'"));
                // Others between them have ended: a cursor names ids in a row by their ends.
                for _ in 0..rng.below(3) {
                    self.time("SELECT pg_current_xact_id()");
                }
            }
            points.push((f64::from(size), self.after_change(session, "shared", rows, FEW)));
            sizes.push((f64::from(size), [self.cursor_of_all("shared").len() as f64; 3]));
        }
        for n in 1..=open {
            self.time(&format!("ROLLBACK PREPARED 'open {n}'"));
        }
        self.draw("delta of 10 rows by open transactions", "open transactions", points, LINEAR);
        let (name, grows) = ("bytes of a cursor by open transactions", "open transactions");
        self.report.curve(Curve { name, grows, unit: "bytes", points: sizes, goal: LINEAR });
        self.client.batch_execute("DROP TABLE shared").expect("a table can be dropped");
    }

    /// Changes that were committed while an old transaction is open, and that the cursor has seen.
    fn by_old_transaction(&mut self, session: &mut [Session; 1]) {
        let rows = 100_000;
        self.table("held", rows);
        let mut old = self.connect();
        old.batch_execute("BEGIN; SELECT pg_current_xact_id()").expect("a transaction can be left open");
        let (mut points, mut changed) = (Vec::new(), 0);
        for size in [0].into_iter().chain(self.sizes(3, 6)) {
            while changed < size {
                let some = (size - changed).min(rows);
                let text = self.next();
                self.time(&format!("UPDATE held SET state = 'x{text}' WHERE id <= {some}"));
                changed += some;
            }
            points.push((f64::from(size), self.after_change(session, "held", rows, FEW)));
        }
        self.draw("delta of 10 rows by changes since an old transaction", "changes", points, FLAT);
        old.batch_execute("ROLLBACK").expect("a transaction can be ended");
    }
}
