//! A look-up in the catalog takes in what other sessions have altered, and then rebuilds what is cached, even of an open
//! relation. A server with assertions can do so at each look-up, and overwrites what is freed: nothing that was read before may
//! be held across one. `make test-cassert` runs this.

use syncline_tests::follower::Follower;
use syncline_tests::slot::{Slot, run};
use syncline_tests::{Cluster, Install};

const SCHEMA: &str = "CREATE EXTENSION syncline;; \
    CREATE TABLE parent (id int PRIMARY KEY, owner text); \
    CREATE TABLE item (id int PRIMARY KEY, parent int, state text, title text, tags text[], at timestamptz, n numeric); \
    CREATE TABLE part (id int, place int, PRIMARY KEY (id, place)) PARTITION BY LIST (place); \
    CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1); CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2); \
    SELECT sync_track('parent', '{owner}', true), sync_track('item', '{parent,state,tags,at}', true), sync_track('part'); \
    INSERT INTO parent VALUES (1, 'ann'), (2, 'bob'); \
    INSERT INTO item SELECT i, i % 3, 'open', i, '{a,b}', now(), 1.50 FROM generate_series(1, 9) i; \
    INSERT INTO part VALUES (1, 1), (2, 2)";

const SHAPES: [(&str, &str); 3] = [
    ("own", r#"{"tables": {"item": {"where": "state = 'open' AND tags @> '{a}' AND at > '2000-01-01'"}}}"#),
    ("of parents", r#"{"tables": {"item": {"where": "parent IN (SELECT id FROM parent WHERE owner = 'ann')"}}}"#),
    ("parts", r#"{"tables": {"part": {}, "parent": {"where": "owner LIKE 'a%'"}}}"#),
];

const WRITES: [&str; 6] = [
    "UPDATE item SET state = 'done' WHERE id = 1;; UPDATE item SET title = 'other' WHERE id = 4",
    "UPDATE item SET id = 107 WHERE id = 7;; DELETE FROM item WHERE id = 2",
    "UPDATE part SET place = 2 WHERE id = 1;; DELETE FROM parent WHERE id = 1",
    "INSERT INTO parent VALUES (3, 'ann'), (0, 'ann');; TRUNCATE part",
    "BEGIN; ALTER TABLE item ADD COLUMN more text DEFAULT 'x'; UPDATE item SET more = 'y' WHERE id = 3; COMMIT",
    "SELECT sync_heartbeat();; SELECT sync_prune()",
];

#[test]
#[ignore = "needs a server with assertions: make test-cassert"]
fn nothing_that_is_cached_is_held_across_a_look_up() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, SCHEMA);
    let mut slot = Slot::new(&mut client, "caches", &SHAPES);
    let mut followers = SHAPES.map(|(_, shape)| Follower::new(shape));
    run(&mut client, "SET debug_discard_caches = 1");
    for writes in WRITES {
        run(&mut client, writes);
        slot.follow(&mut client);
        for follower in &mut followers {
            follower.pull(&mut client);
        }
    }
}
