//! A server in a folder of its own, on a unix socket only, stopped by its own pid.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};

use crate::Install;
use crate::install::{as_server, give, is_root, repository, scratch};

/// What a cluster starts with unless the caller says otherwise. fsync is off: a test kills processes, not machines.
const SETTINGS: [(&str, &str); 5] = [
    ("listen_addresses", "''"),
    ("wal_level", "logical"),
    ("max_prepared_transactions", "20"),
    ("max_connections", "60"),
    ("fsync", "off"),
];

/// How all clusters are made.
const INITDB: [&str; 8] = ["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"];

/// How long a standby or a killed server may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running, stopped or killed server; its folder is removed with it.
pub struct Cluster<'a> {
    install: &'a Install,
    folder: PathBuf,
    is_running: AtomicBool,
}

/// pg_ctl's server keeps pipes open: its output goes to the log file alone.
fn run(mut command: Command, log: &Path) {
    let output = fs::OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
    let errors = output.try_clone().expect("the log can be written");
    let status = command.stdout(Stdio::from(output)).stderr(Stdio::from(errors)).status();
    let succeeded = status.as_ref().is_ok_and(|status| status.success());
    assert!(succeeded, "{command:?}: {status:?}\n{}", fs::read_to_string(log).unwrap_or_default());
}

/// A data folder that `initdb` made for this server, kept below `target/`: it takes ten times as long to make one as to copy it.
fn template(install: &Install) -> PathBuf {
    let mut key = DefaultHasher::new();
    (install.identity(), INITDB, is_root()).hash(&mut key);
    let kept = repository().join(format!("target/clusters/{:016x}", key.finish()));
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock();
    if !kept.exists() {
        let fresh = Cluster::new(install, "template");
        fresh.initialize();
        let copy = kept.with_extension(std::process::id().to_string());
        fs::create_dir_all(repository().join("target/clusters")).expect("a folder can be made");
        copy_all(&fresh.data(), &copy);
        // Another program may have been faster.
        if fs::rename(&copy, &kept).is_err() {
            fs::remove_dir_all(&copy).expect("the copy is ours");
        }
    }
    kept
}

/// With owners and modes.
fn copy_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot copy {} to {}", from.display(), to.display());
}

/// Whether a server has a setting.
fn describes(postgres: &Path, setting: &str) -> bool {
    let output = as_server(postgres).arg("--describe-config").output().expect("the server describes its settings");
    String::from_utf8_lossy(&output.stdout).lines().any(|line| line.split('\t').next() == Some(setting))
}

/// Whether a process runs; one that nobody has waited for yet does not.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// State and parent of a process. Its name, in parentheses before them, may contain anything.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn processes() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").expect("/proc can be read");
    processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// SIGKILL to each of these processes that is still there.
pub fn kill_9(pids: &[u32]) {
    signal("KILL", pids);
}

fn signal(name: &str, pids: &[u32]) {
    // The shell's own kill: a bare Debian has no other.
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$@\"", "sh", name]).args(pids.iter().map(u32::to_string));
    command.stderr(Stdio::null()).status().expect("the shell runs");
}

/// Processes that stand still until this is dropped.
pub struct Stopped(Vec<u32>);

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", &self.0);
    }
}

impl<'a> Cluster<'a> {
    /// A fresh cluster with database `postgres`.
    pub fn start(install: &'a Install) -> Self {
        Self::start_with(install, &[])
    }

    /// A fresh cluster; `settings` as in postgresql.conf, over ours.
    pub fn start_with(install: &'a Install, settings: &[(&str, &str)]) -> Self {
        let cluster = Self::made(install, settings);
        cluster.start_again();
        cluster.check_private();
        cluster
    }

    /// A fresh cluster that shares nothing with others: those of [`start`](Self::start) are copies of one, with one system
    /// identifier.
    pub fn start_unrelated(install: &'a Install) -> Self {
        let cluster = Self::new(install, "cluster");
        cluster.initialize();
        cluster.configure(&[]);
        cluster.start_again();
        cluster
    }

    /// A copy of what `initdb` makes, and settings.
    fn made(install: &'a Install, settings: &[(&str, &str)]) -> Self {
        let cluster = Self::new(install, "cluster");
        copy_all(&template(install), &cluster.data());
        cluster.configure(settings);
        cluster
    }

    fn initialize(&self) {
        let mut initdb = as_server(&self.install.program("initdb"));
        initdb.args(INITDB);
        if self.install.major() >= 18 {
            // As before 18: pg_upgrade wants both clusters alike.
            initdb.arg("--no-data-checksums");
        }
        initdb.arg("-D").arg(self.data());
        run(initdb, &self.log_path());
    }

    fn configure(&self, settings: &[(&str, &str)]) {
        let file = self.data().join("postgresql.conf");
        let mut text = fs::read_to_string(&file).expect("initdb wrote its configuration");
        for (name, value) in SETTINGS.iter().chain(settings) {
            text.push_str(&format!("{name} = {value}\n"));
        }
        // Newer minor versions let only named libraries decode; older ones do not start with a setting that they do not know.
        if describes(&self.install.program("postgres"), "output_plugin_libraries") {
            text.push_str("output_plugin_libraries = 'pgoutput, test_decoding, syncline'\n");
        }
        fs::write(&file, text).expect("the configuration can be written");
    }

    fn new(install: &'a Install, what: &str) -> Self {
        let cluster = Self { install, folder: scratch(what), is_running: AtomicBool::new(false) };
        fs::write(cluster.log_path(), "").expect("the folder is ours");
        cluster
    }

    /// The server must have found its own folders, not the system's.
    fn check_private(&self) {
        let sql = "SELECT setting FROM pg_config WHERE name IN ('SHAREDIR', 'PKGLIBDIR')";
        for row in self.connect().query(sql, &[]).expect("the server answers") {
            let path: String = row.get(0);
            assert!(Path::new(&path).starts_with(self.install.root()), "the server uses {path}, which is not its own");
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = as_server(&self.install.program("pg_ctl"));
        command.args(["-w", "-t", "60", "-l"]).arg(self.log_path()).arg("-D").arg(self.data()).args(arguments);
        run(command, &self.log_path());
    }

    /// Starts a server that was stopped or killed.
    pub fn start_again(&self) {
        give(&self.log_path());
        self.control(&["-o", &format!("-k {} -p 5432", self.folder.display()), "start"]);
        self.is_running.store(true, Ordering::Relaxed);
    }

    /// Stops it as an administrator would.
    pub fn stop(&self) {
        self.control(&["-m", "fast", "stop"]);
        self.is_running.store(false, Ordering::Relaxed);
    }

    /// The pid of the postmaster.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).expect("the server runs");
        text.lines().next().and_then(|line| line.parse().ok()).expect("the file begins with the pid")
    }

    /// Every process of a server lives in its data folder, those too that were forked a moment ago.
    fn is_inhabited_by(&self, pid: u32) -> bool {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == self.data())
    }

    /// Whether it has not ended by itself.
    pub fn has_postmaster(&self) -> bool {
        self.data().join("postmaster.pid").exists()
    }

    /// The processes of this server but the postmaster.
    pub fn children(&self) -> Vec<u32> {
        let parent = self.pid();
        processes().filter(|&pid| stat(pid).is_some_and(|(_, of)| of == parent)).collect()
    }

    /// Stops all its processes where they are.
    pub fn stopped(&self) -> Stopped {
        let mut family = self.children();
        family.insert(0, self.pid());
        signal("STOP", &family);
        Stopped(family)
    }

    /// SIGKILL to the postmaster, by its own pid; returns when it and its children are gone.
    pub fn kill_9(&self) {
        kill_9(&[self.pid()]);
        self.bury();
    }

    /// SIGKILL to the postmaster and all its children at once, before any of them notices.
    pub fn kill_9_all(&self) {
        let mut family = self.children();
        family.insert(0, self.pid());
        kill_9(&family);
        // One that was forked a moment ago may wait for ever for a lock that another one took along.
        kill_9(&processes().filter(|&pid| self.is_inhabited_by(pid)).collect::<Vec<_>>());
        self.bury();
    }

    /// Waits until no process of a killed server is left.
    fn bury(&self) {
        self.is_running.store(false, Ordering::Relaxed);
        let start = Instant::now();
        while processes().any(|pid| self.is_inhabited_by(pid)) {
            assert!(start.elapsed() < PATIENCE, "children outlive their postmaster");
            sleep(Duration::from_millis(10));
        }
        // Where nobody waits for orphans the pid stays taken by a zombie, and would keep the server from starting.
        for lock in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
            let _ = fs::remove_file(self.folder.join(lock));
        }
    }

    /// Has the next transaction get id `to`, or one soon after, as if all before it had run and ended. All rows are frozen.
    pub fn move_xid(&self, to: u64) {
        // Nobody is let further than 2^31 from the oldest id that is not frozen.
        const LEG: u64 = 2_000_000_000;
        loop {
            let next = self.next_xid();
            if next >= to {
                return;
            }
            self.freeze();
            self.stop();
            self.reset_xid(to.min(next + LEG));
            self.start_again();
        }
    }

    /// The id that the next transaction gets.
    pub fn next_xid(&self) -> u64 {
        let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let text: String = self.connect().query_one(sql, &[]).expect("the server answers").get(0);
        text.parse().expect("an id is a number")
    }

    fn freeze(&self) {
        let mut admin = self.connect();
        admin.batch_execute("UPDATE pg_database SET datallowconn = true").expect("a superuser may");
        let names = admin.query("SELECT datname FROM pg_database", &[]).expect("the server answers");
        for name in names {
            self.connect_to(name.get(0)).batch_execute("VACUUM FREEZE").expect("nobody holds old rows");
        }
    }

    /// pg_resetwal wants the status of the transactions around the id to be there: nobody has run, so none is set.
    fn reset_xid(&self, xid: u64) {
        const XIDS_PER_SEGMENT: u64 = 1 << 20;
        let (epoch, low) = (xid >> 32, xid & 0xffff_ffff);
        let segment = self.data().join("pg_xact").join(format!("{:04X}", low / XIDS_PER_SEGMENT));
        if !segment.exists() {
            fs::write(&segment, vec![0; XIDS_PER_SEGMENT as usize / 4]).expect("the segment can be written");
            give(&segment);
        }
        let mut command = as_server(&self.install.program("pg_resetwal"));
        command.args(["-e", &epoch.to_string(), "-x", &low.to_string(), "-D"]).arg(self.data());
        run(command, &self.log_path());
    }

    /// A hot standby that streams from this server, with the same settings.
    pub fn standby(&self) -> Self {
        let standby = self.backup("standby", &["-R"]);
        standby.start_again();
        standby
    }

    /// A copy of the folder of this server, as a backup has it; not started.
    pub fn backup(&self, what: &str, options: &[&str]) -> Self {
        let backup = Self::new(self.install, what);
        let mut command = as_server(&self.install.program("pg_basebackup"));
        command.args(["-U", "postgres", "-c", "fast", "-p", "5432"]).args(options).arg("-h");
        command.arg(&self.folder).arg("-D").arg(backup.data());
        run(command, &backup.log_path());
        backup
    }

    /// Starts a backup of `source` and lets it replay up to a restore point; it is a primary then, on a new timeline.
    pub fn recover(&self, source: &Cluster<'_>, point: &str) {
        let log = source.data().join("pg_wal");
        let settings = format!(
            "restore_command = 'cp {}/%f %p'\nrecovery_target_name = '{point}'\nrecovery_target_action = promote\n",
            log.display()
        );
        let file = self.data().join("postgresql.auto.conf");
        fs::write(&file, settings).expect("the configuration can be written");
        fs::write(self.data().join("recovery.signal"), "").expect("the folder can be written");
        give(&self.folder);
        self.start_again();
        self.wait_until("SELECT NOT pg_is_in_recovery()");
    }

    /// Turns this server, which is stopped, into a standby of `source`, whose history it has left.
    pub fn rewind(&self, source: &Cluster<'_>) {
        // The source's control file names its new timeline from the next checkpoint on only.
        source.connect().batch_execute("CHECKPOINT").expect("the source answers");
        let mut command = as_server(&self.install.program("pg_rewind"));
        command.arg("--write-recovery-conf").arg("--target-pgdata").arg(self.data()).arg("--source-server");
        command.arg(format!("host={} port=5432 user=postgres dbname=postgres", source.folder.display()));
        run(command, &self.log_path());
        self.start_again();
    }

    /// What `pg_upgrade` makes of this cluster, which is stopped, for a newer installation; started.
    pub fn upgraded<'b>(&self, install: &'b Install) -> Cluster<'b> {
        let new = Cluster::made(install, &[]);
        let mut command = as_server(Path::new("sh"));
        // Why it failed stands in a file for each database.
        command.args([
            "-c",
            r#""$@" || { tail -n 20 data/pg_upgrade_output.d/*/log/pg_upgrade_dump_*.log; exit 1; }"#,
            "sh",
        ]);
        // It writes into the folder that it runs in, and puts its sockets there.
        command.current_dir(&new.folder).arg(install.program("pg_upgrade")).args(["-U", "postgres"]);
        command.arg("-b").arg(self.install.bin()).arg("-B").arg(install.bin());
        command.arg("-d").arg(self.data()).arg("-D").arg(new.data());
        run(command, &new.log_path());
        new.start_again();
        new
    }

    /// Dumps a database and restores it into one of that name in another cluster.
    pub fn dump_into(&self, other: &Cluster<'_>, database: &str) {
        let file = other.folder.join("dump.sql");
        let mut dump = as_server(&self.install.program("pg_dump"));
        dump.args(["-U", "postgres", "-p", "5432", "-h"]).arg(&self.folder).arg("-f").arg(&file).arg(database);
        run(dump, &self.log_path());
        let mut restore = as_server(&self.install.program("psql"));
        restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", "5432", "-h"]).arg(&other.folder);
        restore.arg("-f").arg(&file).arg(database);
        run(restore, &other.log_path());
    }

    /// Waits until a query gives true.
    pub fn wait_until(&self, sql: &str) {
        let (mut client, start) = (self.connect(), Instant::now());
        while !client.query_one(sql, &[]).expect("the server answers").get::<_, bool>(0) {
            assert!(start.elapsed() < PATIENCE, "never true: {sql}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits until this standby has replayed what `primary` has committed so far.
    pub fn catch_up(&self, primary: &Cluster<'_>) {
        // Flushed, not inserted: on an idle server nobody flushes the rest, and at a page's end it is not even there.
        let sql = "SELECT pg_current_wal_flush_lsn()::text";
        let lsn: String = primary.connect().query_one(sql, &[]).expect("the primary answers").get(0);
        self.wait_until(&format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)"));
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        self.control(&["promote"]);
    }

    /// Where its socket is.
    pub fn socket(&self) -> &Path {
        &self.folder
    }

    /// The installation that it runs from.
    pub fn install(&self) -> &'a Install {
        self.install
    }

    /// How to connect to a database as superuser.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.folder).port(5432).user("postgres").dbname(database);
        config
    }

    /// A superuser's session in database `postgres`.
    pub fn connect(&self) -> Client {
        self.connect_to("postgres")
    }

    /// The same from a server that may not be there.
    pub fn try_connect(&self) -> Result<Client, postgres::Error> {
        self.config("postgres").connect(NoTls)
    }

    /// A superuser's session in another database.
    pub fn connect_to(&self, database: &str) -> Client {
        self.config(database).connect(NoTls).expect("the server accepts connections")
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // No assertion here: a test may be failing already.
        if *self.is_running.get_mut() {
            let mut command = as_server(&self.install.program("pg_ctl"));
            command.args(["-w", "-m", "immediate", "-D"]).arg(self.data()).arg("stop");
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
