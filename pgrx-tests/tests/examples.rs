//! The servers that README shows: as they stand there, and running.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use syncline_tests::{Cluster, Install};

const README: &str = include_str!("../../README.md");

/// How long an answer may take before the test counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

const LIVE: &str = include_str!("../../examples/live.py");

/// A server that an example is, on a port of the test's own; ends with the test.
struct Example {
    child: Child,
    port: u16,
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Example {
    /// Starts an example, unchanged but for its port and for the time after which it looks without having been woken:
    /// an hour, so that a test sees the waking.
    fn start(cluster: &Cluster<'_>, code: &str, port: &str) -> Self {
        assert!(README.contains(code), "README shows the example as it is");
        cluster
            .connect()
            .batch_execute(
                "CREATE EXTENSION syncline; CREATE TABLE issues (id int PRIMARY KEY, project_id int, note json); \
                 SELECT sync_track('issues', '{project_id}'); INSERT INTO issues VALUES (1, 3, E'{\"a\":\\r\\n\\n1}')",
            )
            .unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(code.contains(port), "the example listens on {port}");
        assert!(README.contains(LIVE), "README shows what it imports as it is");
        let live = format!(
            "import sys, types\nlive = sys.modules['live'] = types.ModuleType('live')\nexec({LIVE:?}, vars(live))\n"
        );
        let code = live.replace("timeout=15", "timeout=3600") + &code.replace(port, &free.to_string());
        let child = python(cluster).arg("-c").arg(code).stderr(Stdio::null()).spawn().expect("python runs");
        Self { child, port: free }
    }

    fn connect(&self) -> TcpStream {
        for _ in 0..400 {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("the example does not listen");
    }

    /// Asks for a path, with header lines that end in `\r\n` each.
    fn get(&self, path: &str, headers: &str) -> BufReader<TcpStream> {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.0\r\n{headers}\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the answer has a header");
        }
        reader
    }
}

/// Debian's python: another one may come first in PATH, without the packages.
fn python(cluster: &Cluster<'_>) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.env("PGHOST", cluster.socket()).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
    python
}

/// The keys that a document deletes and upserts.
fn keys(document: &str) -> (serde_json::Value, Vec<String>) {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    let changes = document["changes"].as_array().unwrap().iter();
    let changes = changes.map(|change| format!("{} {}", change["op"].as_str().unwrap(), change["key"]["id"]));
    (document["cursor"].clone(), changes.collect())
}

#[test]
fn http_example_of_the_readme_answers_with_deltas() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let example = Example::start(&cluster, include_str!("../../examples/http.py"), "8080");
    let get = |path: &str| {
        let mut body = String::new();
        example.get(path, "").read_to_string(&mut body).unwrap();
        keys(&body)
    };
    let (cursor, changes) = get("/");
    assert_eq!(changes, ["reset null", "upsert 1"]);
    cluster.connect().batch_execute("DELETE FROM issues").unwrap();
    let (_, changes) = get(&format!("/?since={}", cursor.as_str().unwrap()));
    assert_eq!(changes, ["delete 1"]);
}

/// The next event: its id and its data, which must be one line.
fn event(stream: &mut BufReader<TcpStream>) -> (String, String) {
    let mut lines = stream.lines().map(|line| line.expect("the event comes"));
    let (id, data, end) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(end, "");
    (id.strip_prefix("id: ").unwrap().to_owned(), data.strip_prefix("data: ").unwrap().to_owned())
}

#[test]
fn event_source_example_of_the_readme_sends_each_change_and_takes_up_after_a_break() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let example = Example::start(&cluster, include_str!("../../examples/sse.py"), "8081");
    let mut client = cluster.connect();
    let mut stream = example.get("/", "");
    let (id, data) = event(&mut stream);
    assert_eq!(keys(&data), (id.into(), vec!["reset null".to_owned(), "upsert 1".to_owned()]));
    client.batch_execute("INSERT INTO issues VALUES (2, 3)").unwrap();
    let id = first_change(&mut stream, "upsert 2");
    drop(stream);
    client.batch_execute("DELETE FROM issues WHERE id = 1").unwrap();
    let mut stream = example.get("/", &format!("Last-Event-ID: {id}\r\n"));
    assert_eq!(keys(&event(&mut stream).1).1, ["delete 1"]);
}

/// The id of the first event that is not empty, which carries this change. The watcher's start may have sent an empty one.
fn first_change(stream: &mut BufReader<TcpStream>, wanted: &str) -> String {
    loop {
        let (id, data) = event(stream);
        let changes = keys(&data).1;
        if !changes.is_empty() {
            assert_eq!(changes, [wanted]);
            return id;
        }
    }
}

/// Prints what comes, one document a line.
const WEBSOCKET_CLIENT: &str = "
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1]) as socket:
        await socket.send(sys.argv[2])
        async for document in socket:
            print(document, flush=True)
asyncio.run(main())
";

#[test]
fn websocket_example_of_the_readme_sends_each_change_and_takes_up_after_a_break() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let example = Example::start(&cluster, include_str!("../../examples/websocket.py"), "8082");
    drop(example.connect());
    let follow = |cursor: &str| {
        let mut command = python(&cluster);
        command.arg("-c").arg(WEBSOCKET_CLIENT).arg(format!("ws://127.0.0.1:{}", example.port)).arg(cursor);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python runs");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        (Example { child, port: 0 }, lines.map(|line| keys(&line.unwrap())).filter(|(_, changes)| !changes.is_empty()))
    };
    let mut client = cluster.connect();
    let (_ends, mut documents) = follow("");
    assert_eq!(documents.next().unwrap().1, ["reset null", "upsert 1"]);
    client.batch_execute("INSERT INTO issues VALUES (2, 3)").unwrap();
    let (cursor, changes) = documents.next().unwrap();
    assert_eq!(changes, ["upsert 2"]);
    client.batch_execute("DELETE FROM issues WHERE id = 1").unwrap();
    assert_eq!(documents.next().unwrap().1, ["delete 1"]);
    let (_ends, mut documents) = follow(cursor.as_str().unwrap());
    assert_eq!(documents.next().unwrap().1, ["delete 1"]);
}
