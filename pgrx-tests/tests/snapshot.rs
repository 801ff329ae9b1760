//! What the pure crate says of snapshots is what Postgres' own functions say, snapshot by snapshot.

use postgres::Client;
use syncline_delta::cursor::{Cursor, Identity, Position};
use syncline_delta::snapshot::{Snapshot, Xid};
use syncline_tests::rng::Rng;
use syncline_tests::{Cluster, Install};

/// How many ids a batch looks at: more than Postgres searches one by one (30).
const RANGE: Xid = 80;

/// The first id looked at: small ones, and some around the place where 32 bits end.
const BASES: [Xid; 3] = [3, (1 << 32) - 40, (1 << 40) + 7];

const SNAPSHOTS: usize = 1000;

/// A snapshot as Postgres writes it; its lower bound need not be its first id in progress.
fn text(xmin: Xid, xmax: Xid, xip: &[Xid]) -> String {
    let xip: Vec<_> = xip.iter().map(Xid::to_string).collect();
    format!("{xmin}:{xmax}:{}", xip.join(","))
}

/// An id that a transaction can have: the lowest three of each round of 32 bits are never given out.
fn normal(xid: Xid) -> Xid {
    if xid & 0xffff_ffff < 3 { xid + 3 } else { xid }
}

/// Ids from `from` up to `to`, each with a chance of one in `odds`.
fn some_of(rng: &mut Rng, from: Xid, to: Xid, odds: u32) -> Vec<Xid> {
    (from..to).filter(|&xid| normal(xid) == xid && rng.one_in(odds)).collect()
}

/// Snapshots in twos: one, and one that a little later time may have given, or may not.
fn snapshots(rng: &mut Rng, base: Xid) -> Vec<String> {
    let mut texts = Vec::with_capacity(SNAPSHOTS);
    while texts.len() < SNAPSHOTS {
        let xmin = normal(base + Xid::from(rng.below(20)));
        let xmax = normal(xmin + Xid::from(rng.below(45)));
        let odds = *rng.pick(&[1, 2, 4, 30]);
        let xip = some_of(rng, xmin, xmax, odds);
        let later = normal(xmax + Xid::from(rng.below(12)));
        let mut open: Vec<_> = xip.iter().copied().filter(|_| !rng.one_in(3)).collect();
        open.extend(some_of(rng, xmax, later, 3));
        if rng.one_in(3) {
            // A transaction that the first one may have seen.
            open.extend(some_of(rng, xmin, xmax, 20));
            open.sort_unstable();
            open.dedup();
        }
        texts.extend([text(xmin, xmax, &xip), text(xmin, later, &open)]);
    }
    texts
}

/// For each text the ids of the range that `sees` (SQL over `t.text` and `x.xid`) says are seen.
fn seen(client: &mut Client, sees: &str, texts: &[String], base: Xid) -> Vec<Vec<bool>> {
    let sql = format!(
        "SELECT string_agg({sees}::int::text, '' ORDER BY x.xid) \
         FROM unnest($1::text[]) WITH ORDINALITY AS t(text, place), \
              (SELECT n::text::xid8 AS xid FROM generate_series($2::int8, $2 + $3::int8 - 1) n) x \
         GROUP BY place ORDER BY place"
    );
    let rows = client.query(&sql, &[&texts, &(base as i64), &(RANGE as i64)]).expect("the server answers");
    rows.iter().map(|row| row.get::<_, &str>(0).bytes().map(|byte| byte == b'1').collect()).collect()
}

fn parsed(texts: &[String]) -> Vec<Snapshot> {
    texts.iter().map(|text| text.parse().expect("Postgres' own form")).collect()
}

#[test]
fn sees_and_dominates_agree_with_postgres() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    let mut rng = Rng::new(1, 0);
    let mut outcomes = [0; 2];
    for base in BASES {
        let texts = snapshots(&mut rng, base);
        let visible = seen(&mut client, "pg_visible_in_snapshot(x.xid, t.text::pg_snapshot)", &texts, base);
        let ours = parsed(&texts);
        assert_eq!(visible.len(), SNAPSHOTS);
        for ((text, snapshot), visible) in texts.iter().zip(&ours).zip(&visible) {
            let sees: Vec<bool> = (base..base + RANGE).map(|xid| snapshot.sees(xid)).collect();
            assert_eq!(&sees, visible, "{text}");
        }
        // Each with the one made from it, with itself, and with a stranger.
        for i in 0..SNAPSHOTS {
            for j in [i ^ 1, i, (i + 7) % SNAPSHOTS] {
                let included = visible[i].iter().zip(&visible[j]).all(|(old, new)| !old || *new);
                let expected = included && ours[i].xmax() <= ours[j].xmax();
                assert_eq!(ours[j].dominates(&ours[i]), expected, "{} <= {}", texts[i], texts[j]);
                outcomes[usize::from(expected)] += 1;
            }
        }
    }
    assert!(outcomes.iter().all(|&count| count > SNAPSHOTS), "both answers are common: {outcomes:?}");
}

#[test]
fn a_snapshot_prints_as_postgres_reads_it() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let texts = snapshots(&mut Rng::new(2, 0), BASES[1]);
    let printed: Vec<String> = parsed(&texts).iter().map(Snapshot::to_string).collect();
    let sql = "SELECT coalesce(string_agg(p, ' '), '') FROM unnest($1::text[]) p WHERE p::pg_snapshot::text <> p";
    let changed: String = cluster.connect().query_one(sql, &[&printed]).expect("Postgres reads them").get(0);
    assert_eq!(changed, "");
}

#[test]
fn sync_sees_agrees_with_postgres() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    client.batch_execute("CREATE EXTENSION syncline").expect("it is installed");
    for base in BASES {
        let texts = snapshots(&mut Rng::new(3, base), base);
        let cursor = |snapshot| {
            let position = Position { system: 1, database: 2, timeline: 3, lsn: 4, epoch: 5, snapshot };
            Cursor { position, identity: Identity { shape: 6, schema: 7 }, round: None }.to_string()
        };
        let cursors: Vec<String> = parsed(&texts).into_iter().map(cursor).collect();
        let visible = seen(&mut client, "pg_visible_in_snapshot(x.xid, t.text::pg_snapshot)", &texts, base);
        assert_eq!(seen(&mut client, "sync_sees(t.text, x.xid)", &cursors, base), visible);
    }
}
