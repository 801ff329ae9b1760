//! Ids of transactions near 2^31, where comparisons of 32 bits turn, and near 2^32, where the stored ones begin anew.

use syncline_tests::follower::Follower;
use syncline_tests::histories::{pull, tracked};
use syncline_tests::{Cluster, Install, oracle};

const SHAPE: &str = r#"{"tables":{"t":{"where":"f = 1"}}}"#;

const BOUNDARIES: [u64; 2] = [1 << 31, 1 << 32];

fn run(cluster: &Cluster<'_>, sql: &str) {
    cluster.connect().batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Uses up ids until this one is the next.
fn use_up(cluster: &Cluster<'_>, next: u64) {
    assert!(cluster.next_xid() <= next);
    let sql = format!(
        "DO 'BEGIN WHILE pg_snapshot_xmax(pg_current_snapshot())::text::bigint < {next} LOOP \
             PERFORM pg_current_xact_id(); COMMIT; END LOOP; END'"
    );
    run(cluster, &sql);
    assert_eq!(cluster.next_xid(), next);
}

#[test]
fn every_pull_equals_the_truth_while_ids_pass_the_boundaries() {
    for (boundary, seed) in BOUNDARIES.into_iter().zip(1..) {
        let report =
            oracle::cross(&Install::new(), seed, boundary, 300).unwrap_or_else(|violation| panic!("{violation}"));
        println!("{boundary}: {report:?}");
        assert!(report.deletes > 0 && report.upserts > 0 && report.standby > 0, "the run did its work");
    }
}

/// Transactions that are open while the ids pass, on the primary and the standby: cursors hold ids of both sides.
#[test]
fn cursors_and_transactions_from_before_a_boundary_are_right_behind_it() {
    let install = Install::new();
    let (primary, _) = tracked(&install, &[]);
    let mut oldest = Follower::new(SHAPE);
    oldest.pull(&mut primary.connect());
    for boundary in BOUNDARIES {
        primary.move_xid(boundary - 50);
        run(&primary, "DELETE FROM t WHERE id > 6; UPDATE t SET f = id % 2; UPDATE t SET n = n + 1 WHERE id = 5");
        let standby = primary.standby();
        let mut clients = [0, 1, 2, 3].map(|_| Follower::new(SHAPE));
        for client in &mut clients {
            client.pull(&mut primary.connect());
        }
        assert!(oldest.pull(&mut primary.connect()).contains(&r#"upsert {"id": 5}"#.to_owned()), "{boundary}");
        let mut open = primary.connect();
        open.batch_execute("BEGIN; DELETE FROM t WHERE id = 1; SAVEPOINT s; UPDATE t SET f = 1 WHERE id = 2").unwrap();
        run(&primary, "BEGIN; UPDATE t SET f = 2 WHERE id = 3; PREPARE TRANSACTION 'p'; INSERT INTO t VALUES (7, 1)");
        clients[1].pull(&mut primary.connect());
        use_up(&primary, boundary + u64::from(boundary == 1 << 32) * 3);
        run(&primary, "INSERT INTO t VALUES (8, 1)");
        assert!(primary.next_xid() > boundary);
        standby.catch_up(&primary);
        assert_eq!(clients[2].pull(&mut standby.connect()), [r#"upsert {"id": 7}"#, r#"upsert {"id": 8}"#]);
        clients[3].pull(&mut primary.connect());
        open.batch_execute("COMMIT").unwrap();
        run(&primary, "COMMIT PREPARED 'p'");
        standby.catch_up(&primary);
        let expected = [
            vec![r#"delete {"id": 1}"#, r#"delete {"id": 3}"#, r#"upsert {"id": 2}"#],
            vec![r#"upsert {"id": 7}"#, r#"upsert {"id": 8}"#],
        ];
        for (n, client) in clients.iter_mut().enumerate() {
            let server = if n % 2 == 0 { &primary } else { &standby };
            let mut told = client.pull(&mut server.connect());
            told.sort();
            let seen = [0, 1, 2, 2][n];
            let mut sure = expected[0].clone();
            sure.extend(&expected[1][seen..]);
            assert_eq!(told, sure, "{boundary}: client {n}");
        }
        run(&primary, "SELECT sync_prune('0'); INSERT INTO t VALUES (1, 1)");
        let sees: bool = primary
            .connect()
            .query_one("SELECT sync_sees(sync_position(), pg_snapshot_xmin(pg_current_snapshot()))", &[])
            .unwrap()
            .get(0);
        assert!(!sees, "an id that nobody has yet");
    }
}

/// Behind 2^32 a transaction gets the 32 bits of one that inserted a row long ago: it did not insert that row.
#[test]
fn rows_of_an_earlier_transaction_with_the_same_32_bits_are_not_taken_for_own_ones() {
    let install = Install::new();
    let (primary, mut client) = tracked(&install, &[]);
    client.batch_execute("TRUNCATE t; INSERT INTO t SELECT g, 1 FROM generate_series(1, 3) g").unwrap();
    let xmin: i64 = client.query_one("SELECT xmin::text::bigint FROM t LIMIT 1", &[]).unwrap().get(0);
    drop(client);
    primary.move_xid((1 << 32) - 10);
    let mut client = primary.connect();
    let (_, cursor) = pull(&mut client, None).unwrap();
    use_up(&primary, (1 << 32) + u64::try_from(xmin).unwrap());
    client.batch_execute("DELETE FROM t WHERE id = 1; ").unwrap();
    let xid: i64 = client
        .query_one("SELECT xid::text::bigint % (2^32)::bigint FROM syncline.log ORDER BY pos DESC LIMIT 1", &[])
        .unwrap()
        .get(0);
    assert_eq!(xid, xmin, "the deletion has the same 32 bits");
    assert_eq!(pull(&mut client, Some(&cursor)).unwrap().0, ["delete 1"]);
}
