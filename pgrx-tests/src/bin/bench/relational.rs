//! A client of one project among many, against queries written by hand for the same answers.

use super::Bench;

const TABLES: &str = "
    CREATE TABLE projects (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE members (project_id int NOT NULL, who int NOT NULL, PRIMARY KEY (project_id, who));
    CREATE TABLE issues (id int PRIMARY KEY, project_id int NOT NULL, title text NOT NULL, state text NOT NULL);
    CREATE TABLE comments (id int PRIMARY KEY, issue_id int NOT NULL, body text NOT NULL);
    INSERT INTO projects SELECT g, 'project ' || g FROM generate_series(1, $projects) g;
    INSERT INTO members SELECT 1 + (g - 1) % $projects, g FROM generate_series(1, $projects * 10) g;
    INSERT INTO issues SELECT g, 1 + g % $projects, 'issue ' || g, 'open' FROM generate_series(1, $projects * 1000) g;
    INSERT INTO comments SELECT g, 1 + g % ($projects * 1000), 'comment ' || g FROM generate_series(1, $projects * 5000) g;
    CREATE INDEX ON members (who);
    CREATE INDEX ON issues (project_id);
    CREATE INDEX ON comments (issue_id);
    SELECT sync_track('projects'), sync_track('members', '{who}', true),
           sync_track('issues', '{project_id}', true), sync_track('comments', '{issue_id}');";

const SHAPE: &str = r#"{"params": [1], "tables": {
    "projects": {"where": "id IN (SELECT project_id FROM members WHERE who = $1)"},
    "issues": {"where": "project_id IN (SELECT project_id FROM members WHERE who = $1)"},
    "comments": {"where": "issue_id IN (SELECT id FROM issues WHERE project_id IN (SELECT project_id FROM members WHERE who = $1))"}}}"#;

/// Row 5 changed: by someone who knows that it did, and that the client sees it.
const CHANGED: &str = "SELECT count(value) FROM (SELECT json_build_object('id', id)::text AS key, \
    to_jsonb(c) - '_sync_version' AS value FROM comments c WHERE id = $comment) q";

/// What a project has, by someone who knows that it was granted.
const GRANTED: &str = "SELECT count(key), count(value) FROM (
    SELECT json_build_object('id', id)::text AS key, (to_jsonb(p) - '_sync_version')::text AS value FROM projects p WHERE id = 2
    UNION ALL
    SELECT json_build_object('id', id)::text, (to_jsonb(i) - '_sync_version')::text FROM issues i WHERE project_id = 2
    UNION ALL
    SELECT json_build_object('id', c.id)::text, (to_jsonb(c) - '_sync_version')::text
    FROM issues i JOIN comments c ON c.issue_id = i.id WHERE i.project_id = 2) q";

/// The keys of what a project has, by someone who knows that it was revoked.
const REVOKED: &str = "SELECT count(key) FROM (
    SELECT json_build_object('id', id)::text AS key FROM projects p WHERE id = 2
    UNION ALL
    SELECT json_build_object('id', id)::text FROM issues i WHERE project_id = 2
    UNION ALL
    SELECT json_build_object('id', c.id)::text FROM issues i JOIN comments c ON c.issue_id = i.id WHERE i.project_id = 2) q";

impl Bench<'_> {
    /// Nothing changed, one comment changed, a membership granted and revoked.
    pub fn relational(&mut self, scale: u32) {
        let projects = 1000 / scale;
        println!("loading {projects} projects of 1,000 issues and 5,000 comments");
        self.client
            .batch_execute(&TABLES.replace("$projects", &projects.to_string()))
            .expect("the tables can be loaded");
        self.client.batch_execute("VACUUM ANALYZE projects, members, issues, comments").expect("they can be vacuumed");
        let prepare =
            "PREPARE pull(text) AS SELECT count(key), count(value) FROM sync_changes($1, $shape$SHAPE$shape$)";
        self.time(&prepare.replace("SHAPE", SHAPE));
        self.time("PREPARE one AS SELECT 1");
        let since = self.cursor();
        let pull = format!("EXECUTE pull('{since}')");
        self.compare("empty delta of 3 related tables against SELECT 1", &pull, "EXECUTE one", Some(5.0));
        let comment: i32 = 5 * i32::try_from(projects).unwrap_or(1000);
        self.time(&format!("UPDATE comments SET body = 'changed' WHERE id = {comment}"));
        self.compare(
            "one comment changed, against SQL by hand",
            &pull,
            &CHANGED.replace("$comment", &comment.to_string()),
            None,
        );
        let since = self.cursor();
        self.time("INSERT INTO members VALUES (2, 1)");
        self.compare(
            "membership granted, against SQL by hand",
            &format!("EXECUTE pull('{since}')"),
            GRANTED,
            Some(1.5),
        );
        let since = self.cursor();
        self.time("DELETE FROM members WHERE project_id = 2 AND who = 1");
        self.compare(
            "membership revoked, against SQL by hand",
            &format!("EXECUTE pull('{since}')"),
            REVOKED,
            Some(1.5),
        );
    }

    fn cursor(&mut self) -> String {
        let sql = format!("SELECT cursor FROM sync_changes(NULL, $shape${SHAPE}$shape$) WHERE op = 'commit'");
        self.client.query_one(&sql, &[]).expect("a cursor can be had").get(0)
    }
}
