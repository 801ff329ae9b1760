//! Golden files: PostgreSQL's own drivers compare what a server answers with what we expect.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Cluster;
use crate::install::{as_server, give, repository, scratch};

/// One of PostgreSQL's drivers and where its files are.
pub struct Suite {
    /// The driver below `src/test` of the server's headers.
    pub driver: &'static str,
    /// Folder of the suite in this package.
    pub folder: &'static str,
    /// Folder of the inputs in it.
    pub inputs: &'static str,
    /// What their names end with.
    pub ending: &'static str,
}

/// Statements and their output.
pub const REGRESS: Suite = Suite { driver: "regress/pg_regress", folder: "regress", inputs: "sql", ending: "sql" };

/// Permutations of several sessions' steps.
pub const ISOLATION: Suite =
    Suite { driver: "isolation/pg_isolation_regress", folder: "isolation", inputs: "specs", ending: "spec" };

/// Removes its folder when the suite has ended, whatever the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names(folder: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == ending));
    let mut names: Vec<String> = paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a golden file can be copied");
    }
}

impl Suite {
    /// Runs all files of the suite in a database `regression` that has the extension, or the one that
    /// `GOLDEN` names; panics with the differences. `UPDATE_GOLDENS=1` takes the results as expected.
    pub fn run(&self, cluster: &Cluster<'_>) {
        let source = repository().join("pgrx-tests").join(self.folder);
        let mut names = names(&source.join(self.inputs), self.ending);
        if let Ok(only) = std::env::var("GOLDEN") {
            names.retain(|name| *name == only);
        }
        assert!(!names.is_empty(), "0 files: {}/{}/*.{}", source.display(), self.inputs, self.ending);
        let work = Scratch(scratch(self.folder));
        copy_all(&source.join(self.inputs), &work.0.join(self.inputs));
        copy_all(&source.join("expected"), &work.0.join("expected"));
        let updates = std::env::var("UPDATE_GOLDENS").is_ok_and(|value| value == "1");
        if updates {
            // The driver stops at a missing expectation; an empty one is merely wrong.
            for name in &names {
                let expected = work.0.join("expected").join(format!("{name}.out"));
                if !expected.exists() {
                    fs::write(expected, "").expect("a golden file can be written");
                }
            }
        }
        give(&work.0);
        let mut driver = as_server(&cluster.install().driver(self.driver));
        driver.current_dir(&work.0).arg("--user=postgres").arg("--port=5432").arg("--load-extension=syncline");
        for (option, path) in [
            ("host", cluster.socket()),
            ("bindir", cluster.install().bin()),
            ("inputdir", &work.0),
            ("outputdir", &work.0),
        ] {
            driver.arg(format!("--{option}={}", path.display()));
        }
        driver.arg("--dbname=regression").args(&names);
        let output = driver.output().expect("the driver runs");
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        println!("{said}");
        if updates {
            let target = source.join("expected");
            fs::create_dir_all(&target).expect("a folder can be made");
            for name in &names {
                let file = format!("{name}.out");
                fs::copy(work.0.join("results").join(&file), target.join(&file))
                    .unwrap_or_else(|error| panic!("{file} has no result: {error}\n{said}"));
            }
            return;
        }
        let differences = fs::read_to_string(work.0.join("regression.diffs")).unwrap_or_default();
        assert!(output.status.success(), "{}: not as expected\n{differences}", self.folder);
    }
}
