//! Messages as `examples/pubsub` and `examples/consumer` take them: nothing lost and nothing twice, whoever is killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use syncline_tests::{Cluster, Install};

/// How long what was published may be on its way before the test counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's python: another one may come first in PATH, without the packages.
fn python(cluster: &Cluster<'_>, arguments: &[&str]) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.env("PGHOST", cluster.socket()).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
    python.args(arguments).current_dir(syncline_tests::repository());
    python
}

fn start(cluster: &Cluster<'_>, arguments: &[&str]) -> Process {
    Process(python(cluster, arguments).stderr(Stdio::null()).spawn().expect("python runs"))
}

/// Waits until a text is what it must become; it must not go beyond.
fn settle(mut now: impl FnMut() -> String, wanted: &str) {
    let begin = Instant::now();
    loop {
        let text = now();
        if text == wanted {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{text} instead of {wanted}");
        sleep(Duration::from_millis(100));
    }
}

/// How many messages a node has, and the sum of what is in them.
fn held(cluster: &Cluster<'_>, store: &Path) -> String {
    let code = "import sqlite3, sys\n\
                try: print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*), total(payload) FROM seen').fetchone())\n\
                except sqlite3.OperationalError: print('none')";
    let output = python(cluster, &["-c", code, store.to_str().unwrap()]).output().expect("python runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn nodes_get_each_message_of_their_topics_once() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute("CREATE EXTENSION syncline").unwrap();
    let folder = std::env::temp_dir().join(format!("syncline-nodes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (one, two) = (folder.join("one.db"), folder.join("two.db"));
    let node = |store: &Path, topics: &[&str]| {
        let arguments = [&["examples/pubsub/node.py", store.to_str().unwrap()], topics].concat();
        start(&cluster, &arguments)
    };
    let first = node(&one, &["a", "b"]);
    let _second = node(&two, &["b"]);
    let mut publish = |from: i32, to: i32| {
        for number in from..to {
            let topic = ["a", "b", "c"][number as usize % 3];
            client.execute("SELECT sync_publish($1, to_jsonb($2::int))", &[&topic, &number]).unwrap();
        }
        client.batch_execute("BEGIN; SELECT sync_publish('b', '1000000'); ROLLBACK").unwrap();
    };
    publish(0, 60);
    drop(first);
    publish(60, 90);
    let _first = node(&one, &["a", "b"]);
    publish(90, 120);
    let sum = |wanted: fn(i32) -> bool| (0..120).filter(|&n| wanted(n)).sum::<i32>();
    settle(|| held(&cluster, &one), &format!("80 {}.0", sum(|n| n % 3 != 2)));
    settle(|| held(&cluster, &two), &format!("40 {}.0", sum(|n| n % 3 == 1)));
    // What is pruned is not taken from who has it.
    client.batch_execute("SELECT sync_prune('0')").unwrap();
    let left: i64 = client.query_one("SELECT count(*) FROM syncline.message", &[]).unwrap().get(0);
    assert_eq!(left, 0);
    client.batch_execute("SELECT sync_publish('b', '5')").unwrap();
    settle(|| held(&cluster, &two), &format!("41 {}.0", sum(|n| n % 3 == 1) + 5));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn workers_handle_each_message_once() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE EXTENSION syncline; CREATE TABLE worker (since text); \
             CREATE TABLE mail (message bigint PRIMARY KEY, recipient text)",
        )
        .unwrap();
    let publish = "SELECT sync_publish('mail', jsonb_build_object('to', g)) FROM generate_series($1::int, $2::int) g";
    let work = || start(&cluster, &["examples/consumer/worker.py"]);
    let (first, _second) = (work(), work());
    client.query(publish, &[&1, &500]).unwrap();
    drop(first);
    client.query(publish, &[&501, &1000]).unwrap();
    let _third = work();
    let mut handled = || -> String {
        let sql = "SELECT count(*) || ' ' || coalesce(sum(recipient::int), 0) FROM mail";
        client.query_one(sql, &[]).unwrap().get(0)
    };
    settle(&mut handled, "1000 500500");
}
