//! A server in a folder of its own, on a unix socket only, stopped by its own pid.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use postgres::{Client, Config, NoTls};

use crate::Install;
use crate::install::scratch;

/// A running (or killed) server.
pub struct Cluster<'a> {
    install: &'a Install,
    folder: PathBuf,
}

/// A command that runs as user `postgres` if we are root, who may not run a server.
fn as_server(program: &Path) -> Command {
    let root = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0).unwrap_or(false);
    let mut command = if root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    // With a backtrace requested, every error would carry one in its DETAIL.
    command.env_remove("RUST_BACKTRACE").stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
    command
}

fn run(mut command: Command) {
    // pg_ctl's server keeps the pipe open: wait for the program itself, not for the pipe.
    command.stderr(Stdio::null());
    let status = command.status().expect("the server's programs run");
    assert!(status.success(), "{command:?} failed: {status}");
}

fn own_folder(what: &str) -> PathBuf {
    let folder = scratch(what);
    let _ = Command::new("chown").arg("postgres").arg(&folder).stderr(Stdio::null()).status();
    folder
}

impl<'a> Cluster<'a> {
    /// A fresh cluster with database `postgres`.
    pub fn start(install: &'a Install) -> Self {
        let cluster = Self { install, folder: own_folder("cluster") };
        let mut initdb = as_server(&install.program("initdb"));
        initdb.args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-D"]);
        initdb.arg(cluster.data());
        run(initdb);
        cluster.start_again();
        cluster
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts a server that was stopped or killed.
    pub fn start_again(&self) {
        let options = format!(
            "-c listen_addresses='' -k {} -c wal_level=logical -c max_prepared_transactions=50 -c max_connections=100 \
             -c fsync=off -c hot_standby_feedback=on -c max_standby_streaming_delay=-1",
            self.folder.display()
        );
        let mut command = as_server(&self.install.program("pg_ctl"));
        command.args(["-w", "-o", &options, "-l"]).arg(self.folder.join("log")).arg("-D").arg(self.data()).arg("start");
        run(command);
    }

    /// Stops it as an administrator would.
    pub fn stop(&self) {
        let mut command = as_server(&self.install.program("pg_ctl"));
        command.args(["-w", "-m", "fast", "-D"]).arg(self.data()).arg("stop");
        run(command);
    }

    /// SIGKILL to the postmaster, by its own pid; returns when its children are gone too.
    pub fn kill_9(&self) {
        let pid = fs::read_to_string(self.data().join("postmaster.pid")).expect("the server runs");
        let pid = pid.lines().next().unwrap_or_default().to_owned();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &pid]).output().expect("ps runs");
        run_kill(&pid);
        for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            while Path::new("/proc").join(child).exists() {
                sleep(Duration::from_millis(10));
            }
        }
    }

    /// A hot standby that streams from this server.
    pub fn standby(&self) -> Self {
        let standby = Self { install: self.install, folder: own_folder("standby") };
        let mut command = as_server(&self.install.program("pg_basebackup"));
        command.args(["-U", "postgres", "-R", "-c", "fast", "-h"]).arg(&self.folder).arg("-D").arg(standby.data());
        run(command);
        standby.start_again();
        standby
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        let mut command = as_server(&self.install.program("pg_ctl"));
        command.args(["-w", "-D"]).arg(self.data()).arg("promote");
        run(command);
    }

    /// How to connect to a database as superuser.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.folder).user("postgres").dbname(database);
        config
    }

    /// A session.
    pub fn connect(&self) -> Client {
        self.config("postgres").connect(NoTls).expect("the server accepts connections")
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

fn run_kill(pid: &str) {
    let mut kill = Command::new("kill");
    kill.args(["-9", pid]);
    run(kill);
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            let mut command = as_server(&self.install.program("pg_ctl"));
            command.args(["-w", "-m", "immediate", "-D"]).arg(self.data()).arg("stop").stderr(Stdio::null());
            let _ = command.status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
