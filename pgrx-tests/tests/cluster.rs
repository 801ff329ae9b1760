//! The harness itself: a server that is killed comes back, a standby follows and takes over, nothing is left.

use syncline_tests::{Cluster, Install, is_alive};

#[test]
fn a_killed_server_keeps_its_rows_and_a_promoted_standby_takes_writes() {
    let install = Install::new();
    let primary = Cluster::start_with(&install, &[("work_mem", "5MB")]);
    primary.connect().batch_execute("CREATE TABLE t AS SELECT 1 AS a").unwrap();
    primary.kill_9();
    assert!(primary.config("postgres").connect(postgres::NoTls).is_err(), "it is gone");
    primary.start_again();
    let mut client = primary.connect();
    assert_eq!(client.query_one("SELECT a FROM t", &[]).unwrap().get::<_, i32>(0), 1);
    assert_eq!(client.query_one("SHOW work_mem", &[]).unwrap().get::<_, String>(0), "5MB");

    let standby = primary.standby();
    client.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    standby.catch_up(&primary);
    let mut other = standby.connect();
    assert_eq!(other.query_one("SELECT sum(a) FROM t", &[]).unwrap().get::<_, i64>(0), 3);
    assert!(other.batch_execute("INSERT INTO t VALUES (3)").is_err(), "a standby is read-only");
    primary.stop();
    standby.promote();
    other.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    assert!(standby.log().contains("database system is ready"));
}

#[test]
fn nothing_is_left_behind() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let pid = cluster.pid();
    let (folder, root) = (cluster.socket().to_path_buf(), install.root().to_path_buf());
    assert!(is_alive(pid) && folder.exists() && root.exists());
    drop(cluster);
    drop(install);
    assert!(!is_alive(pid) && !folder.exists() && !root.exists());
}
