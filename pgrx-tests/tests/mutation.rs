//! Idempotent writes: a mutation is applied once, however often it is sent.

use postgres::{Client, NoTls};
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

fn apply(client: &mut Client, id: i64) -> Result<bool, postgres::Error> {
    client.query_one("SELECT sync_mutation('c', $1)", &[&id]).map(|row| row.get(0))
}

#[test]
fn mutation_sent_twice_applies_once_and_is_confirmed_in_the_delta_of_its_rows() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client
        .batch_execute("CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY); SELECT sync_track('t')")
        .unwrap();
    let shape = r#"{"tables": {"t": {}, "me": {"table": "syncline.client", "where": "client = 'c'",
                    "columns": ["mutation_id", "rejected_id", "rejected_reason"]}}}"#;
    let pull = |since: Option<String>| -> (String, Option<String>) {
        let sql = "SELECT coalesce(string_agg(relation || coalesce(value, key)::text, ' ') FILTER (WHERE op <> 'reset'), ''), \
                   max(cursor) FROM sync_changes($1, $2::text::jsonb)";
        let row = cluster.connect().query_one(sql, &[&since, &shape]).unwrap();
        (row.get(0), row.get(1))
    };
    let (_, cursor) = pull(None);
    for _ in 0..2 {
        let mut transaction = client.transaction().unwrap();
        let is_new: bool = transaction.query_one("SELECT sync_mutation('c', 1)", &[]).unwrap().get(0);
        if is_new {
            transaction.execute("INSERT INTO t VALUES (7)", &[]).unwrap();
        }
        transaction.commit().unwrap();
    }
    let (seen, cursor) = pull(cursor);
    let me = r#"me{"client": "c", "mutation_id": 1, "rejected_id": null, "rejected_reason": null}"#;
    assert_eq!(seen, format!(r#"t{{"id": 7}} {me}"#));
    client.execute("SELECT sync_mutation('c', 2, 'already taken')", &[]).unwrap();
    assert_eq!(
        pull(cursor).0,
        r#"me{"client": "c", "mutation_id": 2, "rejected_id": 2, "rejected_reason": "already taken"}"#
    );
    assert!(!apply(&mut client, 2).unwrap() && !apply(&mut client, 1).unwrap() && apply(&mut client, 3).unwrap());
}

#[test]
fn gap_and_foreign_client_are_errors() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute("CREATE EXTENSION syncline; CREATE ROLE other LOGIN").unwrap();
    assert_eq!(state(&apply(&mut client, 2).unwrap_err()), "55000");
    assert!(apply(&mut client, 1).unwrap());
    assert_eq!(state(&apply(&mut client, 3).unwrap_err()), "55000");
    assert_eq!(state(&apply(&mut client, 0).unwrap_err()), "22023");
    let mut other = cluster.config("postgres").user("other").connect(NoTls).unwrap();
    assert_eq!(state(&apply(&mut other, 2).unwrap_err()), "42501");
    client.batch_execute("SET ROLE other").unwrap();
    assert_eq!(state(&apply(&mut client, 2).unwrap_err()), "42501");
    client.batch_execute("RESET ROLE").unwrap();
    assert!(apply(&mut client, 2).unwrap());
    assert!(other.batch_execute("UPDATE syncline.client SET mutation_id = 9").is_err());
    let sql = "SELECT count(*) FROM sync_changes(NULL, '{\"tables\":{\"syncline.client\":{}}}') WHERE op = 'upsert'";
    assert_eq!(other.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0, "foreign clients are not shown");
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
}

#[test]
fn same_mutation_in_two_sessions_applies_in_one() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let (mut one, mut two) = (cluster.connect(), cluster.connect());
    one.batch_execute("CREATE EXTENSION syncline").unwrap();
    for id in 1..=2 {
        one.batch_execute("BEGIN").unwrap();
        assert!(apply(&mut one, id).unwrap());
        let waits = std::thread::scope(|scope| {
            let waits = scope.spawn(|| apply(&mut two, id).unwrap());
            let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            while one.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0 {
                std::thread::yield_now();
            }
            one.batch_execute("COMMIT").unwrap();
            waits.join().unwrap()
        });
        assert!(!waits, "mutation {id}");
    }
}

#[test]
fn what_clients_have_sent_survives_dump_and_restore_with_stamps_of_the_new_server() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute("CREATE EXTENSION syncline; SELECT sync_mutation('c', 1)").unwrap();
    let other = Cluster::start(&install);
    cluster.dump_into(&other, "postgres");
    let mut copy = other.connect();
    assert!(!apply(&mut copy, 1).unwrap() && apply(&mut copy, 2).unwrap());
    let sql =
        "SELECT (SELECT count(*) FROM syncline.client WHERE _sync_version = 0), bool_and(enabled) FROM sync_tables";
    let row = copy.query_one(sql, &[]).unwrap();
    assert_eq!((row.get(0), row.get(1)), (0i64, true));
}
