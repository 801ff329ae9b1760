//! Row security is part of the shape: who loses a row is told, and nobody is told of a row that was never his.

use postgres::{Client, NoTls};
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

const SETUP: &str = "
    CREATE EXTENSION syncline;
    CREATE TABLE members (project_id int NOT NULL, who text NOT NULL, PRIMARY KEY (project_id, who));
    CREATE TABLE issues (id int PRIMARY KEY, project_id int NOT NULL, title text, owner text);
    CREATE INDEX ON issues (project_id);
    SELECT sync_track('members', log_inserts => true);
    SELECT sync_track('issues', filter_columns => '{project_id,owner}', log_inserts => true);
    CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE staff;
    GRANT SELECT ON members, issues TO ann, bob;
    INSERT INTO members VALUES (1, 'ann'), (2, 'bob');
    INSERT INTO issues SELECT g, g % 3, 'title ' || g, CASE g % 2 WHEN 0 THEN 'ann' ELSE 'bob' END FROM generate_series(1, 9) g;
    ALTER TABLE issues ENABLE ROW LEVEL SECURITY;";

const ALL: &str = r#"{"tables": {"issues": {"columns": ["id"]}}}"#;

struct Stage<'a> {
    cluster: Cluster<'a>,
    owner: Client,
    ann: Client,
}

impl<'a> Stage<'a> {
    fn new(install: &'a Install, policies: &str) -> Self {
        let cluster = Cluster::start(install);
        let mut owner = cluster.connect();
        owner.batch_execute(SETUP).unwrap();
        owner.batch_execute(policies).unwrap();
        let ann = login(&cluster, "ann");
        Self { cluster, owner, ann }
    }

    fn run(&mut self, sql: &str) {
        self.owner.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

fn login(cluster: &Cluster<'_>, role: &str) -> Client {
    cluster.config("postgres").user(role).connect(NoTls).unwrap()
}

/// What Postgres itself lets the session see.
fn sees(client: &mut Client) -> Vec<i32> {
    client.query("SELECT id FROM issues ORDER BY id", &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn ids(ops: &[String]) -> Vec<i32> {
    let mut ids: Vec<i32> =
        ops.iter().filter_map(|op| op.strip_prefix("upsert {\"id\": ")?.strip_suffix('}')?.parse().ok()).collect();
    ids.sort_unstable();
    ids
}

const BY_MEMBER: &str = "CREATE POLICY member ON issues FOR SELECT USING (EXISTS (\
    SELECT FROM members m WHERE m.project_id = issues.project_id AND m.who = current_user))";

#[test]
fn membership_gives_and_takes_rows_that_nobody_wrote() {
    let install = Install::new();
    let mut stage = Stage::new(&install, BY_MEMBER);
    let mut follower = Follower::new(ALL);
    let first = follower.pull(&mut stage.ann);
    assert_eq!(ids(&first), sees(&mut stage.ann));
    stage.run("INSERT INTO members VALUES (2, 'ann')");
    assert_eq!(
        follower.pull(&mut stage.ann),
        ["upsert {\"id\": 2}", "upsert {\"id\": 5}", "upsert {\"id\": 8}"],
        "granted"
    );
    stage.run("DELETE FROM members WHERE who = 'ann' AND project_id = 1");
    assert_eq!(
        follower.pull(&mut stage.ann),
        ["delete {\"id\": 1}", "delete {\"id\": 4}", "delete {\"id\": 7}"],
        "revoked"
    );
    stage.run("DELETE FROM issues WHERE id IN (1, 2, 3); UPDATE issues SET project_id = 1 WHERE id = 5");
    assert_eq!(
        follower.pull(&mut stage.ann),
        ["delete {\"id\": 2}", "delete {\"id\": 5}"],
        "what she held, and no more"
    );
    assert_eq!(follower.count(), sees(&mut stage.ann).len());
}

#[test]
fn policies_combine_as_in_postgres() {
    let install = Install::new();
    let policies = [
        "CREATE POLICY own ON issues USING (owner = current_user)",
        "CREATE POLICY own ON issues USING (owner = CURRENT_USER); \
         CREATE POLICY third ON issues FOR SELECT TO ann, bob USING (project_id = 0)",
        "CREATE POLICY own ON issues USING (owner = current_user); \
         CREATE POLICY narrow ON issues AS RESTRICTIVE USING (id > 2 AND project_id IS NOT NULL)",
        "CREATE POLICY narrow ON issues AS RESTRICTIVE USING (id > 2)",
        "CREATE POLICY writes ON issues FOR UPDATE USING (true)",
        "CREATE POLICY everything ON issues USING (true)",
        "CREATE POLICY of_staff ON issues TO staff USING (project_id = 2)",
        "CREATE POLICY named ON issues USING (project_id IN (SELECT project_id FROM members WHERE who = current_user))",
        "CREATE POLICY odd ON issues USING (owner LIKE 'a%' AND project_id = ANY (ARRAY[0, 1]) AND id BETWEEN 1 AND 7 \
         AND title::text IS NOT NULL)",
        "CREATE POLICY setting ON issues USING (project_id = coalesce(current_setting('my.project', true), '2')::int \
         OR (SELECT current_user) = 'bob')",
        "CREATE FUNCTION uid() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_user::text'; \
         CREATE POLICY function ON issues USING (owner = uid() AND NOT (project_id = 1))",
        BY_MEMBER,
    ];
    for policy in policies {
        let mut stage = Stage::new(&install, policy);
        if policy.contains("title") {
            stage.run("SELECT sync_track('issues', filter_columns => '{title}')");
        }
        let mut bob = login(&stage.cluster, "bob");
        for client in [&mut stage.ann, &mut bob] {
            let mut follower = Follower::new(ALL);
            assert_eq!(ids(&follower.pull(client)), sees(client), "{policy}");
        }
        stage.run("GRANT staff TO ann");
        let mut follower = Follower::new(ALL);
        assert_eq!(ids(&follower.pull(&mut stage.ann)), sees(&mut stage.ann), "{policy}, as staff");
        stage.run("ALTER ROLE ann BYPASSRLS");
        assert_eq!(follower.pull(&mut stage.ann).iter().filter(|op| op.starts_with("reset")).count(), 1, "{policy}");
        assert_eq!(follower.count(), 9, "bypass, {policy}");
        assert_eq!(ids(&Follower::new(ALL).pull(&mut stage.owner)).len(), 9, "the owner, {policy}");
    }
}

#[test]
fn policy_that_no_shape_can_hold_is_refused_by_its_name() {
    let install = Install::new();
    let mut stage = Stage::new(
        &install,
        "CREATE FUNCTION may(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 > 3'; \
         CREATE POLICY by_function ON issues USING (may(id))",
    );
    let error = Follower::new(ALL).try_pull(&mut stage.ann).unwrap_err();
    assert_eq!(state(&error), "0A000");
    let error = error.as_db_error().unwrap();
    assert_eq!(error.message(), "policy \"by_function\" of table \"issues\" cannot be part of a shape");
    assert!(error.detail().unwrap().contains("public.may"), "{error:?}");
}

#[test]
fn changed_policy_or_role_resets_to_what_is_allowed_now() {
    let install = Install::new();
    let mut stage = Stage::new(&install, "CREATE POLICY own ON issues USING (owner = current_user)");
    let mut follower = Follower::new(ALL);
    follower.pull(&mut stage.ann);
    for change in [
        "ALTER POLICY own ON issues USING (owner = 'bob')",
        "CREATE POLICY more ON issues USING (project_id = 1)",
        "DROP POLICY own ON issues",
        "CREATE POLICY of_staff ON issues TO staff USING (true)",
        "GRANT staff TO ann",
        "REVOKE staff FROM ann",
        "ALTER TABLE issues DISABLE ROW LEVEL SECURITY",
    ] {
        stage.run(change);
        let ops = follower.pull(&mut stage.ann);
        if change.contains("TO staff") {
            assert!(ops.is_empty(), "{change} is not for her");
        } else {
            assert_eq!(ops[0], "reset shape", "{change}");
            assert_eq!(ids(&ops), sees(&mut stage.ann), "{change}");
        }
    }
}

/// Postgres reads rows as an old snapshot has them, and policies as they are.
#[test]
fn policy_changed_behind_a_snapshot_holds_for_it_too() {
    let install = Install::new();
    let mut stage = Stage::new(&install, "CREATE POLICY own ON issues USING (owner = 'ann')");
    let mut follower = Follower::new(ALL);
    follower.pull(&mut stage.ann);
    stage.ann.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    stage.run("ALTER POLICY own ON issues USING (owner = 'bob'); DELETE FROM issues WHERE id = 1");
    let ops = follower.pull(&mut stage.ann);
    assert_eq!(ids(&ops), sees(&mut stage.ann));
    assert_eq!(ids(&ops), [1, 3, 5, 7, 9], "the rows are those of the snapshot");
    stage.ann.batch_execute("COMMIT").unwrap();
    assert_eq!(follower.pull(&mut stage.ann), ["delete {\"id\": 1}"]);
}

#[test]
fn level_tables_have_row_security_of_their_own() {
    let install = Install::new();
    let mut stage = Stage::new(
        &install,
        "CREATE POLICY everything ON issues USING (true); ALTER TABLE members ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON members USING (who = current_user)",
    );
    let shape =
        r#"{"tables": {"issues": {"columns": ["id"], "where": "project_id IN (SELECT project_id FROM members)"}}}"#;
    let mut follower = Follower::new(shape);
    assert_eq!(ids(&follower.pull(&mut stage.ann)), [1, 4, 7], "bob's membership is not hers to read");
    stage.run("INSERT INTO members VALUES (0, 'bob')");
    assert!(follower.pull(&mut stage.ann).is_empty());
    stage.run("UPDATE members SET who = 'ann' WHERE project_id = 0");
    assert_eq!(follower.pull(&mut stage.ann).len(), 3);
}

/// Who is restricted, and as whom, decides Postgres: owners unless it is forced, the role that was set, a function's owner.
#[test]
fn owners_set_roles_and_definers_are_restricted_as_in_postgres() {
    let install = Install::new();
    let mut stage = Stage::new(&install, "CREATE POLICY own ON issues USING (owner = current_user)");
    let mut follower = Follower::new(ALL);
    follower.pull(&mut stage.ann);
    for (change, count) in [
        ("ALTER TABLE issues OWNER TO ann", 9),
        ("ALTER TABLE issues FORCE ROW LEVEL SECURITY", 4),
        ("ALTER TABLE issues NO FORCE ROW LEVEL SECURITY", 9),
        ("ALTER TABLE issues OWNER TO postgres; GRANT SELECT ON issues TO ann", 4),
    ] {
        stage.run(change);
        let ops = follower.pull(&mut stage.ann);
        assert_eq!(ops[0], "reset shape", "{change}");
        assert_eq!((ids(&ops), ids(&ops).len()), (sees(&mut stage.ann), count), "{change}");
    }
    let mut follower = Follower::new(ALL);
    for (role, count) in [("SET ROLE ann", 4), ("SET ROLE bob", 5), ("RESET ROLE", 9)] {
        stage.run(role);
        assert_eq!(ids(&follower.pull(&mut stage.owner)), sees(&mut stage.owner), "{role}");
        assert_eq!(follower.count(), count, "{role}");
    }
    // A function of Bob's gives Ann what he sees; its cursor is none for her own pulls.
    stage.run(&format!(
        "CREATE FUNCTION of_bob(since text, OUT op text, OUT id int, OUT cursor text) RETURNS SETOF record \
         LANGUAGE sql SECURITY DEFINER AS $$ SELECT op, (key->>'id')::int, cursor FROM sync_changes(since, '{ALL}') $$; \
         ALTER FUNCTION of_bob OWNER TO bob"
    ));
    let ask = |client: &mut Client, call: &str| -> (Vec<Option<i32>>, String) {
        let rows = client.query(&format!("SELECT op, id, cursor FROM {call}"), &[]).unwrap();
        let of_rows = rows.iter().filter(|row| row.get::<_, &str>(0) != "commit").map(|row| row.get(1)).collect();
        (of_rows, rows.iter().find_map(|row| row.get(2)).unwrap_or_default())
    };
    let (first, cursor) = ask(&mut stage.ann, "of_bob(NULL)");
    assert_eq!(first, [None, Some(1), Some(3), Some(5), Some(7), Some(9)]);
    stage.run("DELETE FROM issues WHERE id IN (1, 2)");
    assert_eq!(ask(&mut stage.ann, &format!("of_bob('{cursor}')")).0, [Some(1)]);
    let own =
        format!("(SELECT op, (key->>'id')::int, cursor FROM sync_changes('{cursor}', '{ALL}')) AS c(op, id, cursor)");
    assert_eq!(ask(&mut stage.ann, &own).0, [None, Some(4), Some(6), Some(8)]);
    // Who asks for all or nothing gets nothing.
    stage.ann.batch_execute("SET row_security = off").unwrap();
    assert_eq!(state(&Follower::new(ALL).try_pull(&mut stage.ann).unwrap_err()), "42501");
}

#[test]
fn functions_in_a_query_over_secured_tables_run_as_who_pulls() {
    let install = Install::new();
    let mut stage = Stage::new(&install, BY_MEMBER);
    stage.run(
        "CREATE TYPE mood AS ENUM ('calm'); ALTER TABLE issues ADD COLUMN p mood DEFAULT 'calm'; \
         CREATE FUNCTION spy(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'as % sees %', current_user, (SELECT count(*) FROM public.issues); END $$; \
         CREATE CAST (mood AS json) WITH FUNCTION spy(mood)",
    );
    let error = Follower::new(r#"{"tables": {"issues": {"columns": ["p"]}}}"#).try_pull(&mut stage.ann).unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), "as ann sees 3", "a function sees what ann sees");
}
