//! A cluster of PostgreSQL 15 after `pg_upgrade`: a line of docs/topology.md.
//!
//! It needs two installations, so that `make test-upgrade` runs it: `OLD_PG_CONFIG` and `OLD_LIBRARY` name the older one.

use postgres::Client;
use syncline_tests::follower::Follower;
use syncline_tests::histories::{pull, tracked};
use syncline_tests::{Cluster, Install};

const SHAPES: [&str; 3] = [
    r#"{"tables":{"t":{"where":"f = 1"}}}"#,
    r#"{"tables":{"parts":{"where":"f = 1"}}}"#,
    r#"{"shape":"mine","params":[3]}"#,
];

/// Beside `t`: partitions, rows that belong to rows, a named shape, a mutation, and a log of all kinds.
const BEFORE: &str = "
    CREATE TABLE parts (id int PRIMARY KEY, f int) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
    CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20);
    SELECT sync_track('parts', '{f}');
    INSERT INTO parts SELECT g, g % 2 FROM generate_series(1, 12) g;
    CREATE TABLE members (f int, name text, PRIMARY KEY (f, name));
    SELECT sync_track('members', log_inserts => true);
    INSERT INTO members VALUES (1, 'ann'), (3, 'ann');
    SELECT sync_define('mine', '{\"tables\":{\"t\":{\"where\":\"f IN (SELECT f FROM members WHERE name = ''ann'') OR f = $1\"}}}');
    SELECT sync_mutation('phone', 1);
    DELETE FROM t WHERE id = 1; UPDATE t SET f = 3 WHERE id = 2; UPDATE parts SET id = id + 10 WHERE id = 3;";

const AFTER: [&str; 5] = [
    "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (7, 1); DELETE FROM parts WHERE id = 5",
    "DELETE FROM members WHERE f = 1; UPDATE parts SET f = 0 WHERE id = 13",
    "UPDATE t SET f = 1 WHERE id = 2; UPDATE parts SET id = 19 WHERE id = 7",
    "INSERT INTO members VALUES (0, 'ann'); DROP TABLE high",
    "TRUNCATE t; INSERT INTO t VALUES (1, 1), (2, 3)",
];

fn told(client: &mut Client, followers: &mut [Follower; 3]) -> [String; 3] {
    followers.each_mut().map(|follower| {
        let first = follower.pull(client).into_iter().next().unwrap_or_default();
        if first.starts_with("reset") { first } else { "delta".to_owned() }
    })
}

fn followers(client: &mut Client) -> [Follower; 3] {
    let mut followers = SHAPES.map(Follower::new);
    assert_eq!(told(client, &mut followers), ["reset start"; 3]);
    followers
}

/// Whatever is tracked, and what the triggers of each member of a table are.
fn tracking(client: &mut Client) -> Vec<String> {
    let sql = "SELECT to_jsonb(s)::text FROM sync_tables s UNION ALL SELECT to_jsonb(s)::text FROM sync_shapes s \
               UNION ALL SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger \
               WHERE tgname IN ('~syncline_stamp', 'syncline_log', 'syncline_truncate') \
               UNION ALL SELECT concat_ws(' ', evtname, evtenabled) FROM pg_event_trigger \
               UNION ALL SELECT to_jsonb(l)::text FROM syncline.log l UNION ALL SELECT to_jsonb(l)::text FROM syncline.leaf l \
               UNION ALL SELECT to_jsonb(t)::text FROM t UNION ALL SELECT to_jsonb(p)::text FROM parts p ORDER BY 1";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn old_install() -> Install {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run make test-upgrade"));
    Install::of(&variable("OLD_PG_CONFIG"), &variable("OLD_LIBRARY"))
}

#[test]
#[ignore = "make test-upgrade runs it"]
fn upgraded_cluster_keeps_all_that_is_tracked_and_resets_cursors() {
    let (old, new) = (old_install(), Install::new());
    assert!(old.major() < new.major(), "{} is not newer than {}", new.major(), old.major());
    let (before, mut client) = tracked(&old, &[]);
    client.batch_execute(BEFORE).unwrap();
    let (mut travellers, (_, cursor)) = (followers(&mut client), pull(&mut client, None).unwrap());
    client.batch_execute("DELETE FROM t WHERE id = 5").unwrap();
    let tracked = tracking(&mut client);
    drop(client);
    before.stop();

    let after: Cluster<'_> = before.upgraded(&new);
    let mut client = after.connect();
    assert_eq!(tracking(&mut client), tracked);
    // Transaction ids go on where they were: nothing lies in the future.
    let sql = "SELECT max(_sync_version) < pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM t";
    assert!(client.query_one(sql, &[]).unwrap().get::<_, bool>(0));
    assert_eq!(told(&mut client, &mut travellers), ["reset epoch"; 3]);
    assert_eq!(told(&mut client, &mut travellers), ["delta"; 3]);
    let applied = |client: &mut Client, id: i64| -> bool {
        client.query_one("SELECT sync_mutation('phone', $1)", &[&id]).unwrap().get(0)
    };
    assert_eq!([applied(&mut client, 1), applied(&mut client, 2)], [false, true]);
    let resets = [
        ["delta"; 3],
        ["delta"; 3],
        ["delta"; 3],
        ["delta", "reset schema", "delta"],
        ["reset schema", "delta", "reset schema"],
    ];
    for (sql, expected) in AFTER.iter().zip(resets) {
        client.batch_execute(sql).unwrap();
        assert_eq!(told(&mut client, &mut travellers), expected, "{sql}");
    }

    // The copy that was left behind is the cluster that its cursors name.
    before.start_again();
    let mut client = before.connect();
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["delete 5"]);
    assert_eq!(told(&mut client, &mut travellers), ["reset epoch"; 3]);
}
