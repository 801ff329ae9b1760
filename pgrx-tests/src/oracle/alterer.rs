//! An alterer: commands that change tables, triggers, keys, partitions and policies, with writes in between, each story in one
//! transaction that leaves the names which clients know.

use std::thread;
use std::time::Duration;

use super::{Count, Shared, writer};
use crate::Cluster;
use crate::rng::Rng;

/// Stories of one transaction. `{write}` is a writer's statement, `{id}` a row.
const STORIES: [&[&str]; 32] = [
    &["ALTER TABLE issues ALTER COLUMN title TYPE varchar", "{write}"],
    &["{write}", "ALTER TABLE issues ALTER COLUMN title TYPE text", "DELETE FROM issues WHERE id = {id}"],
    &["{write}", "ALTER TABLE issues ALTER COLUMN state TYPE text USING state || ''", "{write}"],
    &["ALTER TABLE issues ALTER COLUMN project_id TYPE int USING (project_id + 1) % 8"],
    &["ALTER TABLE issues ALTER COLUMN title TYPE text USING title || 'x'"],
    &[
        "ALTER TABLE issues RENAME COLUMN state TO other",
        "UPDATE issues SET other = 'done' WHERE id < {id}",
        "ALTER TABLE issues RENAME COLUMN other TO state",
    ],
    &["ALTER TABLE issues DISABLE TRIGGER ALL", "{write}", "ALTER TABLE issues ENABLE TRIGGER ALL"],
    &["ALTER TABLE items DISABLE TRIGGER USER", "{write}", "ALTER TABLE items ENABLE TRIGGER USER"],
    &["ALTER TABLE items_0 DISABLE TRIGGER ALL", "{write}", "ALTER TABLE items_0 ENABLE TRIGGER ALL"],
    &[
        "ALTER TRIGGER syncline_log ON projects RENAME TO other",
        "UPDATE projects SET team = 3 WHERE id = {id}",
        "ALTER TRIGGER other ON projects RENAME TO syncline_log",
    ],
    &[
        "ALTER TABLE items DETACH PARTITION items_1",
        "DELETE FROM items_1 WHERE id < {id}",
        "{write}",
        "ALTER TABLE items ATTACH PARTITION items_1 FOR VALUES IN (1)",
    ],
    &[
        "DROP TABLE items_2b",
        "CREATE TABLE items_2b PARTITION OF items_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        "{write}",
    ],
    &[
        "CREATE TABLE items_9 (LIKE items INCLUDING ALL)",
        "ALTER TABLE items ATTACH PARTITION items_9 FOR VALUES IN (9)",
        "INSERT INTO items VALUES ({id}, 9, 'open')",
    ],
    &["DROP TABLE items_9"],
    &[
        "ALTER TABLE issues DROP CONSTRAINT issues_pkey",
        "UPDATE issues SET id = id + 100 WHERE id = {id}",
        "ALTER TABLE issues ADD PRIMARY KEY (id)",
    ],
    &["ALTER TABLE members SET UNLOGGED", "{write}", "ALTER TABLE members SET LOGGED"],
    &["ALTER TABLE issues ADD COLUMN r float8 DEFAULT random()", "{write}", "ALTER TABLE issues DROP COLUMN r"],
    &["SELECT sync_untrack('items')", "{write}", "SELECT sync_track('items', '{state}')"],
    &[
        "SELECT sync_untrack('issues')",
        "{write}",
        "SELECT sync_track('issues', '{project_id,state}', (SELECT relrowsecurity FROM pg_class WHERE oid = 'issues'::regclass))",
    ],
    &["SELECT sync_track('issues', '{title}')", "{write}"],
    &["{write}", "CLUSTER issues USING issues_pkey", "{write}"],
    &["CREATE TABLE kin () INHERITS (issues)", "INSERT INTO kin (id) VALUES ({id})", "DROP TABLE kin"],
    &["{write}", "TRUNCATE members", "INSERT INTO members SELECT g, g % 8, g % 4 FROM generate_series(0, 11) g"],
    // Row security restricts clients in half of the seeds; in the others these change nothing for anybody.
    &["DROP POLICY IF EXISTS more ON issues", "CREATE POLICY more ON issues USING (project_id = {id} % 8)", "{write}"],
    &["CREATE POLICY less ON issues AS RESTRICTIVE USING (id > {id})", "{write}", "DROP POLICY less ON issues"],
    &["{write}", "ALTER POLICY more ON issues USING (state = 'todo' OR id = {id})"],
    &["DROP POLICY more ON issues", "{write}"],
    &["{write}", "ALTER TABLE members DISABLE ROW LEVEL SECURITY"],
    &["ALTER TABLE members ENABLE ROW LEVEL SECURITY", "{write}"],
    &["ALTER TABLE projects FORCE ROW LEVEL SECURITY", "{write}", "ALTER TABLE projects NO FORCE ROW LEVEL SECURITY"],
    &["GRANT UPDATE, SELECT (id) ON issues TO PUBLIC", "{write}", "REVOKE UPDATE, SELECT (id) ON issues FROM PUBLIC"],
    &["COMMENT ON TABLE issues IS 'x'", "ALTER TABLE issues SET (fillfactor = 70)", "{write}", "REINDEX TABLE issues"],
];

/// Commands that run in no transaction block.
const ALONE: [&str; 5] = [
    "VACUUM FULL issues",
    "VACUUM (FREEZE) items",
    "ALTER TABLE items DETACH PARTITION items_9 CONCURRENTLY",
    "ALTER TABLE items DETACH PARTITION items_9 FINALIZE",
    "REINDEX TABLE CONCURRENTLY projects",
];

/// Alters until the run ends. What fails (locks, duplicate keys, a partition that is not there) is rolled back.
pub fn alter(shared: &Shared, primary: &Cluster<'_>, mut rng: Rng) {
    let mut client = primary.connect();
    client.batch_execute("SET lock_timeout = '500 ms'").expect("the server answers");
    while shared.is_running() {
        let altered = if rng.one_in(8) {
            client.batch_execute(rng.pick::<&str>(&ALONE))
        } else {
            let story = *rng.pick(&STORIES);
            let mut altered = client.batch_execute("BEGIN");
            for step in story {
                let sql =
                    step.replace("{write}", &writer::statement(&mut rng)).replace("{id}", &rng.below(40).to_string());
                altered = altered.and_then(|()| client.batch_execute(&sql));
            }
            let verb = if rng.one_in(6) { "ROLLBACK" } else { "COMMIT" };
            altered.and_then(|()| client.batch_execute(verb))
        };
        match altered {
            Ok(()) => shared.count(Count::Alterations),
            Err(error) if client.is_closed() => return shared.fail(format!("an alterer lost its session: {error:?}")),
            Err(_) => drop(client.batch_execute("ROLLBACK")),
        }
        thread::sleep(Duration::from_millis(u64::from(rng.below(60))));
    }
}
