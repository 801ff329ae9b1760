//! The main job on real data: two clients follow the packages of one section, all maintainers, and who depends on
//! one package, while others write and the server is killed. One client asks for `updated_at > last`, as
//! people do today; the other pulls by cursor. A third one pulls what a member of maintainers sees: them, their
//! packages and what these depend on, while memberships are granted and revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use postgres::{Client, Error, NoTls};
use syncline_tests::rng::Rng;
use syncline_tests::{Cluster, Install};

const SECTION: &str = "utils";
const TARGET: &str = "python3";
const SHAPE: &str = r#"{"tables": {"package":    {"columns": ["version", "section"], "where": "section = $1"},
                                   "maintainer": {"columns": ["name"]},
                                   "dependency": {"columns": ["target"], "where": "target = $2"}},
                        "params": ["utils", "python3"]}"#;
/// The same shape in plain SQL: relation, key column, value columns, condition.
const PLAIN: [(&str, &str, &str, &str); 3] = [
    ("package", "name", "name, version, section", "section = 'utils'"),
    ("maintainer", "id", "id, name", "true"),
    ("dependency", "package || ' ' || target", "package, target", "target = 'python3'"),
];
const MEMBER: &str = r#"{"tables": {"maintainer": {"columns": ["name"], "where": "id IN (SELECT maintainer FROM member WHERE who = $1)"},
                                    "package":    {"columns": ["version"], "where": "maintainer IN (SELECT maintainer FROM member WHERE who = $1)"},
                                    "dependency": {"columns": ["target"], "where":
                                        "package IN (SELECT name FROM package WHERE maintainer IN (SELECT maintainer FROM member WHERE who = $1))"}},
                         "params": ["ann"]}"#;
const PLAIN_MEMBER: [(&str, &str, &str, &str); 3] = [
    ("maintainer", "id", "id, name", "id IN (SELECT maintainer FROM member WHERE who = 'ann')"),
    ("package", "name", "name, version", "maintainer IN (SELECT maintainer FROM member WHERE who = 'ann')"),
    (
        "dependency",
        "package || ' ' || target",
        "package, target",
        "package IN (SELECT name FROM package WHERE maintainer IN (SELECT maintainer FROM member WHERE who = 'ann'))",
    ),
];
const RUN: Duration = Duration::from_secs(10);

/// The rows of the three tables, in COPY's text format.
#[derive(Default)]
struct Index {
    packages: Vec<String>,
    maintainers: Vec<String>,
    dependencies: Vec<String>,
}

fn main() -> ExitCode {
    let index = debian().unwrap_or_else(|| {
        println!("No Debian package index on this machine: generated packages of the same form are used.");
        generated()
    });
    let install = Install::new();
    let cluster = Cluster::start(&install);
    load(&mut cluster.connect(), &index);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let (today, ours, member) = thread::scope(|scope| {
        for actor in 0..4 {
            let (cluster, stop, written) = (&cluster, &stop, &written);
            scope.spawn(move || write(cluster, stop, written, Rng::new(7, actor)));
        }
        let today = scope.spawn(|| follow(&cluster, &stop, Today::default()));
        let ours = scope.spawn(|| follow(&cluster, &stop, Ours::new("sync_pull", SHAPE)));
        let member = scope.spawn(|| follow(&cluster, &stop, Ours::new("of a member", MEMBER)));
        thread::sleep(RUN / 2);
        println!("-- kill -9 of the server");
        cluster.kill_9();
        cluster.start_again();
        println!("-- the server is back");
        thread::sleep(RUN / 2);
        stop.store(true, Ordering::Relaxed);
        let end = "a client runs to its end";
        (today.join().expect(end), ours.join().expect(end), member.join().expect(end))
    });
    let mut client = cluster.connect();
    let (truth, of_member) = (truth(&mut client, &PLAIN), truth(&mut client, &PLAIN_MEMBER));
    println!(
        "\n{} transactions written; {} rows: packages of section {SECTION}, maintainers, what depends on {TARGET}",
        written.load(Ordering::Relaxed),
        truth.len()
    );
    compare("updated_at > last", &today, &truth);
    let wrong = compare("sync_pull", &ours, &truth);
    println!("{} rows: what a member of maintainers sees, after memberships came and went", of_member.len());
    let wrong = wrong + compare("sync_pull", &member, &of_member);
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a client should hold now.
fn truth(client: &mut Client, tables: &[(&str, &str, &str, &str)]) -> Copy {
    let mut truth = Copy::new();
    for (relation, key, columns, condition) in tables {
        let sql = format!(
            "SELECT ({key})::text, to_jsonb(x)::text FROM (SELECT {columns} FROM {relation} WHERE {condition}) x"
        );
        let rows = client.query(&sql, &[]).expect("the truth can be read");
        truth.extend(rows.iter().map(|row| (((*relation).to_owned(), row.get(0)), row.get(1))));
    }
    truth
}

/// Value by relation and key.
type Copy = BTreeMap<(String, String), String>;

/// Prints and counts what differs.
fn compare(name: &str, copy: &Copy, truth: &Copy) -> usize {
    let lost = truth.keys().filter(|key| !copy.contains_key(*key)).count();
    let ghosts = copy.keys().filter(|key| !truth.contains_key(*key)).count();
    let stale = truth.iter().filter(|(key, value)| copy.get(*key).is_some_and(|held| held != *value)).count();
    println!("{name:>18}: {lost} rows lost, {ghosts} ghosts, {stale} stale");
    lost + ghosts + stale
}

/// The machine's own package index.
fn debian() -> Option<Index> {
    let output = Command::new("apt-cache").arg("dumpavail").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (mut index, mut maintainers, mut seen) = (Index::default(), BTreeMap::new(), BTreeSet::new());
    for paragraph in text.split("\n\n") {
        let field =
            |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(escape);
        let (Some(name), Some(version)) = (field("Package"), field("Version")) else { continue };
        if !seen.insert(name.clone()) {
            continue;
        }
        let next = maintainers.len();
        let maintainer = *maintainers.entry(field("Maintainer").unwrap_or_default()).or_insert(next);
        let section = field("Section").unwrap_or_default();
        index.packages.push(format!("{name}\t{version}\t{section}\t{maintainer}\n"));
        let mut targets = BTreeSet::new();
        for target in field("Depends").unwrap_or_default().split([',', '|']) {
            targets.extend(target.split_whitespace().next().map(str::to_owned));
        }
        index.dependencies.extend(targets.iter().map(|target| format!("{name}\t{target}\n")));
    }
    index.maintainers = maintainers.iter().map(|(name, id)| format!("{id}\t{name}\n")).collect();
    (index.packages.len() > 1000).then_some(index)
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', " ")
}

fn generated() -> Index {
    let sections = ["utils", "libs", "net", "devel", "doc"];
    let row = |n: usize| format!("package-{n}\t1.{}\t{}\t{}\n", n % 90, sections[n % 5], n % 3000);
    Index {
        packages: (0..60_000).map(row).collect(),
        maintainers: (0..3000).map(|n| format!("{n}\tMaintainer {n}\n")).collect(),
        dependencies: (1..60_000).map(|n| format!("package-{n}\tpackage-{}\n", n / 2)).collect(),
    }
}

fn load(client: &mut Client, index: &Index) {
    client
        .batch_execute(
            "CREATE EXTENSION syncline;
             CREATE TABLE maintainer (id int PRIMARY KEY, name text, updated_at timestamptz DEFAULT now());
             CREATE TABLE package (name text PRIMARY KEY, version text, section text, maintainer int,
                                   updated_at timestamptz DEFAULT now());
             CREATE TABLE dependency (package text, target text, updated_at timestamptz DEFAULT now(),
                                      PRIMARY KEY (package, target));
             CREATE TABLE member (who text, maintainer int, PRIMARY KEY (who, maintainer));
             INSERT INTO member SELECT 'ann', g FROM generate_series(0, 19) g;
             CREATE INDEX ON member (maintainer);
             CREATE INDEX ON package (maintainer);
             SELECT sync_track('maintainer'), sync_track('dependency'), sync_track('member', log_inserts => true),
                    sync_track('package', filter_columns => '{section,maintainer}', log_inserts => true)",
        )
        .expect("the tables can be made");
    let tables = [
        ("maintainer (id, name)", &index.maintainers),
        ("package (name, version, section, maintainer)", &index.packages),
        ("dependency (package, target)", &index.dependencies),
    ];
    let bar = ProgressBar::new(tables.iter().map(|(_, rows)| rows.len() as u64).sum());
    bar.set_style(ProgressStyle::with_template("loading {bar:40} {pos}/{len} rows").expect("a valid template"));
    for (table, rows) in tables {
        let mut copy = client.copy_in(&format!("COPY {table} FROM STDIN")).expect("COPY starts");
        for row in rows {
            copy.write_all(row.as_bytes()).expect("COPY takes rows");
            bar.inc(1);
        }
        copy.finish().expect("COPY ends");
    }
    bar.finish();
    client.batch_execute("ANALYZE").expect("the tables can be analysed");
    println!(
        "{} packages, {} maintainers, {} dependencies",
        index.packages.len(),
        index.maintainers.len(),
        index.dependencies.len()
    );
}

/// Writes until told to stop; a lost connection is made again.
fn write(cluster: &Cluster<'_>, stop: &AtomicBool, written: &AtomicU64, mut rng: Rng) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = cluster.config("postgres").connect(NoTls) else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        while !stop.load(Ordering::Relaxed) && change(&mut client, &mut rng).is_ok() {
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn change(client: &mut Client, rng: &mut Rng) -> Result<(), Error> {
    let one = "(SELECT name FROM package TABLESAMPLE SYSTEM (1) LIMIT 1)";
    let n = rng.below(1_000_000);
    let sql = match rng.below(16) {
        0..=4 => format!("UPDATE package SET version = '{n}', updated_at = now() WHERE name = {one}"),
        5 => format!("UPDATE package SET section = '{SECTION}', updated_at = now() WHERE name = {one}"),
        6 => format!(
            "UPDATE package SET section = 'moved', updated_at = now() WHERE name = (SELECT name FROM package WHERE section = '{SECTION}' LIMIT 1)"
        ),
        7 => format!(
            "DELETE FROM package WHERE name = (SELECT name FROM package WHERE section = '{SECTION}' OFFSET {} LIMIT 1)",
            n % 50
        ),
        8..=9 => format!("INSERT INTO package VALUES ('new-{n}', '1', '{SECTION}', 1) ON CONFLICT DO NOTHING"),
        10 => format!("UPDATE maintainer SET name = 'Renamed {n}', updated_at = now() WHERE id = {}", n % 1000),
        11 => format!("INSERT INTO dependency VALUES ('new-{n}', '{TARGET}') ON CONFLICT DO NOTHING"),
        12 => format!(
            "DELETE FROM dependency WHERE target = '{TARGET}' AND package = (SELECT package FROM dependency \
             WHERE target = '{TARGET}' OFFSET {} LIMIT 1)",
            n % 50
        ),
        13 => format!("INSERT INTO member VALUES ('ann', {}) ON CONFLICT DO NOTHING", n % 1000),
        14 => format!(
            "DELETE FROM member WHERE maintainer = (SELECT maintainer FROM member ORDER BY 1 OFFSET {} LIMIT 1)",
            n % 20
        ),
        _ => format!(
            "UPDATE dependency SET target = 'other', updated_at = now() WHERE target = '{TARGET}' AND package = \
             (SELECT package FROM dependency WHERE target = '{TARGET}' LIMIT 1)"
        ),
    };
    let mut transaction = client.transaction()?;
    transaction.batch_execute(&sql)?;
    // Some transactions take their time between the write and the commit, as real ones do.
    thread::sleep(Duration::from_millis(if rng.one_in(20) { 300 } else { 2 }));
    transaction.commit()
}

/// A way to follow.
trait Follower {
    /// One pull: how many rows and bytes came.
    fn pull(&mut self, client: &mut Client) -> Result<(usize, usize), Error>;
    /// What it says in the list of pulls.
    fn name(&self) -> &'static str;
    /// What it holds.
    fn copy(self) -> Copy;
}

/// Pulls four times a second, and once more when the writers have stopped.
fn follow<F: Follower>(cluster: &Cluster<'_>, stop: &AtomicBool, mut follower: F) -> Copy {
    loop {
        let last = stop.load(Ordering::Relaxed);
        if last {
            // Let the last transactions end.
            thread::sleep(Duration::from_millis(600));
        }
        let start = Instant::now();
        let pulled = cluster.config("postgres").connect(NoTls).and_then(|mut client| follower.pull(&mut client));
        match pulled {
            Ok((rows, bytes)) => {
                println!(
                    "{:>18}: {rows:6} rows {bytes:9} bytes {:7.1} ms",
                    follower.name(),
                    start.elapsed().as_secs_f64() * 1e3
                );
                if last {
                    return follower.copy();
                }
            }
            Err(_) => println!("{:>18}: no answer, will try again", follower.name()),
        }
        thread::sleep(Duration::from_millis(250));
    }
}

/// `updated_at > last`.
#[derive(Default)]
struct Today {
    copy: Copy,
    last: Option<String>,
}

impl Follower for Today {
    fn name(&self) -> &'static str {
        "updated_at > last"
    }

    fn pull(&mut self, client: &mut Client) -> Result<(usize, usize), Error> {
        let (mut count, mut bytes, mut newest) = (0, 0, self.last.clone());
        for (relation, key, columns, condition) in PLAIN {
            let sql = format!(
                "SELECT ({key})::text, (to_jsonb(x) - 'updated_at')::text, updated_at::text \
                 FROM (SELECT {columns}, updated_at FROM {relation} WHERE {condition}) x \
                 WHERE updated_at > coalesce($1::text::timestamptz, '-infinity')"
            );
            for row in client.query(&sql, &[&self.last])? {
                let value: String = row.get(1);
                (count, bytes) = (count + 1, bytes + value.len());
                self.copy.insert((relation.to_owned(), row.get(0)), value);
                newest = newest.max(row.get(2));
            }
        }
        self.last = newest;
        Ok((count, bytes))
    }

    fn copy(self) -> Copy {
        self.copy
    }
}

/// `sync_pull(cursor, shape)`.
struct Ours {
    name: &'static str,
    shape: &'static str,
    copy: Copy,
    cursor: Option<String>,
}

impl Ours {
    fn new(name: &'static str, shape: &'static str) -> Self {
        Self { name, shape, copy: Copy::new(), cursor: None }
    }
}

impl Follower for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pull(&mut self, client: &mut Client) -> Result<(usize, usize), Error> {
        // The document is taken apart by the server here, so that values keep their bytes.
        let sql = "WITH p AS MATERIALIZED (SELECT sync_pull($1, $2::text::jsonb, NULL) AS d) \
                   SELECT 'document', d->>'cursor', NULL, length(d::text), NULL FROM p UNION ALL \
                   SELECT c->>'op', c->>'relation', c->>'value', NULL, (SELECT string_agg(v, ' ') FROM json_each_text(c->'key') k(n, v)) \
                   FROM p, json_array_elements(d->'changes') c";
        let rows = client.query(sql, &[&self.cursor, &self.shape])?;
        let mut bytes = 0;
        for row in &rows {
            let place = || (row.get(1), row.get(4));
            match row.get(0) {
                "document" => (self.cursor, bytes) = (row.get(1), row.get::<_, i32>(3)),
                "reset" => self.copy.clear(),
                "delete" => drop(self.copy.remove(&place())),
                _ => drop(self.copy.insert(place(), row.get(2))),
            }
        }
        Ok((rows.len() - 1, usize::try_from(bytes).unwrap_or(0)))
    }

    fn copy(self) -> Copy {
        self.copy
    }
}
