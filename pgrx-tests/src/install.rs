//! A private copy of the PostgreSQL installation with the extension in it.
//!
//! Postgres finds its library and share folders relative to its own executable: a copy of the
//! executables beside links to everything else is an installation of its own, and tests neither need
//! rights on the system's nor change it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A new folder under the system's temporary one, readable by the server's user.
pub(crate) fn scratch(what: &str) -> PathBuf {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("syncline-{}-{count}-{what}", id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a temporary folder can be made");
    path
}

/// The installation; its folder is removed with it.
pub struct Install {
    root: PathBuf,
    bin: PathBuf,
}

fn ask(option: &str) -> PathBuf {
    let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned());
    let output = Command::new(&pg_config).arg(option).output().expect("pg_config runs; set PG_CONFIG otherwise");
    PathBuf::from(String::from_utf8(output.stdout).expect("paths are UTF-8").trim())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_path_buf()
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
        let repository = repository();
        let library = std::env::var("SYNCLINE_LIBRARY").unwrap_or("target/release/libsyncline.so".to_owned());
        let library = repository.join(library);
        assert!(library.exists(), "{} does not exist: run make build first", library.display());
        let root = scratch("install");
        let inside = |path: &Path| root.join(path.strip_prefix("/").expect("pg_config gives absolute paths"));
        let (bin, lib, share) = (ask("--bindir"), ask("--pkglibdir"), ask("--sharedir"));
        let own_bin = inside(&bin);
        fs::create_dir_all(&own_bin).unwrap();
        for name in ["postgres", "initdb", "pg_ctl", "pg_basebackup"] {
            fs::copy(bin.join(name), own_bin.join(name)).expect("the server's programs can be copied");
        }
        link_all(&lib, &inside(&lib), &["syncline.so"]);
        link_all(&share, &inside(&share), &["extension"]);
        let extension = share.join("extension");
        let own = inside(&extension);
        link_all(&extension, &own, &["syncline.control", "syncline--0.1.0.sql"]);
        fs::copy(library, inside(&lib).join("syncline.so")).unwrap();
        fs::copy(repository.join("syncline.control"), own.join("syncline.control")).unwrap();
        fs::copy(repository.join("sql/syncline.sql"), own.join("syncline--0.1.0.sql")).unwrap();
        Self { root, bin: own_bin }
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

fn link_all(from: &Path, to: &Path, but: &[&str]) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).expect("the installation can be read") {
        let entry = entry.unwrap();
        if !but.iter().any(|name| entry.file_name() == *name) {
            symlink(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
