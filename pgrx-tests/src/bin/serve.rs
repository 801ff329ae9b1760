//! A throw-away server with the extension, for what is not written in Rust.
//!
//! `serve COMMAND ARGUMENTS…` runs a command with `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE` set and ends with its
//! status. The command may write lines to the file that `SYNCLINE_CONTROL` names, a named pipe: `kill` kills the
//! server with -9, `start` starts it again, `standby` adds a hot standby; each is answered by a line in the
//! file `SYNCLINE_ANSWER`, also a pipe: `ok`, or for a standby its socket folder.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode};

use syncline_tests::{Cluster, Install};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: serve COMMAND ARGUMENTS…");
        return ExitCode::FAILURE;
    };
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let pipes = std::env::temp_dir().join(format!("syncline-{}-pipes", std::process::id()));
    fs::create_dir_all(&pipes).expect("a temporary folder can be made");
    let (control, answer) = (pipes.join("control"), pipes.join("answer"));
    for pipe in [&control, &answer] {
        let made = Command::new("mkfifo").arg(pipe).status();
        assert!(made.is_ok_and(|status| status.success()), "a named pipe can be made");
    }
    let mut command = Command::new(&program);
    command.args(arguments).env("PGHOST", cluster.socket()).env("PGPORT", "5432");
    command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
    command.env("SYNCLINE_CONTROL", &control).env("SYNCLINE_ANSWER", &answer).env("SYNCLINE_BIN", install.bin());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    let status = std::thread::scope(|scope| {
        let console = scope.spawn(|| obey(&cluster, &control, &answer));
        let status = child.wait().expect("the command can be waited for");
        // Wakes the console wherever it waits; it ends at the word.
        let mut pipe = fs::OpenOptions::new().read(true).write(true).open(&control).expect("the pipe is there");
        pipe.write_all(b"end\n").expect("the pipe is open");
        console.join().expect("the console runs to its end");
        status
    });
    let _ = fs::remove_dir_all(&pipes);
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn obey(cluster: &Cluster<'_>, control: &Path, answer: &Path) {
    let mut standbys = Vec::new();
    // Open for writing too: between two writers the pipe must not end.
    let pipe = fs::OpenOptions::new().read(true).write(true).open(control).expect("the pipe is there");
    for line in BufReader::new(pipe).lines() {
        let said = match line.as_deref() {
            Ok("kill") => {
                cluster.kill_9();
                "ok".to_owned()
            }
            Ok("start") => {
                cluster.start_again();
                "ok".to_owned()
            }
            Ok("standby") => {
                standbys.push(cluster.standby());
                standbys.last().map(|standby| standby.socket().display().to_string()).unwrap_or_default()
            }
            Ok("end") | Err(_) => return,
            Ok(other) => format!("unknown word: {other}"),
        };
        let mut out = File::options().write(true).open(answer).expect("the pipe is there");
        writeln!(out, "{said}").expect("somebody reads the answer");
    }
}
