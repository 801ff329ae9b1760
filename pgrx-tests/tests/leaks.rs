//! Every byte that a user is sent, looked through for rows that row security never let him see: whatever he asks for, and
//! with cursors that he made himself. `LEAKS_SEED` and `LEAKS_QUESTIONS` choose another run.

use std::collections::BTreeSet;

use postgres::Client;
use syncline_delta::cursor::Cursor;
use syncline_delta::round::Stage;
use syncline_delta::snapshot::Snapshot;
use syncline_tests::rng::Rng;
use syncline_tests::{Cluster, Install};

const SETUP: &str = "
    CREATE EXTENSION syncline;
    CREATE TABLE projects (id int PRIMARY KEY, is_open boolean NOT NULL, name text NOT NULL);
    CREATE TABLE members (id text PRIMARY KEY, project_id int NOT NULL, who text NOT NULL);
    CREATE TABLE issues (id text PRIMARY KEY, project_id int NOT NULL, owner text NOT NULL, title text NOT NULL);
    CREATE INDEX ON members (project_id); CREATE INDEX ON issues (project_id);
    SELECT sync_track('projects', '{is_open,name}', true), sync_track('members', '{project_id,who}', true),
           sync_track('issues', '{project_id,owner,title}', true);
    CREATE ROLE ann; GRANT SELECT ON projects, members, issues TO ann;
    ALTER TABLE projects ENABLE ROW LEVEL SECURITY; ALTER TABLE members ENABLE ROW LEVEL SECURITY;
    ALTER TABLE issues ENABLE ROW LEVEL SECURITY;
    CREATE POLICY open ON projects USING (is_open);
    CREATE POLICY own ON members USING (who = current_user);
    CREATE POLICY by_member ON issues USING (project_id IN (SELECT project_id FROM members WHERE who = current_user));
    CREATE POLICY own ON issues FOR SELECT TO ann USING (owner = current_user);
    CREATE POLICY narrow ON issues AS RESTRICTIVE USING (project_id <> 3)";

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Words that stand for a row or for one of its values, each in one row only: `x` and digits and `z`.
fn words(text: &str) -> BTreeSet<String> {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_word = |part: &&str| {
        let digits = part.strip_prefix('x').and_then(|rest| rest.strip_suffix('z'));
        digits.is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    parts.filter(is_word).map(str::to_owned).collect()
}

/// A cursor as its holder can read it: the place of a page is encoded.
fn readable(cursor: &str) -> String {
    let page = cursor.parse::<Cursor>().ok().and_then(|cursor| cursor.round).and_then(|round| round.open);
    page.map_or(String::new(), |page| page.place.values.join(" "))
}

struct World {
    rng: Rng,
    admin: Client,
    writers: Vec<(Client, bool)>,
    words: u32,
    /// The words of all that Ann was ever allowed to see.
    allowed: BTreeSet<String>,
    /// The first transaction of the story.
    first: u64,
    commits: u32,
}

impl World {
    fn new(cluster: &Cluster<'_>, seed: u64) -> Self {
        let mut admin = cluster.connect();
        admin.batch_execute(SETUP).unwrap();
        let first = cluster.next_xid();
        let writers = (0..3).map(|_| (cluster.connect(), false)).collect();
        let mut world =
            Self { rng: Rng::new(seed, 0), admin, writers, words: 0, allowed: BTreeSet::new(), first, commits: 0 };
        for id in 0..5 {
            let name = world.word();
            world.admin.batch_execute(&format!("INSERT INTO projects VALUES ({id}, {}, '{name}')", id < 3)).unwrap();
        }
        world
    }

    fn word(&mut self) -> String {
        self.words += 1;
        format!("x{:06}z", self.words)
    }

    /// A statement that writes. Rows are picked by number, not by name: whoever writes knows them all.
    fn statement(&mut self) -> String {
        let (project, who) = (self.rng.below(5), *self.rng.pick(&["ann", "bob", "bob", "eve"]));
        let (word, other) = (self.word(), self.word());
        let one = |table: &str, n: u32| format!("(SELECT id FROM {table} ORDER BY md5(id::text || {n}) LIMIT 1)");
        let (issue, member) = (one("issues", self.rng.below(1000)), one("members", self.rng.below(1000)));
        match self.rng.below(16) {
            0..=3 => format!("INSERT INTO issues VALUES ('{word}', {project}, '{who}', '{other}')"),
            4 => format!("DELETE FROM issues WHERE id = {issue}"),
            5 | 6 => format!("UPDATE issues SET project_id = {project} WHERE id = {issue}"),
            7 => format!("UPDATE issues SET owner = '{who}' WHERE id = {issue}"),
            8 => format!("UPDATE issues SET title = '{word}' WHERE id = {issue}"),
            9 => format!("UPDATE issues SET id = '{word}' WHERE id = {issue}"),
            10 | 11 => format!("INSERT INTO members VALUES ('{word}', {project}, '{who}')"),
            12 => format!("DELETE FROM members WHERE id = {member}"),
            13 => format!("UPDATE members SET project_id = {project} WHERE id = {member}"),
            14 => format!("UPDATE members SET who = '{who}' WHERE id = {member}"),
            _ => format!("UPDATE projects SET is_open = NOT is_open, name = '{word}' WHERE id = {project}"),
        }
    }

    /// One writer's step; transactions overlap. After each commit, what Ann sees is what she was allowed to see.
    fn write(&mut self) {
        let (place, sql) = (self.rng.below(3) as usize, self.statement());
        let (end, commits) = (self.rng.one_in(3), !self.rng.one_in(5));
        let (writer, is_open) = &mut self.writers[place];
        if !*is_open {
            writer.batch_execute("SET lock_timeout = '10 ms'; BEGIN").unwrap();
        }
        *is_open = true;
        let failed = writer.batch_execute(&sql).is_err();
        if failed || end {
            *is_open = false;
            writer.batch_execute(if failed || !commits { "ROLLBACK" } else { "COMMIT" }).unwrap();
            self.commits += 1;
            self.see();
        }
    }

    fn see(&mut self) {
        let sql = "SET ROLE ann; SELECT p::text FROM projects p UNION ALL SELECT m::text FROM members m \
                   UNION ALL SELECT i::text FROM issues i; RESET ROLE";
        for message in self.admin.simple_query(sql).unwrap() {
            if let postgres::SimpleQueryMessage::Row(row) = message {
                self.allowed.extend(words(row.get(0).unwrap_or_default()));
            }
        }
    }

    fn next_xid(&mut self) -> u64 {
        let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        self.admin.query_one(sql, &[]).unwrap().get::<_, i64>(0) as u64
    }

    /// A shape that Ann may think of.
    fn shape(&mut self) -> String {
        const FILTERS: [&str; 14] = [
            "TRUE",
            "project_id = $1",
            "owner = 'bob'",
            "owner <> 'ann' AND project_id <> $1",
            "title > 'x000100z'",
            "title LIKE '%7z' OR title LIKE '%3z'",
            "NOT (id LIKE '%1z') OR project_id = $1",
            "project_id IN (SELECT project_id FROM members)",
            "project_id NOT IN (SELECT project_id FROM members)",
            "project_id IN (SELECT project_id FROM members WHERE who = 'bob')",
            "id NOT IN (SELECT id FROM members WHERE project_id = $1)",
            "project_id IN (SELECT id FROM projects WHERE is_open OR name > 'x')",
            "project_id NOT IN (SELECT id FROM projects WHERE id IN (SELECT project_id FROM members))",
            "owner IN (SELECT who FROM members WHERE project_id IN (SELECT project_id FROM members))",
        ];
        let issues = self.rng.pick(&FILTERS);
        let others = self.rng.pick(&[
            "",
            r#", "members": {"where": "who <> 'ann'"}"#,
            r#", "projects": {"where": "NOT is_open"}"#,
            r#", "members": {}, "projects": {}"#,
        ]);
        let params = if issues.contains("$1") { format!("[{}]", self.rng.below(5)) } else { "[]".to_owned() };
        format!(r#"{{"params": {params}, "tables": {{"issues": {{"where": "{issues}"}}{others}}}}}"#)
    }

    /// A moment, be it one that never was.
    fn moment(&mut self, now: u64) -> Snapshot {
        let xmax = self.first + u64::from(self.rng.below((now - self.first + 1) as u32));
        let share = 2 + self.rng.below(6);
        let unseen: Vec<u64> = (self.first..xmax).filter(|_| self.rng.one_in(share)).collect();
        Snapshot::new(xmax, unseen)
    }

    /// A cursor that no server gave, but that is well-formed.
    fn forged(&mut self, text: &str, now: u64) -> String {
        let Ok(mut cursor) = text.parse::<Cursor>() else { return text.to_owned() };
        let moment = self.moment(now);
        let (to_target, to_floor) = (self.moment(now), self.moment(now));
        let stage = *self.rng.pick(&[Stage::Left, Stage::Gone, Stage::Written, Stage::Entered]);
        match &mut cursor.round {
            Some(round) if self.rng.one_in(2) => {
                if self.rng.one_in(2) {
                    round.floor = round.floor.union(&to_floor);
                }
                if let Some(page) = &mut round.open {
                    match self.rng.below(4) {
                        0 => page.target = page.target.union(&to_target),
                        1 => page.from_exact = !page.from_exact,
                        2 => (page.place.stage, page.place.values) = (stage, vec!["0".to_owned(), "0".to_owned()]),
                        _ => cursor.position.snapshot = moment,
                    }
                }
            }
            _ => cursor.position.snapshot = moment,
        }
        cursor.to_string()
    }
}

/// What a statement sent: all of it, errors too.
fn sent(client: &mut Client, sql: &str) -> String {
    match client.simple_query(sql) {
        Ok(messages) => {
            let mut text = String::new();
            for message in &messages {
                if let postgres::SimpleQueryMessage::Row(row) = message {
                    (0..row.len())
                        .for_each(|column| text.push_str(&format!("{}\n", row.get(column).unwrap_or_default())));
                }
            }
            text
        }
        Err(error) => {
            let _ = client.batch_execute("ROLLBACK");
            format!("{:?}", error.as_db_error().expect("the server lives"))
        }
    }
}

#[test]
fn no_byte_tells_of_a_row_that_was_never_allowed() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let seed = number("LEAKS_SEED", 1);
    let mut world = World::new(&cluster, seed.into());
    let mut ann = cluster.connect();
    ann.batch_execute("SET ROLE ann").unwrap();
    // Shapes with the cursors that the server gave for them.
    let mut pool: Vec<(String, Vec<String>)> = Vec::new();
    let (mut deltas, mut resets, mut refused, mut deletes, mut told) = (0, 0, 0, 0, BTreeSet::new());
    for question in 0..number("LEAKS_QUESTIONS", 1000) {
        (0..=world.rng.below(3)).for_each(|_| world.write());
        let now = world.next_xid();
        if pool.len() < 40 || world.rng.one_in(30) {
            let shape = world.shape();
            pool.push((shape, Vec::new()));
        }
        let place = world.rng.below(pool.len() as u32) as usize;
        let (shape, cursors) = &pool[place];
        let (shape, held) = (shape.clone(), cursors.clone());
        let real = if held.is_empty() { None } else { Some(world.rng.pick(&held).clone()) };
        let since = match real {
            Some(real) if !world.rng.one_in(4) => Some(world.forged(&real, now)),
            real => real,
        };
        let literal = since.as_ref().map_or("NULL".to_owned(), |since| format!("'{since}'"));
        let quoted = shape.replace('\'', "''");
        let limit = *world.rng.pick(&["NULL", "NULL", "1", "2", "5"]);
        let sql = match world.rng.below(8) {
            0 => format!("SELECT sync_pull({literal}, '{quoted}', max_rows => {limit})::text"),
            1 => format!("SELECT * FROM sync_preview('{quoted}')"),
            2 => format!("SELECT * FROM sync_digest('{quoted}')"),
            3 => format!("CALL sync_wait({literal}, '{quoted}', '1 ms')"),
            _ => format!("SELECT op, relation, key, value, cursor FROM sync_changes({literal}, '{quoted}', {limit})"),
        };
        let text = sent(&mut ann, &sql);
        let next = text.lines().find(|line| line.starts_with("s1.")).map(str::to_owned);
        let mut found = words(&text);
        found.extend(next.iter().flat_map(|cursor| words(&readable(cursor))));
        // What she asked with is no news.
        found.retain(|word| {
            !sql.contains(word.as_str()) && !since.as_deref().is_some_and(|s| readable(s).contains(word))
        });
        world.see();
        let foreign: Vec<_> = found.difference(&world.allowed).collect();
        assert!(foreign.is_empty(), "seed {seed}, question {question}: {foreign:?} in the answer to {sql}\n{text}");
        deletes += text.lines().filter(|line| *line == "delete").count();
        told.extend(found);
        match &since {
            Some(_) if text.contains("SqlState") => refused += 1,
            Some(_) if text.contains("reset\n") => resets += 1,
            Some(_) => deltas += 1,
            None => {}
        }
        let cursors = &mut pool[place].1;
        cursors.extend(next);
        if cursors.len() > 8 {
            cursors.remove(0);
        }
    }
    println!(
        "{deltas} deltas, {resets} resets, {refused} refused, {deletes} deletes; {} of {} words told, {} allowed, {} commits",
        told.len(),
        world.words,
        world.allowed.len(),
        world.commits
    );
    assert!(deltas > 100 && resets > 100 && deletes > 100, "toothless");
    assert!(told.len() * 2 > world.allowed.len(), "what is allowed is told");
    assert!(world.allowed.len() * 3 < world.words as usize * 2, "much is not allowed");
}

/// A snapshot that sees how a row came to a project, but not that Ann had left it before, shows her the row in a moment that
/// never was.
#[test]
fn cursor_of_a_moment_that_never_was_tells_nothing() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut admin = cluster.connect();
    admin.batch_execute(SETUP).unwrap();
    admin
        .batch_execute(
            "INSERT INTO members VALUES ('m', 1, 'ann'); INSERT INTO issues VALUES ('i', 2, 'bob', 'secret')",
        )
        .unwrap();
    let mut ann = cluster.connect();
    ann.batch_execute("SET ROLE ann").unwrap();
    let mut ask = |since: Option<&str>| -> (Vec<String>, String) {
        let sql = r#"SELECT op || coalesce(' ' || (key->>'id'), ''), coalesce(cursor, '')
                     FROM sync_changes($1, '{"tables": {"issues": {"columns": ["id"]}}}')"#;
        let rows = ann.query(sql, &[&since]).unwrap();
        (rows.iter().map(|row| row.get(0)).collect(), rows.last().map(|row| row.get(1)).unwrap_or_default())
    };
    let (_, cursor) = ask(None);
    let leaves = cluster.next_xid();
    for sql in ["DELETE FROM members", "UPDATE issues SET project_id = 1", "DELETE FROM issues"] {
        admin.batch_execute(sql).unwrap();
    }
    let mut forged: Cursor = cursor.parse().unwrap();
    forged.position.snapshot = Snapshot::new(leaves + 2, [leaves]);
    assert_eq!(ask(Some(&forged.to_string())).0, ["reset", "commit"]);
    assert_eq!(ask(Some(&cursor)).0, ["commit"], "the cursor that was given");
}
