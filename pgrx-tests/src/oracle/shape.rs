//! Shapes to follow, and the truth about them in hand-written SQL.

use super::Kind;
use crate::rng::Rng;

/// A shape and what it means.
#[derive(Clone)]
pub struct Followed {
    /// As `sync_changes` takes it.
    pub shape: String,
    /// By its filters; nothing if it leaves columns out. A change of those alone sends the row again, as nobody keeps what
    /// they were.
    pub kind: Option<Kind>,
    /// Relation, and a query of exactly the chosen columns.
    truth: Vec<(&'static str, String)>,
}

/// Filters of `issues` as a shape says them and as we would; `$1` is the shape's parameter.
const ISSUES: [(&str, &str); 10] = [
    ("project_id = $1", "project_id = {p}"),
    ("state IN ('open', 'todo')", "state = 'open' OR state = 'todo'"),
    ("project_id <> 2 AND NOT state = 'done'", "project_id <> 2 AND state <> 'done'"),
    ("state IS NULL OR project_id > $1", "state IS NULL OR project_id > {p}"),
    ("id BETWEEN 5 AND 25", "id >= 5 AND id <= 25"),
    ("state LIKE 'o%' OR state IS DISTINCT FROM 'open'", "true"),
    ("project_id = $1 AND state NOT IN ('done')", "project_id = {p} AND state <> 'done'"),
    ("NOT (project_id = $1 OR state = 'open')", "project_id <> {p} AND state <> 'open'"),
    ("TRUE", "true"),
    ("NOT TRUE", "false"),
];

/// The same for `items`.
const ITEMS: [(&str, &str); 5] = [
    ("state = 'open'", "state = 'open'"),
    ("region = $1", "region = {p}"),
    ("NOT state = 'todo'", "state <> 'todo'"),
    ("region <> 1 OR state IS NULL", "region <> 1 OR state IS NULL"),
    ("TRUE", "true"),
];

/// Filters of `issues` with sub-selects; Postgres reads them as we must.
const BELONGING: [&str; 11] = [
    "project_id IN (SELECT id FROM projects WHERE team = $1)",
    "project_id IN (SELECT id FROM projects WHERE is_open AND id IN (SELECT project_id FROM members WHERE who = $1))",
    "state = 'open' AND project_id IN (SELECT project_id FROM members WHERE who = $1)",
    "state = 'open' OR project_id IN (SELECT project_id FROM members WHERE who = $1)",
    "id NOT IN (SELECT project_id FROM members WHERE who = $1)",
    "project_id IN (SELECT id FROM projects WHERE parent IN (SELECT id FROM projects WHERE team = $1))",
    "project_id IN (SELECT id FROM projects WHERE is_open) AND id IN (SELECT project_id FROM members WHERE who <> $1)",
    "project_id IN (SELECT id FROM projects WHERE parent IN (SELECT id FROM projects WHERE id IN \
     (SELECT project_id FROM members WHERE who = $1)))",
    "id NOT IN (SELECT id FROM projects WHERE is_open AND id NOT IN (SELECT project_id FROM members WHERE who = $1))",
    "project_id = $1 AND NOT (state = 'done' OR id IN (SELECT id FROM projects WHERE team IS NULL))",
    "project_id IN (SELECT parent FROM projects) OR id IN (SELECT project_id FROM members) AND state = 'todo'",
];

/// Filters of `projects`, a level and a leaf at once.
const PROJECTS: [&str; 4] = [
    "parent IN (SELECT id FROM projects WHERE is_open)",
    "id IN (SELECT parent FROM projects WHERE team = $1)",
    "id IN (SELECT project_id FROM members WHERE who = $1)",
    "is_open AND id NOT IN (SELECT project_id FROM members WHERE who = $1)",
];

/// Columns as a shape lists them, and what that means: the key always belongs to it.
const COLUMNS: [(&str, &str); 4] = [
    (r#"["id", "project_id", "state", "title"]"#, "id, project_id, state, title"),
    (r#"["title", "state"]"#, "id, state, title"),
    (r#"["title"]"#, "id, title"),
    (r#"["id"]"#, "id"),
];

impl Followed {
    /// A shape of one table or both.
    pub fn new(rng: &mut Rng) -> Self {
        let (mut tables, mut truth) = (Vec::new(), Vec::new());
        let parameter = rng.below(4);
        let bind = |sql: &str| sql.replace("{p}", &parameter.to_string()).replace("$1", &parameter.to_string());
        let which = rng.below(5);
        if which != 1 {
            let relational = *rng.pick(&BELONGING);
            let flat = *rng.pick(&ISSUES);
            let (filter, meaning) = if rng.one_in(2) { (relational, relational) } else { flat };
            let (columns, list) = *rng.pick(&COLUMNS);
            tables.push(format!(r#""issues": {{"columns": {columns}, "where": "{filter}"}}"#));
            truth.push(("issues", format!("SELECT {list} FROM issues WHERE {}", bind(meaning))));
        }
        if which > 2 {
            let filter = *rng.pick(&PROJECTS);
            tables.push(format!(r#""projects": {{"where": "{filter}"}}"#));
            truth.push((
                "projects",
                format!("SELECT id, parent, team, is_open, title FROM projects WHERE {}", bind(filter)),
            ));
        } else if which != 0 {
            let (filter, meaning) = *rng.pick(&ITEMS);
            tables.push(format!(r#""items": {{"where": "{filter}"}}"#));
            truth.push(("items", format!("SELECT id, region, state, note FROM items WHERE {}", bind(meaning))));
        }
        let tables = tables.join(", ");
        // A parameter that no filter uses is refused.
        let params = if tables.contains("$1") { format!("[{parameter}]") } else { "[]".to_owned() };
        let kind = match tables.contains("SELECT") {
            false => Kind::Flat,
            true if tables.contains(" OR ") || tables.contains("NOT ") => Kind::Mixed,
            true => Kind::Nested,
        };
        let kind = COLUMNS[1..].iter().all(|(columns, _)| !tables.contains(columns)).then_some(kind);
        Self { shape: format!(r#"{{"params": {params}, "tables": {{{tables}}}}}"#), kind, truth }
    }

    /// Rows (`truth`, relation, NULL, value, NULL), in one line with what `sync_changes` returns; with
    /// `digest` also what `sync_digest` says: (`digest`, count, hash, NULL, NULL).
    pub fn truth(&self, digest: bool) -> String {
        let rows = |(name, sql): &(&str, String)| {
            format!("SELECT 'truth', '{name}', NULL, to_jsonb(x)::text, NULL FROM ({sql}) x")
        };
        let mut parts: Vec<String> = self.truth.iter().map(rows).collect();
        if digest {
            let shape = self.shape.replace('\'', "''");
            parts.push(format!("SELECT 'digest', d.rows::text, d.hash, NULL, NULL FROM sync_digest('{shape}') d"));
        }
        parts.join(" UNION ALL ")
    }
}
