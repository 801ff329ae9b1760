//! The oracle: writers write, clients pull, and after every pull a client's copy must be the shape's rows in
//! the very snapshot of the pull.
//!
//! Half of the pulls compute the truth in the statement that pulls: only that catches a second
//! snapshot. The others pull in a REPEATABLE READ transaction whose snapshot may be old by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Row};
use syncline_delta::digest::Digest;

use crate::rng::Rng;
use crate::{Cluster, Install};

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Pulls that answered.
    pub pulls: u64,
    /// Of them, on the standby.
    pub standby: u64,
    /// Pulls that began with a reset.
    pub resets: u64,
    /// Pulls told to try again.
    pub retries: u64,
    /// Rows that left.
    pub deletes: u64,
    /// Rows that came or changed.
    pub upserts: u64,
    /// Transactions written.
    pub writes: u64,
}

/// Counters that all threads share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    counts: [AtomicU64; 7],
    violation: Mutex<Option<String>>,
}

impl Shared {
    fn count(&self, what: usize, by: u64) {
        self.counts[what].fetch_add(by, Ordering::Relaxed);
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, text: String) {
        self.violation.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(text);
        self.stop.store(true, Ordering::Relaxed);
    }
}

const SETUP: &str = "
    CREATE EXTENSION syncline;
    CREATE TABLE issues (id int PRIMARY KEY, project_id int, state text, title text);
    CREATE TABLE items (id int, region int, state text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE items_0 PARTITION OF items FOR VALUES IN (0);
    CREATE TABLE items_1 (note text, region int NOT NULL, gone int, id int NOT NULL, state text);
    ALTER TABLE items_1 DROP COLUMN gone;
    ALTER TABLE items ATTACH PARTITION items_1 FOR VALUES IN (1);
    SELECT sync_track('issues', filter_columns => '{project_id,state}');
    SELECT sync_track('items', filter_columns => '{state}');
    INSERT INTO issues SELECT g, g % 4, 'open', 'title' FROM generate_series(0, 30) g;
    INSERT INTO items SELECT g, g % 2, 'open', 'note' FROM generate_series(0, 15) g;";

/// Runs writers and clients for `length`; an error is the first difference between a copy and the truth.
pub fn run(install: &Install, seed: u64, length: Duration, mutant: Option<&str>) -> Result<Report, String> {
    let primary = Cluster::start(install);
    let mut admin = primary.connect();
    if let Some(name) = mutant {
        admin.batch_execute(&format!("ALTER DATABASE postgres SET syncline.mutant = '{name}'")).unwrap();
    }
    let mut admin = primary.connect();
    admin.batch_execute(SETUP).expect("the tables can be tracked");
    let standby = primary.standby();
    let shared = Shared::default();
    thread::scope(|scope| {
        for actor in 0..6 {
            let (shared, primary) = (&shared, &primary);
            scope.spawn(move || write(shared, primary, Rng::new(seed, actor), actor));
        }
        for actor in 6..12 {
            let (shared, primary, standby) = (&shared, &primary, &standby);
            scope.spawn(move || follow(shared, primary, standby, Rng::new(seed, actor)));
        }
        let end = Instant::now() + length;
        while shared.running() && Instant::now() < end {
            thread::sleep(Duration::from_millis(150));
            if let Err(error) = admin.execute("SELECT sync_prune('400 ms')", &[]) {
                shared.fail(format!("sync_prune failed: {error:?}"));
            }
        }
        shared.stop.store(true, Ordering::Relaxed);
    });
    for (name, server) in [("primary", &primary), ("standby", &standby)] {
        let log = server.log();
        if let Some(line) = log.lines().find(|line| line.contains("PANIC:") || line.contains("terminated by signal")) {
            return Err(format!("{name}: {line}"));
        }
    }
    if let Some(text) = shared.violation.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(format!("seed {seed}: {text}"));
    }
    let [pulls, standby, resets, retries, deletes, upserts, writes] = shared.counts.map(AtomicU64::into_inner);
    Ok(Report { pulls, standby, resets, retries, deletes, upserts, writes })
}

fn write(shared: &Shared, primary: &Cluster<'_>, mut rng: Rng, actor: u64) {
    let mut client = primary.connect();
    client.batch_execute("SET lock_timeout = '300 ms'; SET deadlock_timeout = '20 ms'").unwrap();
    let mut count = 0;
    while shared.running() {
        count += 1;
        let level = rng.pick(&["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
        let mut sql = format!("BEGIN ISOLATION LEVEL {level};");
        for _ in 0..=rng.below(4) {
            sql.push_str(&statement(&mut rng));
        }
        // Errors of writers (conflicts, deadlocks, unique keys) are the users' everyday.
        let written = client.batch_execute(&sql);
        if rng.one_in(6) {
            let longest = if rng.one_in(10) { 700 } else { 30 };
            thread::sleep(Duration::from_millis(u64::from(rng.below(longest))));
        }
        let ended = if written.is_err() {
            client.batch_execute("ROLLBACK")
        } else if rng.one_in(8) {
            let name = format!("w{actor}_{count}");
            let prepared = client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"));
            thread::sleep(Duration::from_millis(u64::from(rng.below(60))));
            let verb = if rng.one_in(4) { "ROLLBACK" } else { "COMMIT" };
            prepared.and_then(|()| client.batch_execute(&format!("{verb} PREPARED '{name}'")))
        } else {
            client.batch_execute(if rng.one_in(7) { "ROLLBACK" } else { "COMMIT" })
        };
        if ended.is_ok() {
            shared.count(6, 1);
        }
    }
}

fn statement(rng: &mut Rng) -> String {
    let (id, other) = (rng.below(40), rng.below(40));
    let state = rng.pick(&["'open'", "'todo'", "'done'", "NULL"]);
    let (item, region, project) = (rng.below(20), rng.below(2), rng.below(4));
    match rng.below(100) {
        0..=14 => format!("INSERT INTO issues VALUES ({id}, {project}, {state}, 'new') ON CONFLICT DO NOTHING;"),
        15..=24 => format!("UPDATE issues SET title = 't{other}' WHERE id = {id};"),
        25..=36 => format!("UPDATE issues SET project_id = {project} WHERE id = {id};"),
        37..=44 => format!("UPDATE issues SET state = {state} WHERE id BETWEEN {id} AND {id} + 3;"),
        45..=54 => format!("DELETE FROM issues WHERE id = {id};"),
        55..=62 => format!("UPDATE issues SET id = {other} WHERE id = {id};"),
        63..=67 => {
            format!("DELETE FROM issues WHERE id = {id}; INSERT INTO issues VALUES ({id}, {project}, {state}, 're');")
        }
        68..=72 => format!(
            "SAVEPOINT s; UPDATE issues SET project_id = {project} WHERE id = {id}; ROLLBACK TO s; \
             UPDATE issues SET state = {state} WHERE id = {id};"
        ),
        73..=76 => format!(
            "INSERT INTO issues VALUES ({id}, {project}, {state}, 'up') \
             ON CONFLICT (id) DO UPDATE SET project_id = excluded.project_id, title = 'up';"
        ),
        77..=83 => format!("INSERT INTO items VALUES ({item}, {region}, {state}, 'n') ON CONFLICT DO NOTHING;"),
        84..=89 => format!("UPDATE items SET state = {state}, region = {region} WHERE id = {item};"),
        90..=94 => format!("DELETE FROM items WHERE id = {item} AND region = {region};"),
        95..=97 => format!("UPDATE items SET note = 'm{other}' WHERE id = {item};"),
        98 if rng.one_in(12) => (*rng.pick(&["TRUNCATE issues;", "TRUNCATE items_1;", "TRUNCATE items;"])).to_owned(),
        _ if rng.one_in(30) => format!("ALTER TABLE issues ADD COLUMN c{other}_{} int;", rng.below(100_000)),
        _ => "SELECT 1;".to_owned(),
    }
}

/// A shape, and the truth about it in hand-written SQL.
struct Followed {
    shape: String,
    truth: Vec<(&'static str, String)>,
}

fn shape(rng: &mut Rng) -> Followed {
    let issues = [
        ("project_id = 2", "project_id = 2"),
        ("state IN ('open', 'todo')", "state IN ('open','todo')"),
        ("project_id <> 2 AND NOT state = 'done'", "project_id <> 2 AND NOT state = 'done'"),
        ("state IS NULL OR project_id > 1", "state IS NULL OR project_id > 1"),
        ("id BETWEEN 5 AND 25", "id BETWEEN 5 AND 25"),
        ("state LIKE 'o%' OR state IS DISTINCT FROM 'open'", "true"),
        ("TRUE", "true"),
    ];
    let items =
        [("state = 'open'", "state = 'open'"), ("region = 1", "region = 1"), ("NOT state = 'todo'", "state <> 'todo'")];
    let (issue, item) = (*rng.pick(&issues), *rng.pick(&items));
    let (mut tables, mut truth) = (Vec::new(), Vec::new());
    let both = rng.below(3);
    if both != 1 {
        tables.push(format!(r#""issues": {{"columns": ["title", "state"], "where": "{}"}}"#, issue.0));
        truth.push(("issues", format!("SELECT id, title, state FROM issues WHERE {}", issue.1)));
    }
    if both != 0 {
        tables.push(format!(r#""items": {{"where": "{}"}}"#, item.0));
        truth.push(("items", format!("SELECT id, region, state, note FROM items WHERE {}", item.1)));
    }
    Followed { shape: format!(r#"{{"tables": {{{}}}}}"#, tables.join(", ")), truth }
}

type Copy = BTreeMap<(String, String), String>;

const PULL: &str = "SELECT op, relation, key::text, value::text, cursor FROM sync_changes($1::text, $2::text::jsonb)";

fn follow(shared: &Shared, primary: &Cluster<'_>, standby: &Cluster<'_>, mut rng: Rng) {
    let mut clients = [primary.connect(), standby.connect()];
    let mut followed = shape(&mut rng);
    let (mut copy, mut cursor) = (Copy::new(), None::<String>);
    let mut past: Vec<(Copy, Option<String>)> = Vec::new();
    while shared.running() {
        if rng.one_in(60) {
            followed = shape(&mut rng);
            past.clear();
            // The cursor of another shape is part of the test: it must reset.
            if rng.one_in(2) {
                (copy, cursor) = (Copy::new(), None);
            }
        }
        if rng.one_in(5) && !past.is_empty() {
            (copy, cursor) = past[rng.below(past.len() as u32) as usize].clone();
        }
        let server = usize::from(rng.one_in(3));
        let together = rng.one_in(2);
        let pulled = if together {
            pull_with_truth(&mut clients[server], &followed, cursor.as_deref())
        } else {
            pull_in_snapshot(&mut clients[server], &followed, cursor.as_deref(), &mut rng)
        };
        match pulled {
            Ok((rows, truth)) => {
                shared.count(0, 1);
                shared.count(1, server as u64);
                let before = copy.clone();
                cursor = apply(shared, &mut copy, &rows);
                if let Some(difference) = difference(&copy, &truth) {
                    let delta: Vec<_> = rows.iter().map(|r| (op(r), r.get::<_, Option<String>>(2))).collect();
                    return shared.fail(format!(
                        "server {server}, together {together}, shape {}: {difference}\nbefore {before:?}\ndelta {delta:?}",
                        followed.shape
                    ));
                }
                past.push((copy.clone(), cursor.clone()));
                if past.len() > 40 {
                    past.remove(0);
                }
            }
            Err(error) => {
                let _ = clients[server].batch_execute("ROLLBACK");
                match error.code().map(|code| code.code()) {
                    // Retry; deadlock; a lock not to be had; a recovery conflict.
                    Some("40001" | "40P01" | "55P03" | "57014") => shared.count(3, 1),
                    _ => return shared.fail(format!("shape {}: {error:?}", followed.shape)),
                }
            }
        }
    }
}

fn op(row: &Row) -> String {
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

type Pulled = (Vec<Row>, Vec<Row>);

fn truth_sql(followed: &Followed) -> String {
    let parts: Vec<String> = followed
        .truth
        .iter()
        .map(|(name, sql)| format!("SELECT 'truth', '{name}', NULL, to_jsonb(x)::text, NULL FROM ({sql}) x"))
        .collect();
    let shape = followed.shape.replace('\'', "''");
    format!(
        "{} UNION ALL SELECT 'digest', d.rows::text, d.hash, NULL, NULL FROM sync_digest('{shape}') d",
        parts.join(" UNION ALL ")
    )
}

fn split(rows: Vec<Row>) -> Pulled {
    rows.into_iter().partition(|row| !matches!(op(row).as_str(), "truth" | "digest"))
}

fn pull_with_truth(client: &mut Client, followed: &Followed, since: Option<&str>) -> Result<Pulled, postgres::Error> {
    let sql = format!("{PULL} UNION ALL {}", truth_sql(followed));
    Ok(split(client.query(&sql, &[&since, &followed.shape])?))
}

fn pull_in_snapshot(
    client: &mut Client,
    followed: &Followed,
    since: Option<&str>,
    rng: &mut Rng,
) -> Result<Pulled, postgres::Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    if rng.one_in(3) {
        thread::sleep(Duration::from_millis(u64::from(rng.below(40))));
    }
    let rows = client.query(PULL, &[&since, &followed.shape])?;
    let truth = client.query(&truth_sql(followed), &[])?;
    client.batch_execute("COMMIT")?;
    Ok((rows, truth))
}

/// Applies a delta as any client does; returns the new cursor.
fn apply(shared: &Shared, copy: &mut Copy, rows: &[Row]) -> Option<String> {
    let mut cursor = None;
    let key = |row: &Row| {
        (row.get::<_, Option<String>>(1).unwrap_or_default(), row.get::<_, Option<String>>(2).unwrap_or_default())
    };
    for row in rows {
        match op(row).as_str() {
            "reset" => {
                shared.count(2, 1);
                copy.clear();
            }
            "delete" => {
                shared.count(4, 1);
                copy.remove(&key(row));
            }
            "upsert" => {
                shared.count(5, 1);
                copy.insert(key(row), row.get::<_, Option<String>>(3).unwrap_or_default());
            }
            _ => cursor = row.get(4),
        }
    }
    cursor
}

fn difference(copy: &Copy, truth: &[Row]) -> Option<String> {
    let mut digest = Digest::default();
    for ((relation, key), value) in copy {
        digest.add(relation, key.as_bytes(), value.as_bytes());
    }
    let held: BTreeSet<(String, String)> =
        copy.iter().map(|((relation, _), value)| (relation.clone(), value.clone())).collect();
    let mut rows = BTreeSet::new();
    for row in truth {
        let second = row.get::<_, Option<String>>(1).unwrap_or_default();
        if op(row) == "truth" {
            rows.insert((second, row.get::<_, Option<String>>(3).unwrap_or_default()));
        } else if second != digest.rows.to_string() || row.get::<_, Option<String>>(2) != Some(digest.hex()) {
            return Some(format!("sync_digest says {second} rows, the copy has {}, or the hash differs", digest.rows));
        }
    }
    let (ghosts, lost): (Vec<_>, Vec<_>) = (held.difference(&rows).collect(), rows.difference(&held).collect());
    (!ghosts.is_empty() || !lost.is_empty()).then(|| format!("ghosts {ghosts:?}, lost {lost:?}"))
}
