//! A private copy of the PostgreSQL installation with the extension in it.
//!
//! Postgres finds its library and share folders relative to its own executable: a copy of the
//! executables beside links to everything else is an installation of its own, and tests neither need
//! rights on the system's nor change it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};

/// The programs that tests run; links would lead the server back to the system's folders.
const PROGRAMS: [&str; 17] = [
    "postgres",
    "initdb",
    "pg_ctl",
    "pg_basebackup",
    "pg_resetwal",
    "pg_rewind",
    "pg_dump",
    "pg_recvlogical",
    "psql",
    "createdb",
    "dropdb",
    "pg_config",
    "pg_upgrade",
    "pg_controldata",
    "pg_dumpall",
    "pg_restore",
    "vacuumdb",
];

/// What would turn a server or client of ours to somebody else's; and with a backtrace requested, every
/// error would carry one in its DETAIL.
const FOREIGN_ENVIRONMENT: [&str; 9] =
    ["RUST_BACKTRACE", "PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGSERVICE", "PGTZ"];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The installation; its folder is removed with it.
pub struct Install {
    root: PathBuf,
    bin: PathBuf,
    lib: PathBuf,
    extension: PathBuf,
    pgxs: PathBuf,
    major: u32,
    identity: String,
}

/// A new folder under the system's temporary one that belongs to the user whom servers run as.
pub fn scratch(what: &str) -> PathBuf {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("syncline-{}-{count}-{what}", id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a temporary folder can be made");
    give(&path);
    path
}

/// Hands a folder and all in it to the user whom servers run as.
pub(crate) fn give(path: &Path) {
    if is_root() {
        let status = Command::new("chown").args(["-R", "postgres:postgres"]).arg(path).status();
        assert!(status.is_ok_and(|status| status.success()), "user postgres exists");
    }
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A command that runs as user `postgres` if we are root, who may not run a server.
pub(crate) fn as_server(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    for name in FOREIGN_ENVIRONMENT {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).current_dir("/");
    command
}

/// The folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository")
}

fn given_pg_config() -> String {
    std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned())
}

fn ask(pg_config: &str, option: &str) -> String {
    let output = Command::new(pg_config).arg(option).output();
    let output = output.unwrap_or_else(|error| panic!("{pg_config} does not run: {error}; set PG_CONFIG"));
    String::from_utf8(output.stdout).expect("paths are UTF-8").trim().to_owned()
}

fn major(pg_config: &str) -> u32 {
    let version = ask(pg_config, "--version");
    let number = version.trim_start_matches("PostgreSQL ").split(|c: char| !c.is_ascii_digit()).next();
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{pg_config} says it is of {version}"))
}

fn link_all(from: &Path, to: &Path, but: &[&str]) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the installation can be read") {
        let entry = entry.expect("the installation can be read");
        if !but.iter().any(|name| entry.file_name() == *name) {
            symlink(entry.path(), to.join(entry.file_name())).expect("a link can be made");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
}

impl Default for Install {
    fn default() -> Self {
        Self::new()
    }
}

impl Install {
    /// Copies the installation of `PG_CONFIG` and adds the library of `SYNCLINE_LIBRARY`
    /// (the release build, if that is not set).
    pub fn new() -> Self {
        let library = std::env::var("SYNCLINE_LIBRARY").unwrap_or("target/release/libsyncline.so".to_owned());
        Self::of(&given_pg_config(), &library)
    }

    /// Copies the installation of a `pg_config` and adds a library that was built for it.
    pub fn of(pg_config: &str, library: &str) -> Self {
        let library = repository().join(library);
        assert!(library.exists(), "{} does not exist: run make build first", library.display());
        let install = Self::copied(pg_config);
        install.add(&library, &repository().join("syncline.control"), &repository().join("sql/syncline.sql"));
        install
    }

    /// Copies the installation of `PG_CONFIG` and adds the extension from a folder that has it at the
    /// installation's own paths, as packages have.
    pub fn unpacked(package: &Path) -> Self {
        let inside = |path: PathBuf| package.join(path.strip_prefix("/").expect("pg_config gives absolute paths"));
        let asked = |option| inside(PathBuf::from(ask(&given_pg_config(), option)));
        let (lib, extension) = (asked("--pkglibdir"), asked("--sharedir").join("extension"));
        let install = Self::bare();
        let [control, sql] = ["syncline.control", "syncline--0.1.0.sql"].map(|name| extension.join(name));
        install.add(&lib.join("syncline.so"), &control, &sql);
        install
    }

    /// Copies the installation of `PG_CONFIG` without the extension. Its own `pg_config` tells its own paths.
    pub fn bare() -> Self {
        Self::copied(&given_pg_config())
    }

    fn copied(pg_config: &str) -> Self {
        let root = scratch("install");
        let ask = |option| PathBuf::from(ask(pg_config, option));
        let inside = |path: &Path| root.join(path.strip_prefix("/").expect("pg_config gives absolute paths"));
        let (bin, lib, share, include) = (ask("--bindir"), ask("--pkglibdir"), ask("--sharedir"), ask("--includedir"));
        let install = Self {
            bin: inside(&bin),
            lib: inside(&lib),
            extension: inside(&share).join("extension"),
            pgxs: ask("--pgxs"),
            major: major(pg_config),
            identity: format!("{} {}", bin.display(), self::ask(pg_config, "--version")),
            root: root.clone(),
        };
        fs::create_dir_all(&install.bin).expect("a folder can be made");
        for name in PROGRAMS {
            copy(&bin.join(name), &install.bin.join(name));
        }
        link_all(&lib, &install.lib, &["syncline.so"]);
        link_all(&share, &inside(&share), &["extension"]);
        link_all(&share.join("extension"), &install.extension, &["syncline.control", "syncline--0.1.0.sql"]);
        link_all(&include, &inside(&include), &[]);
        give(&root);
        install
    }

    fn add(&self, library: &Path, control: &Path, sql: &Path) {
        copy(library, &self.lib.join("syncline.so"));
        copy(control, &self.extension.join("syncline.control"));
        copy(sql, &self.extension.join("syncline--0.1.0.sql"));
        give(&self.root);
    }

    /// Lets whoever knows nothing of users run its server: if we are root, `initdb` and `pg_ctl` become
    /// those of user `postgres`, with root as the superuser of new clusters.
    pub fn step_down(&self) {
        if !is_root() {
            return;
        }
        for (name, option) in [("initdb", "-U root"), ("pg_ctl", "")] {
            let (program, real) = (self.bin.join(name), self.bin.join(format!("{name}.real")));
            fs::rename(&program, &real).expect("a program can be renamed");
            // The folder that root is in may be closed to others.
            let script = format!(
                "#!/bin/sh\n[ \"$(id -u)\" = 0 ] || exec {real} \"$@\"\n\
                 cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups {real} {option} \"$@\"\n",
                real = real.display()
            );
            fs::write(&program, script).expect("a program can be written");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
    }

    /// [`new`](Self::new), if that has what a test is about, which came with this major; else says so.
    pub fn since(major: u32, what: &str) -> Option<Self> {
        let install = Self::new();
        if install.major >= major {
            return Some(install);
        }
        // Not print!, which the test driver keeps to itself.
        let _ = writeln!(io::stderr(), "does not apply to PostgreSQL {}: {what}, from {major} on", install.major);
        None
    }

    /// PostgreSQL's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Which server it is a copy of.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The folder of its programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Its folder: every path of a server that runs from it begins with this.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A test driver that ships with the server's headers, say `regress/pg_regress`.
    pub fn driver(&self, name: &str) -> PathBuf {
        let makefiles = self.pgxs.parent().expect("pgxs.mk lies in a folder");
        let driver = makefiles.join("../../src/test").join(name);
        driver.canonicalize().unwrap_or_else(|_| panic!("{} does not exist: run make setup", driver.display()))
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
