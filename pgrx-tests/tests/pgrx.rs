//! pgrx's own commands work on this repository, and what they install is what `make install` installs.
//!
//! They build the extension once more, so `make test` does not run this file: `make test-pgrx` does. `CARGO_PGRX` is
//! the program to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postgres::SimpleQueryMessage;
use syncline_tests::{Cluster, Install, repository, scratch};

/// Tracks a table, writes, pulls.
const SMOKE: &str = "
    CREATE EXTENSION syncline;
    CREATE TABLE t (id int PRIMARY KEY, f int);
    SELECT sync_track('t', '{f}');
    INSERT INTO t VALUES (1, 1), (2, 2);
    SELECT op, key->>'id' FROM sync_changes(NULL, '{\"tables\":{\"t\":{\"where\":\"f = 1\"}}}') ORDER BY op DESC;";

/// Everything that the extension consists of, with what defines it.
const CONTENT: &str = "
    SELECT pg_describe_object(classid, objid, 0) AS object, deptype::text,
           coalesce(CASE classid
               WHEN 'pg_proc'::regclass THEN (SELECT pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '')
                                              FROM pg_proc p WHERE p.oid = objid)
               WHEN 'pg_class'::regclass THEN (
                   SELECT concat(c.relacl, pg_get_viewdef(c.oid), (
                       SELECT string_agg(concat_ws(' ', attname, atttypid::regtype, attnotnull), ', ' ORDER BY attnum)
                       FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0))
                   FROM pg_class c WHERE c.oid = objid)
           END, '') || coalesce(obj_description(objid, classid::regclass::name), '') AS definition
    FROM pg_depend WHERE refclassid = 'pg_extension'::regclass
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'syncline')
    ORDER BY 1, 2";

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A folder for pgrx, and an installation that its commands may change.
struct Pgrx {
    install: Install,
    home: PathBuf,
}

impl Pgrx {
    /// What `cargo pgrx init` would have left, for a private installation.
    fn new() -> Self {
        let (install, home) = (Install::bare(), scratch("pgrx"));
        install.step_down();
        let config = format!("[configs]\npg15 = \"{}\"\n", path(&install.program("pg_config")));
        fs::write(home.join("config.toml"), config).expect("the folder is ours");
        Self { install, home }
    }

    /// A command that keeps what it builds in a folder of its own: its flags differ from ours.
    fn command(&self, arguments: &[&str]) -> Command {
        let program = std::env::var("CARGO_PGRX").expect("CARGO_PGRX names cargo-pgrx: run make test-pgrx");
        let mut command = Command::new(program);
        command.arg("pgrx").args(arguments).current_dir(repository());
        for name in ["PGRX_PG_CONFIG_PATH", "RUST_BACKTRACE", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE"] {
            command.env_remove(name);
        }
        command.env("PGRX_HOME", &self.home).env("CARGO_TARGET_DIR", repository().join("target/pgrx"));
        // Otherwise install and test build everything twice, in turns.
        command.env("CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND", "1");
        // pgrx connects as this user; a shell without a login may not say.
        if std::env::var_os("USER").is_none() {
            let output = Command::new("id").arg("-un").output().expect("id runs");
            command.env("USER", String::from_utf8_lossy(&output.stdout).trim());
        }
        command
    }

    /// Runs a command to its end, and gives what it said.
    fn run(&self, arguments: &[&str]) -> String {
        self.said(self.command(arguments).stdin(Stdio::null()))
    }

    fn said(&self, command: &mut Command) -> String {
        let output = command.output().expect("cargo-pgrx runs");
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{command:?}\n{said}");
        said
    }
}

impl Drop for Pgrx {
    fn drop(&mut self) {
        let _ = self.command(&["stop", "pg15"]).stdin(Stdio::null()).output();
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// What the extension of an installation consists of; it must work, too.
fn content(install: &Install) -> Vec<[String; 3]> {
    let cluster = Cluster::start(install);
    let mut client = cluster.connect();
    let mut pulled = Vec::new();
    for statement in SMOKE.split_terminator(';') {
        let messages = client.simple_query(statement).expect(statement);
        pulled.extend(messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.len() == 2 => Some(format!("{:?} {:?}", row.get(0), row.get(1))),
            _ => None,
        }));
    }
    assert_eq!(pulled, [r#"Some("upsert") Some("1")"#, r#"Some("reset") None"#, r#"Some("commit") None"#]);
    let rows = client.query(CONTENT, &[]).expect("the catalogs can be read");
    assert!(rows.len() > 30, "{} objects", rows.len());
    rows.iter().map(|row| [0, 1, 2].map(|column| row.get(column))).collect()
}

/// One session's tests, in the server that pgrx sets up.
fn test(pgrx: &Pgrx) {
    let said = pgrx.run(&["test", "pg15", "--release", "--pgdata", path(&pgrx.home)]);
    assert!(said.contains("pg_text_that_is_no_cursor_is_22p02 ... ok"), "{said}");
}

fn package(pgrx: &Pgrx, expected: &[[String; 3]]) {
    let folder = pgrx.home.join("package");
    let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned());
    pgrx.run(&["package", "--pg-config", &pg_config, "--out-dir", path(&folder)]);
    assert_eq!(content(&Install::unpacked(&folder)), expected);
}

fn install(pgrx: &Pgrx, expected: &[[String; 3]]) {
    pgrx.run(&["install", "--release", "--pg-config", path(&pgrx.install.program("pg_config"))]);
    assert_eq!(content(&pgrx.install), expected);
}

/// `cargo pgrx run` ends in psql, which reads a file as well as a terminal.
fn run(pgrx: &Pgrx) {
    let file = pgrx.home.join("smoke.sql");
    fs::write(&file, SMOKE).expect("the folder is ours");
    let statements = fs::File::open(&file).expect("it was just written");
    let said = pgrx.said(pgrx.command(&["run", "pg15", "--release"]).stdin(statements));
    assert!(said.contains("upsert | 1") && !said.contains("ERROR"), "{said}");
}

/// One test, as another folder for pgrx means another build of its bindings, which takes longer than all the rest.
#[test]
#[ignore = "make test-pgrx runs it"]
fn pgrx_s_own_commands_give_what_make_install_gives() {
    let (pgrx, expected) = (Pgrx::new(), content(&Install::new()));
    test(&pgrx);
    package(&pgrx, &expected);
    install(&pgrx, &expected);
    run(&pgrx);
}
