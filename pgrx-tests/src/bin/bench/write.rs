//! What tracking adds to writes, against the same table untracked and against `updated_at` with a trigger and an index.

use std::thread;

use postgres::Statement;
use syncline_tests::rng::Rng;

use super::Bench;
use super::measure::{Cost, Session, cost, in_turns, pin_thread};
use super::report::{Against, Goals};

/// How a table is followed.
#[derive(Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    setup: &'static str,
}

pub const UNTRACKED: Way = Way { name: "untracked", setup: "" };

/// What people do today. The column's default does for inserts; deletes are not seen.
pub const TODAY: Way = Way {
    name: "updated_at + trigger + btree",
    setup: "ALTER TABLE $t ADD updated_at timestamptz NOT NULL DEFAULT now();
            CREATE INDEX ON $t (updated_at);
            CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';
            CREATE TRIGGER touch BEFORE UPDATE ON $t FOR EACH ROW EXECUTE FUNCTION touch();",
};

pub const OURS: Way = Way { name: "tracked", setup: "SELECT sync_track('$t', '{project}');" };

/// The order in which a measurement's costs come.
pub const WAYS: [Way; 3] = [UNTRACKED, TODAY, OURS];

/// Rows of about 200 bytes.
const TABLE: &str =
    "CREATE TABLE $t (id int PRIMARY KEY, project int NOT NULL, owner int NOT NULL, state text NOT NULL,
    title text NOT NULL, body text NOT NULL);";

pub const ROWS: &str =
    "SELECT g, g % 1000, g % 777, 'open', 'title of row ' || g, repeat(md5(g::text), 4) FROM generate_series(1, $n) g";

const INDEXES: &str = "CREATE INDEX ON $t (project); CREATE INDEX ON $t (owner); CREATE INDEX ON $t (title);";

/// A table and the sessions that write to it.
pub struct Subject {
    pub table: String,
    pub sessions: Vec<Session>,
    update: Vec<Statement>,
    insert: Vec<Statement>,
    rows: i32,
    rng: Rng,
}

impl Subject {
    /// Random rows updated in a column that nobody filters by, each in a transaction of its own.
    pub fn update(&mut self, bench: &mut Bench<'_>, clients: usize, operations: usize) -> Cost {
        let ids = (0..operations).map(|_| 1 + self.rng.below(self.rows as u32) as i32).collect();
        let statements = &self.update;
        write(bench, &mut self.sessions[..clients], statements, ids)
    }

    /// Rows inserted, each in a transaction of its own.
    fn insert(&mut self, bench: &mut Bench<'_>, clients: usize, operations: usize) -> Cost {
        let ids: Vec<i32> = (self.rows + 1..).take(operations).collect();
        self.rows += i32::try_from(operations).expect("few");
        let statements = &self.insert;
        write(bench, &mut self.sessions[..clients], statements, ids)
    }
}

/// Shares out the rows among the sessions, which write them at the same time.
fn write(bench: &mut Bench<'_>, sessions: &mut [Session], statements: &[Statement], ids: Vec<i32>) -> Cost {
    let share = ids.len().div_ceil(sessions.len());
    // No row gets the body that it has: such an update would be none.
    let bodies: Vec<String> = ids.iter().map(|id| format!("{:064x}{id:064}", bench.next())).collect();
    cost(&mut bench.client, sessions, ids.len(), |sessions| {
        thread::scope(|scope| {
            let shares = ids.chunks(share).zip(bodies.chunks(share));
            for (place, ((session, statement), (ids, bodies))) in
                (0..).zip(sessions.iter_mut().zip(statements).zip(shares))
            {
                scope.spawn(move || {
                    pin_thread(place);
                    for (id, body) in ids.iter().zip(bodies) {
                        session.client.execute(statement, &[id, body]).expect("a row can be written");
                    }
                });
            }
        });
    })
}

impl Bench<'_> {
    /// Rows one by one, and many in a statement.
    pub fn write(&mut self) {
        for indexes in [0, 3] {
            self.single_rows(indexes);
        }
        self.bulk();
    }

    /// A table that has been lived in: there is some room in each page.
    pub fn subject(&mut self, table: &str, way: Way, indexes: u32) -> Subject {
        let rows: i32 = if self.quick { 50_000 } else { 200_000 };
        self.make(table, way, if indexes == 0 { "" } else { INDEXES }, rows);
        self.client
            .batch_execute(&format!("UPDATE {table} SET body = upper(body) WHERE id % 8 = 0"))
            .expect("rows move");
        self.client.batch_execute(&format!("VACUUM ANALYZE {table}")).expect("the table can be vacuumed");
        let mut sessions: Vec<Session> = (0..4).map(|_| self.lazy_session()).collect();
        // Client and backend take turns. Were each alone on a core, that would fall asleep and wake up for each row, which costs
        // more than the row, now and then.
        for (place, session) in (0..).zip(&sessions) {
            session.pin(place);
        }
        let mut prepare = |sql: String| {
            let prepared = sessions.iter_mut().map(|session| session.client.prepare(&sql).expect("it can be prepared"));
            prepared.collect()
        };
        let update = prepare(format!("UPDATE {table} SET body = $2 WHERE id = $1"));
        let insert = prepare(format!(
            "INSERT INTO {table} (id, project, owner, state, title, body) \
             VALUES ($1, $1 % 1000, $1 % 777, 'open', 'title of row ' || $1, $2)"
        ));
        Subject { table: table.to_owned(), sessions, update, insert, rows, rng: Rng::new(7, 0) }
    }

    pub fn make(&mut self, table: &str, way: Way, indexes: &str, rows: i32) {
        let load = ROWS.replace("$n", &rows.to_string());
        let sql = format!("{TABLE} INSERT INTO $t {load}; {indexes} {}", way.setup);
        self.client.batch_execute(&sql.replace("$t", table)).expect("the table can be loaded");
    }

    /// One whose commits do not wait for the disk: that would hide the rest.
    pub fn lazy_session(&self) -> Session {
        let mut client = self.connect();
        client.batch_execute("SET synchronous_commit = off").expect("a setting");
        Session::new(client)
    }

    fn single_rows(&mut self, indexes: u32) {
        let mut subjects: Vec<Subject> =
            (0..).zip(WAYS).map(|(n, way)| self.subject(&format!("single_{indexes}_{n}"), way, indexes)).collect();
        self.client.batch_execute("CHECKPOINT").expect("a checkpoint");
        let before = self.counts(&mut subjects);
        for clients in [1, 4] {
            let costs = self.slices(&mut subjects, clients, Subject::update);
            self.note(&format!("UPDATE, {}, {indexes} more indexes", of(clients)), &costs);
        }
        self.hot(&mut subjects, indexes, &before);
        self.full_page_images(&mut subjects, indexes);
        for clients in [1, 4] {
            let costs = self.slices(&mut subjects, clients, Subject::insert);
            self.note(&format!("INSERT, {}, {indexes} more indexes", of(clients)), &costs);
        }
    }

    /// Slices of all subjects in turns, after one that nobody counts.
    pub fn slices(
        &mut self,
        subjects: &mut [Subject],
        clients: usize,
        slice: fn(&mut Subject, &mut Bench<'_>, usize, usize) -> Cost,
    ) -> Vec<Vec<Cost>> {
        let (turns, operations) = if self.quick { (11, 400) } else { (25, 2_000) };
        let mut costs = in_turns(turns + 1, subjects, |subject| slice(subject, self, clients, operations));
        for costs in &mut costs {
            costs.remove(0);
        }
        costs
    }

    fn note(&mut self, name: &str, costs: &[Vec<Cost>]) {
        let [untracked, today, ours] = costs else { panic!("three ways were measured") };
        let goal = Goals { wall: None, cpu: Some(1.15), wal: Some(1.15) };
        self.report.costs("write", name, Against(UNTRACKED.name), ours, untracked, goal);
        let goal = Goals { wall: None, cpu: Some(1.0), wal: Some(1.0) };
        self.report.costs("write", name, Against(TODAY.name), ours, today, goal);
    }

    /// Of each table: updates, those that left the indexes alone, bytes of all indexes.
    fn counts(&mut self, subjects: &mut [Subject]) -> Vec<[f64; 3]> {
        let sessions = subjects.iter_mut().flat_map(|subject| &mut subject.sessions);
        for client in sessions.map(|session| &mut session.client).chain([&mut self.client]) {
            client.batch_execute("SELECT pg_stat_force_next_flush()").expect("a backend tells what it did");
        }
        let sql = "SELECT n_tup_upd::float8, n_tup_hot_upd::float8, pg_indexes_size(relid)::float8 \
                   FROM pg_stat_user_tables WHERE relid = $1::text::regclass";
        let mut count = |subject: &Subject| {
            let row = self.client.query_one(sql, &[&subject.table]).expect("the server counts updates");
            [row.get(0), row.get(1), row.get(2)]
        };
        subjects.iter().map(&mut count).collect()
    }

    /// The share of the updates that had to touch the indexes, and what became of these.
    fn hot(&mut self, subjects: &mut [Subject], indexes: u32, before: &[[f64; 3]]) {
        let after = self.counts(subjects);
        let (mut cold, mut growth) = (Vec::new(), Vec::new());
        for (after, before) in after.iter().zip(before) {
            let [updates, hot, bytes] = [0, 1, 2].map(|n| after[n] - before[n]);
            cold.push(100.0 * (1.0 - hot / updates));
            growth.push(bytes / updates);
        }
        for (n, goal) in [(0, None), (1, Some(1.0))] {
            let name = format!("updates that were not HOT, {indexes} more indexes, against {}", WAYS[n].name);
            self.report.ratio("write", &name, "%", &cold[2..], &cold[n..=n], goal);
            let name = format!("index growth per 1M updates, {indexes} more indexes, against {}", WAYS[n].name);
            self.report.ratio("write", &name, "MB", &growth[2..], &growth[n..=n], goal);
        }
    }

    /// Right after a checkpoint the log has the whole page of each first change.
    fn full_page_images(&mut self, subjects: &mut [Subject], indexes: u32) {
        self.set_full_page_writes("on");
        let costs = in_turns(3, subjects, |subject| {
            self.client.batch_execute("CHECKPOINT").expect("a checkpoint");
            subject.update(self, 1, 500)
        });
        self.set_full_page_writes("off");
        let wal = |costs: &[Cost]| costs.iter().map(|cost| cost.wal).collect::<Vec<f64>>();
        for n in [0, 1] {
            let name = format!("UPDATE after a checkpoint, {indexes} more indexes, against {}: WAL", WAYS[n].name);
            self.report.ratio("write", &name, "B", &wal(&costs[2]), &wal(&costs[n]), None);
        }
    }

    fn set_full_page_writes(&mut self, value: &str) {
        let sql = format!("ALTER SYSTEM SET full_page_writes = {value}");
        self.client.batch_execute(&sql).expect("a superuser may");
        self.client.batch_execute("SELECT pg_reload_conf()").expect("a superuser may");
        self.cluster.wait_until(&format!("SELECT current_setting('full_page_writes') = '{value}'"));
    }
}

pub fn of(clients: usize) -> String {
    if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") }
}
