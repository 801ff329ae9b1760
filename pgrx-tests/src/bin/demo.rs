//! The main job on real data: two clients follow the packages of one section while others write and the
//! server is killed. One asks for `updated_at > last`, as people do today; the other pulls by cursor.

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
const SHAPE: &str =
    r#"{"tables": {"package": {"columns": ["version", "section"], "where": "section = $1"}}, "params": ["utils"]}"#;
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
    let (today, ours) = thread::scope(|scope| {
        for actor in 0..4 {
            let (cluster, stop, written) = (&cluster, &stop, &written);
            scope.spawn(move || write(cluster, stop, written, Rng::new(7, actor)));
        }
        let today = scope.spawn(|| follow(&cluster, &stop, Today::default()));
        let ours = scope.spawn(|| follow(&cluster, &stop, Ours::default()));
        thread::sleep(RUN / 2);
        println!("-- kill -9 of the server");
        cluster.kill_9();
        cluster.start_again();
        println!("-- the server is back");
        thread::sleep(RUN / 2);
        stop.store(true, Ordering::Relaxed);
        (today.join().expect("a client runs to its end"), ours.join().expect("a client runs to its end"))
    });
    let mut client = cluster.connect();
    let rows = client
        .query(
            "SELECT name, to_jsonb(x)::text FROM (SELECT name, version, section FROM package WHERE section = $1) x",
            &[&SECTION],
        )
        .expect("the truth can be read");
    let truth: Copy = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    println!(
        "\n{} transactions written; {} packages in section {SECTION}",
        written.load(Ordering::Relaxed),
        truth.len()
    );
    compare("updated_at > last", &today, &truth);
    if compare("sync_pull", &ours, &truth) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Copy = BTreeMap<String, String>;

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
             CREATE TABLE maintainer (id int PRIMARY KEY, name text);
             CREATE TABLE package (name text PRIMARY KEY, version text, section text, maintainer int,
                                   updated_at timestamptz DEFAULT now());
             CREATE TABLE dependency (package text, target text, PRIMARY KEY (package, target));
             SELECT sync_track('maintainer'), sync_track('dependency'), sync_track('package', filter_columns => '{section}')",
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
    let sql = match rng.below(10) {
        0..=4 => format!("UPDATE package SET version = '{n}', updated_at = now() WHERE name = {one}"),
        5 => format!("UPDATE package SET section = '{SECTION}', updated_at = now() WHERE name = {one}"),
        6 => format!(
            "UPDATE package SET section = 'moved', updated_at = now() WHERE name = (SELECT name FROM package WHERE section = '{SECTION}' LIMIT 1)"
        ),
        7 => format!(
            "DELETE FROM package WHERE name = (SELECT name FROM package WHERE section = '{SECTION}' OFFSET {} LIMIT 1)",
            n % 50
        ),
        _ => format!("INSERT INTO package VALUES ('new-{n}', '1', '{SECTION}', 1) ON CONFLICT DO NOTHING"),
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
    const NAME: &'static str;
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
                    F::NAME,
                    start.elapsed().as_secs_f64() * 1e3
                );
                if last {
                    return follower.copy();
                }
            }
            Err(_) => println!("{:>18}: no answer, will try again", F::NAME),
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
    const NAME: &'static str = "updated_at > last";

    fn pull(&mut self, client: &mut Client) -> Result<(usize, usize), Error> {
        let sql = "SELECT name, to_jsonb(x)::text, updated_at::text FROM (SELECT name, version, section FROM package) x \
                   JOIN package USING (name) WHERE package.section = $1 \
                   AND updated_at > coalesce($2::text::timestamptz, '-infinity') ORDER BY updated_at";
        let rows = client.query(sql, &[&SECTION, &self.last])?;
        let mut bytes = 0;
        for row in &rows {
            let value: String = row.get(1);
            bytes += value.len();
            self.copy.insert(row.get(0), value);
            self.last = row.get(2);
        }
        Ok((rows.len(), bytes))
    }

    fn copy(self) -> Copy {
        self.copy
    }
}

/// `sync_pull(cursor, shape)`.
#[derive(Default)]
struct Ours {
    copy: Copy,
    cursor: Option<String>,
}

impl Follower for Ours {
    const NAME: &'static str = "sync_pull";

    fn pull(&mut self, client: &mut Client) -> Result<(usize, usize), Error> {
        // The document is taken apart by the server here, so that values keep their bytes.
        let sql = "WITH p AS MATERIALIZED (SELECT sync_pull($1, $2::text::jsonb) AS d) \
                   SELECT 'document', d->>'cursor', NULL, length(d::text) FROM p UNION ALL \
                   SELECT c->>'op', c->'key'->>'name', c->>'value', NULL FROM p, json_array_elements(d->'changes') c";
        let rows = client.query(sql, &[&self.cursor, &SHAPE])?;
        let mut bytes = 0;
        for row in &rows {
            match row.get(0) {
                "document" => (self.cursor, bytes) = (row.get(1), row.get::<_, i32>(3)),
                "reset" => self.copy.clear(),
                "delete" => drop(self.copy.remove(row.get::<_, &str>(1))),
                _ => drop(self.copy.insert(row.get(1), row.get(2))),
            }
        }
        Ok((rows.len() - 1, usize::try_from(bytes).unwrap_or(0)))
    }

    fn copy(self) -> Copy {
        self.copy
    }
}
