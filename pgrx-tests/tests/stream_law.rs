//! Random filters over random rows: stream and pull mean the same by them, byte for byte.

use syncline_tests::fuzz::{SCHEMA, Source, WRITES};
use syncline_tests::rng::Rng;
use syncline_tests::slot::{Slot, run, truth};
use syncline_tests::{Cluster, Install};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Writes that reach NULLs, collations, arrays, enums and documents.
const MORE: [&str; 7] = [
    "UPDATE t SET mood = NULL, a = NULL, j = NULL WHERE id % 5 = 2",
    "UPDATE t SET mood = 'happy', moods = '{ok,happy}', a = a || 2, s = upper(s) WHERE id % 3 = 0",
    "UPDATE t SET j = j || '{\"k\": null}', v = 'Ok', c = 'ab', n = 'NaN', b = NOT b WHERE id % 2 = 0",
    "UPDATE t SET at = at - interval '100 days', d = 'infinity', span = -span, during = 'empty' WHERE id % 4 = 3",
    "UPDATE t SET f = -f, big = -big, pair = ROW(NULL, 'x')::pair, bin = '', \"Odd \"\"näme\" = id WHERE id < 6",
    "BEGIN; UPDATE t SET s = 'open' WHERE id > 3; DELETE FROM t WHERE id = 7; INSERT INTO t (id, s, mood, hidden) \
     VALUES (7, 'ok', 'ok', repeat('x', 5000)); UPDATE t SET id = 70 WHERE id = 8; UPDATE t SET id = 8 WHERE id = 70; COMMIT",
    "INSERT INTO t (id, n, s, a) SELECT max(id) + 1, 1.50, 'ÄÖ', '{1,2}' FROM t",
];

#[test]
fn random_filters_mean_the_same_in_the_stream_as_in_a_pull() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, "CREATE EXTENSION syncline");
    run(&mut client, SCHEMA);
    // Settings that texts depend on must not matter.
    run(
        &mut client,
        "SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET IntervalStyle = 'postgres_verbose'; SET bytea_output = 'escape'; \
         SET extra_float_digits = 0",
    );
    let (seed, rounds) = (number("STREAM_SEED", 1), number("STREAM_ROUNDS", 6));
    let mut rng = Rng::new(seed, 0);
    let (mut objects, mut stale) = (0, 0);
    for round in 0..rounds {
        let mut shapes: Vec<String> = Vec::new();
        while shapes.len() < 40 {
            let shape = Source::pick(&mut rng).shape(&mut rng);
            // Accepted by a pull, not of the session, and of a filter that lets rows in.
            if shape.contains("current_") || truth(&mut client, &shape).is_empty() {
                continue;
            }
            shapes.push(shape);
        }
        let ids: Vec<String> = (0..shapes.len()).map(|i| format!("shape {i}")).collect();
        let named: Vec<(&str, &str)> =
            ids.iter().zip(&shapes).map(|(id, shape)| (id.as_str(), shape.as_str())).collect();
        let name = format!("law_{round}");
        let mut slot = Slot::new(&mut client, &name, &named);
        for _ in 0..12 {
            let writes = if rng.one_in(2) { rng.pick(WRITES) } else { rng.pick(&MORE) };
            run(&mut client, writes);
            let summaries = slot.follow(&mut client);
            objects += summaries.len();
            stale += summaries.iter().filter(|line| line.starts_with("stale") && !line.ends_with("barrier")).count();
        }
        run(&mut client, &format!("SELECT pg_drop_replication_slot('{name}')"));
    }
    println!("seed {seed}: {objects} objects, {stale} of them stale without a barrier");
    assert!(objects > 1_000, "toothless: {objects} objects");
    assert!(stale * 4 < objects, "{stale} of {objects} objects are stale shapes");
}
