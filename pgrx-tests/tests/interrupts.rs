//! Calls that are ended from outside: lock_timeout, statement_timeout, cancel. They answer 55P03 or 57014, leave nothing
//! behind in their session, and the cursor that the client has goes on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use postgres::{Client, Error};
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::rng::Rng;
use syncline_tests::{Cluster, Install};

/// Reads both tables, as a role that row security restricts.
const SHAPE: &str = r#"{"tables": {"t": {"where": "f IN (SELECT f FROM u WHERE id < 3)"}, "u": {}}}"#;

const SETUP: &str = "
    CREATE EXTENSION syncline;
    CREATE TABLE t (id int PRIMARY KEY, f int, n int DEFAULT 0);
    CREATE TABLE u (id int PRIMARY KEY, f int NOT NULL, hidden boolean DEFAULT false);
    CREATE INDEX ON t (f); CREATE INDEX ON u (f);
    SELECT sync_track('t', '{f}', true), sync_track('u', '{f,hidden}', true);
    INSERT INTO u SELECT g, g % 10 FROM generate_series(1, 20) g;
    INSERT INTO t SELECT g, g % 10 FROM generate_series(1, 20000) g;
    ANALYZE;
    CREATE ROLE ann LOGIN; GRANT SELECT ON t, u TO ann;
    ALTER TABLE u ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON u USING (NOT hidden);";

/// Each changes what the shape holds.
const WRITES: [&str; 4] = [
    "UPDATE t SET n = n + 1 WHERE id % 40 = 1",
    "UPDATE u SET f = f + 1 WHERE id = 2",
    "DELETE FROM t WHERE id % 401 = 0; UPDATE u SET hidden = NOT hidden WHERE id = 5",
    "UPDATE t SET f = (f + 1) % 10 WHERE id % 20 < 3; INSERT INTO t SELECT max(id) + 1, 1 FROM t",
];

fn cluster(install: &Install) -> Cluster<'_> {
    let cluster = Cluster::start(install);
    cluster.connect().batch_execute(SETUP).unwrap();
    cluster
}

fn session_of_ann(cluster: &Cluster<'_>) -> Client {
    let mut session = cluster.connect();
    session
        .batch_execute("SET SESSION AUTHORIZATION ann; SET TimeZone = 'Asia/Tokyo'; SET search_path = public")
        .unwrap();
    session
}

fn outcome<T>(result: &Result<T, Error>) -> String {
    result.as_ref().err().map(state).unwrap_or_default()
}

/// What a call could have left behind in its session.
fn traces(session: &mut Client) -> Vec<String> {
    let sql = "SELECT ARRAY[current_user::text, session_user::text, current_setting('TimeZone'), current_setting('search_path'), \
                   current_setting('jit'), coalesce(current_setting('syncline.pruning', true), '')]";
    session.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn lock_timeout_ends_any_call_and_leaves_no_rights_or_settings_behind() {
    let install = Install::new();
    let cluster = cluster(&install);
    let (mut locker, mut ann) = (cluster.connect(), session_of_ann(&cluster));
    let mut follower = Follower::new(SHAPE);
    follower.pull(&mut ann);
    let before = traces(&mut ann);
    ann.batch_execute("SET lock_timeout = '20 ms'").unwrap();
    let mut refused = 0;
    for (n, table) in ["t", "u", "syncline.state", "syncline.log", "syncline.barrier"].into_iter().enumerate() {
        locker.batch_execute(WRITES[n % WRITES.len()]).unwrap();
        locker.batch_execute(&format!("BEGIN; LOCK TABLE {table}")).unwrap();
        for call in [
            "SELECT sync_pull(NULL, $shape$)",
            "SELECT * FROM sync_changes(NULL, $shape$)",
            "SELECT * FROM sync_preview($shape$)",
            "SELECT * FROM sync_digest($shape$)",
            "SELECT sync_position()",
            "CALL sync_wait(NULL, $shape$)",
            "CALL sync_wait(sync_position(), NULL, '1 ms')",
        ] {
            let call = call.replace("$shape$", &format!("'{SHAPE}'"));
            let state = outcome(&ann.batch_execute(&call));
            assert!(["55P03", ""].contains(&state.as_str()), "{table}: {state}: {call}");
            refused += u32::from(!state.is_empty());
            assert_eq!(traces(&mut ann), before, "{table}: {call}");
        }
        // A savepoint ends what a transaction would.
        ann.batch_execute("BEGIN; SAVEPOINT s").unwrap();
        // By a cursor all of them are read; from nothing no barrier, if no transaction has ended meanwhile.
        assert_eq!(outcome(&follower.try_pull(&mut ann)), "55P03", "{table}");
        refused += 1;
        ann.batch_execute("ROLLBACK TO s").unwrap();
        assert_eq!(traces(&mut ann), before, "{table}");
        locker.batch_execute("COMMIT").unwrap();
        follower.pull(&mut ann);
        ann.batch_execute("COMMIT").unwrap();
    }
    println!("{refused} calls ended");
    assert!(refused >= 20, "only {refused} calls met a lock");
}

#[test]
fn statement_timeout_ends_a_pull_anywhere_and_the_next_one_goes_on() {
    let install = Install::new();
    let cluster = cluster(&install);
    let (mut writer, mut ann) = (cluster.connect(), session_of_ann(&cluster));
    let before = traces(&mut ann);
    let mut ended = 0;
    for round in 0..6 {
        // Every other round from nothing: a pull of all rows, then of few.
        let mut follower = Follower::new(SHAPE);
        if round % 2 == 1 {
            follower.pull(&mut ann);
        }
        for (n, write) in WRITES.iter().enumerate() {
            writer.batch_execute(write).unwrap();
            for micros in (0..).map(|step| 250 * (1 << step) + 100 * n) {
                // Whole milliseconds are the smallest that there are.
                ann.batch_execute(&format!("SET statement_timeout = {}", micros / 1000 + 1)).unwrap();
                let pulled = follower.try_pull(&mut ann);
                // That may take too long as well.
                while ann.batch_execute("SET statement_timeout = 0").is_err() {}
                assert_eq!(traces(&mut ann), before);
                if pulled.is_ok() {
                    break;
                }
                assert_eq!(outcome(&pulled), "57014");
                ended += 1;
            }
        }
    }
    println!("{ended} pulls ended");
    assert!(ended > 0, "no pull was ended");
}

#[test]
fn cancel_ends_pulls_waits_and_writes_anywhere_and_the_law_holds() {
    let install = Install::new();
    let cluster = cluster(&install);
    let stop = AtomicBool::new(false);
    let mut ann = session_of_ann(&cluster);
    let mut writer = cluster.connect();
    let pids = [&mut ann, &mut writer]
        .map(|session| -> i32 { session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0) });
    let cancelled = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut canceller, mut rng) = (cluster.connect(), Rng::new(1, 0));
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(u64::from(rng.below(20_000))));
                canceller.execute("SELECT pg_cancel_backend($1)", &[rng.pick::<i32>(&pids)]).unwrap();
            }
        });
        scope.spawn(|| {
            let mut rng = Rng::new(1, 1);
            while !stop.load(Ordering::Relaxed) {
                // A pull that is cancelled has more to read the next time: who writes as fast as he can leaves it behind.
                thread::sleep(Duration::from_millis(20));
                let state = outcome(&writer.batch_execute(rng.pick::<&str>(&WRITES)));
                assert!(["57014", ""].contains(&state.as_str()), "a writer: {state}");
            }
        });
        // Also where a pull fails: the others would go on for ever.
        let outcome = catch_unwind(AssertUnwindSafe(|| cancelled_pulls(&mut ann)));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    });
    let (answered, cancelled, waits) = cancelled;
    println!("{answered} pulls answered, {cancelled} pulls and {waits} waits cancelled");
}

/// Pulls and waits until enough of each have been cancelled.
fn cancelled_pulls(ann: &mut Client) -> (u32, u32, u32) {
    let mut follower = Follower::new(SHAPE);
    let (mut answered, mut cancelled, mut waits) = (0, 0, 0);
    while answered < 100 || cancelled < 100 || waits < 20 {
        let pulled = follower.try_pull(ann);
        match outcome(&pulled).as_str() {
            "" => answered += 1,
            "57014" => cancelled += 1,
            state => panic!("a pull: {state}"),
        }
        if answered % 4 == 0 {
            let waited = ann.batch_execute(r#"CALL sync_wait(sync_position(), NULL, '1 s')"#);
            match outcome(&waited).as_str() {
                "" => {}
                "57014" => waits += 1,
                state => panic!("a wait: {state}"),
            }
        }
    }
    (answered, cancelled, waits)
}

#[test]
fn tracking_and_pruning_that_were_ended_have_done_nothing() {
    let install = Install::new();
    let cluster = cluster(&install);
    let (mut admin, mut locker) = (cluster.connect(), cluster.connect());
    admin.batch_execute("CREATE TABLE big AS SELECT g AS id, g % 7 AS f FROM generate_series(1, 400000) g; ALTER TABLE big ADD PRIMARY KEY (id)").unwrap();
    let before = traces(&mut admin);
    let sql = format!("SELECT cursor FROM sync_changes(NULL, '{SHAPE}') WHERE op = 'commit'");
    let cursor: String = admin.query_one(&sql, &[]).unwrap().get(0);
    let tracked = |client: &mut Client| -> i64 {
        let sql = "SELECT count(*) FROM pg_attribute a JOIN pg_trigger g ON g.tgrelid = a.attrelid OR a.attname = '_sync_version' \
                   WHERE a.attrelid = 'big'::regclass AND (g.tgrelid = a.attrelid OR a.attname = '_sync_version') AND NOT a.attisdropped";
        client.query_one(sql, &[]).unwrap().get(0)
    };
    // The index over all rows takes longer.
    admin.batch_execute("SET statement_timeout = '30 ms'").unwrap();
    assert_eq!(outcome(&admin.batch_execute("SELECT sync_track('big', '{f}')")), "57014");
    admin.batch_execute("SET statement_timeout = 0; SET lock_timeout = '20 ms'").unwrap();
    assert_eq!(tracked(&mut admin), 0);
    locker.batch_execute("BEGIN; SELECT FROM big LIMIT 1").unwrap();
    assert_eq!(outcome(&admin.batch_execute("SELECT sync_track('big', '{f}')")), "55P03");
    locker
        .batch_execute("COMMIT; DELETE FROM t WHERE id < 50; BEGIN; LOCK TABLE syncline.barrier IN SHARE MODE")
        .unwrap();
    assert_eq!(outcome(&admin.batch_execute("SELECT sync_prune('0')")), "55P03");
    locker.batch_execute("COMMIT").unwrap();
    assert_eq!(traces(&mut admin), before);
    assert_eq!(outcome(&admin.batch_execute("DELETE FROM syncline.log")), "42501", "the log is guarded again");
    let sql = format!("SELECT count(*) FROM sync_changes('{cursor}', '{SHAPE}') WHERE op <> 'commit'");
    assert_eq!(admin.query_one(&sql, &[]).unwrap().get::<_, i64>(0), 10, "the log tells which rows left");
    admin.batch_execute("SELECT sync_track('big', '{f}'), sync_prune('0')").unwrap();
    Follower::new(r#"{"tables": {"big": {"where": "f = 3"}}}"#).pull(&mut admin);
}
