//! A delta in pages against the same delta whole.

use super::Bench;

const SHAPE: &str = r#"{"tables": {"giant": {}}}"#;

impl Bench<'_> {
    /// One transaction that wrote a million rows, and a first pull of them, in pages of a thousand.
    pub fn pages(&mut self, scale: u32) {
        let rows = 1_000_000 / scale;
        self.table("giant", rows);
        let name = format!("first pull of {rows} rows in pages of 1,000 against whole");
        self.compare(&name, &pages(None, "1000"), &pages(None, "NULL"), None);
        for (name, change) in [("updated", "UPDATE giant SET title = 'changed'"), ("deleted", "DELETE FROM giant")] {
            let sql = format!("SELECT cursor FROM sync_changes(NULL, '{SHAPE}') WHERE op = 'commit'");
            let since: String = self.client.query_one(&sql, &[]).expect("a cursor can be had").get(0);
            self.time(change);
            let name = format!("{rows} rows {name} by one transaction, in pages of 1,000 against whole");
            self.compare(&name, &pages(Some(&since), "1000"), &pages(Some(&since), "NULL"), Some(2.0));
        }
    }
}

/// Pulls until the client is up to date, in a session on the server: no network is measured.
fn pages(since: Option<&str>, max_rows: &str) -> String {
    let since = since.map_or("NULL".to_owned(), |since| format!("'{since}'"));
    format!(
        "DO $do$ DECLARE since text := {since}; last text; BEGIN LOOP \
         SELECT max(c.cursor), max(c.value::text) FILTER (WHERE c.op = 'commit') INTO since, last \
         FROM sync_changes(since, '{SHAPE}', {max_rows}) c; \
         EXIT WHEN last = '{{\"up_to_date\": true}}'; END LOOP; END $do$"
    )
}
