//! One client that checks the law at each pull, for tests that tell a story about one table.

use std::collections::BTreeMap;

use postgres::Client;

/// What a client holds of one shape.
pub struct Follower {
    shape: String,
    copy: BTreeMap<(String, String), String>,
    cursor: Option<String>,
}

impl Follower {
    /// A client that holds nothing of this shape yet.
    pub fn new(shape: &str) -> Self {
        Self { shape: shape.to_owned(), copy: BTreeMap::new(), cursor: None }
    }

    /// Pulls, applies, and compares with the shape's rows in the statement's snapshot. Gives the changes but the
    /// commit as `op key` or `op reason`.
    pub fn try_pull(&mut self, client: &mut Client) -> Result<Vec<String>, postgres::Error> {
        let sql = "SELECT op, relation, key::text, value::text, cursor, value->>'reason' \
                       FROM sync_changes($1::text, $2::text::jsonb) \
                   UNION ALL SELECT 'truth', relation, key::text, value::text, NULL, NULL \
                       FROM sync_preview($2::text::jsonb) WHERE op = 'upsert'";
        let (mut ops, mut truth) = (Vec::new(), BTreeMap::new());
        for row in client.query(sql, &[&self.cursor, &self.shape])? {
            let text = |i: usize| row.get::<_, Option<String>>(i).unwrap_or_default();
            let place = (text(1), text(2));
            match text(0).as_str() {
                "truth" => {
                    truth.insert(place, text(3));
                    continue;
                }
                "reset" => self.copy.clear(),
                "delete" => {
                    self.copy.remove(&place);
                }
                "upsert" => {
                    self.copy.insert(place, text(3));
                }
                _ => {
                    self.cursor = row.get(4);
                    continue;
                }
            }
            ops.push(format!("{} {}{}", text(0), text(2), text(5)));
        }
        assert_eq!(self.copy, truth, "the copy and the truth, after {ops:?}");
        Ok(ops)
    }

    /// The same, where nothing can go wrong.
    pub fn pull(&mut self, client: &mut Client) -> Vec<String> {
        self.try_pull(client).unwrap_or_else(|error| panic!("{}: {error:?}", self.shape))
    }

    /// How many rows it holds.
    pub fn count(&self) -> usize {
        self.copy.len()
    }
}
