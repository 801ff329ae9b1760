//! Tables to follow, what happens to them meanwhile, and shapes over them.

use serde_json::{Map, Value, json};

use super::filter;
use crate::rng::Rng;

/// A table with a column of every kind of type, one that is partitioned and has a key of two columns, one
/// whose names need quotes, and one that is not tracked.
pub const SCHEMA: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN small AS int CHECK (VALUE < 100);
    CREATE TYPE pair AS (x int, y text);
    CREATE TABLE t (id int PRIMARY KEY, big bigint, n numeric, f float8, b boolean, s text, v varchar(20), c char(5),
        mood mood, at timestamptz, d date, span interval, u uuid, j jsonb, a int[], r int4range, bin bytea,
        "Odd ""näme" small, hidden text, js json, moods mood[], pair pair, x xml, during tstzrange);
    SELECT sync_track('t', '{big,n,f,b,s,v,c,mood,at,d,span,u,j,a,r,bin,"Odd \"näme",pair,during,moods}', log_inserts => true);
    INSERT INTO t SELECT i, i * 3000000000, i / 4.0, i / 8.0, i % 3 = 0, (ARRAY['open', 'üñ𝄞', '', NULL, 'o''k'])[i % 5 + 1],
        'open', 'ab', (ARRAY['sad', 'ok', NULL])[i % 3 + 1]::mood, '2024-01-01'::timestamptz + i * interval '9 hours',
        '2024-02-29', make_interval(days => i), ('00000000-0000-0000-0000-00000000000' || i % 10)::uuid,
        jsonb_build_object('a', i, 'k', 'open'), ARRAY[i, i + 1], int4range(i, i + 5), '\x00ff', i, 'not logged', '{"a" : [1]}',
        '{ok,sad}', (i, 'y')::pair, '<a/>', '[2024-01-01,2024-06-01)' FROM generate_series(1, 12) i;
    CREATE TABLE items (id text, region int, state text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
    CREATE TABLE items_1 PARTITION OF items FOR VALUES IN (1);
    CREATE TABLE items_rest PARTITION OF items DEFAULT;
    SELECT sync_track('items', '{state}');
    INSERT INTO items SELECT 'k' || i, i % 3, (ARRAY['open', 'done', NULL])[i % 3 + 1] FROM generate_series(1, 9) i;
    CREATE SCHEMA "Oth er";
    CREATE TABLE "Oth er"."T ""able" ("K ey" bigint PRIMARY KEY, "ö" text, s text COLLATE "C");
    SELECT sync_track('"Oth er"."T ""able"', '{s}');
    INSERT INTO "Oth er"."T ""able" SELECT i, 'ö', 'open' FROM generate_series(1, 3) i;
    CREATE TABLE untracked (id int PRIMARY KEY);
    SELECT sync_prune('1 hour');
"#;

/// Writes of others, so that cursors have something to lack.
pub const WRITES: &[&str] = &[
    "UPDATE t SET s = 'done', n = n + 1 WHERE id % 4 = 1",
    "UPDATE t SET s = 'open', j = '[1]' WHERE id % 3 = 1",
    "DELETE FROM t WHERE id = 5",
    "INSERT INTO t (id, s, j) VALUES (5, 'open', '{\"a\": 1}') ON CONFLICT DO NOTHING",
    "UPDATE t SET id = 105 - id WHERE id IN (6, 99)",
    "UPDATE items SET state = 'open' WHERE region = 1",
    "UPDATE items SET region = (region + 1) % 3 WHERE id = 'k4'",
    "UPDATE \"Oth er\".\"T \"\"able\" SET s = s || 'x' WHERE \"K ey\" = 2",
    "TRUNCATE items_1; INSERT INTO items VALUES ('k1', 1, 'open')",
];

/// What may stand in the place of any part of a shape.
fn anything(rng: &mut Rng) -> Value {
    let nested = |depth| (0..depth).fold(Value::Null, |inner, _| json!([inner]));
    match rng.below(16) {
        0 => Value::Null,
        1 => json!({}),
        2 => json!([]),
        3 => json!(""),
        4 => json!("t"),
        5 => json!(true),
        6 => "1e400".parse().map_or(Value::Null, Value::Number),
        7 => json!("\u{0}"),
        8 => json!("x".repeat(100_000)),
        9 => json!("𝄞\u{fffe}\u{202e}\"'\\;--"),
        10 => json!(["id", "id"]),
        11 => json!({"t": {}}),
        12 => nested(50),
        13 => nested(126),
        14 => json!({"where": "TRUE", "table": "t"}),
        _ => json!("n".repeat(64)),
    }
}

/// Replaces, removes or adds one part of the value, somewhere in its depth.
fn alter(rng: &mut Rng, value: &mut Value) {
    match value {
        Value::Object(members) if !members.is_empty() && !rng.one_in(6) => {
            let key = rng.pick(&members.keys().cloned().collect::<Vec<_>>()).clone();
            match rng.below(8) {
                0 => drop(members.shift_remove(&key)),
                1 => {
                    let moved = members.shift_remove(&key).unwrap_or_default();
                    members.insert(format!("{key}{}", rng.pick(&["s", " ", "\u{301}", "\u{0}", "."])), moved);
                }
                2 => drop(members.insert((*rng.pick(&["limit", "", "t", "int8"])).to_owned(), anything(rng))),
                _ => alter(rng, &mut members[&key]),
            }
        }
        Value::Array(items) if !items.is_empty() && !rng.one_in(3) => {
            let place = rng.below(items.len() as u32) as usize;
            match rng.below(4) {
                0 => drop(items.remove(place)),
                1 => items.insert(place, items[place].clone()),
                _ => alter(rng, &mut items[place]),
            }
        }
        other => *other = anything(rng),
    }
}

/// A part of the JSON text goes, comes twice, or becomes something else.
fn garble(rng: &mut Rng, text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=rng.below(3) {
        let place = rng.below(characters.len() as u32 + 1) as usize;
        match rng.below(4) {
            0 => characters.truncate(place),
            1 if place < characters.len() => drop(characters.remove(place)),
            2 => characters
                .splice(place..place, rng.pick(&["\\u0000", "\\ud834", "{", "]", "\"", ",", "\u{0}"]).chars())
                .for_each(drop),
            _ => characters.insert(place, *rng.pick(&['"', '\\', '0', 'ü', '\u{7f}', '}'])),
        }
    }
    characters.into_iter().collect()
}

/// How far a shape is from what is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// As documented; a value may still not fit its column's type.
    Valid,
    /// The filter is damaged.
    Filter,
    /// The JSON structure is damaged.
    Structure,
    /// The text is damaged.
    Text,
}

impl Source {
    /// Any of them.
    pub fn pick(rng: &mut Rng) -> Self {
        *rng.pick(&[Self::Valid, Self::Valid, Self::Filter, Self::Filter, Self::Structure, Self::Text])
    }

    /// The text of a shape.
    pub fn shape(self, rng: &mut Rng) -> String {
        let mut params = Vec::new();
        let (mut tables, which) = (Map::new(), rng.below(6));
        if which != 1 {
            let mut filter = filter::valid(rng, &mut params, 0);
            if self == Self::Filter {
                filter = filter::damaged(rng, &filter);
            }
            let mut table = json!({"where": filter});
            if rng.one_in(3) {
                table["columns"] =
                    rng.pick(&[json!(["s"]), json!(["hidden", "js", "moods", "pair"]), json!(["id"])]).clone();
            }
            tables.insert("t".to_owned(), table);
        }
        if which < 2 {
            tables.insert(
                "items".to_owned(),
                json!({"where": *rng.pick(&["state = 'open'", "region <> 1", "id LIKE 'k%'"])}),
            );
        }
        if which == 2 {
            let name = "\"Oth er\".\"T \"\"able\"";
            let known_as = *rng.pick(&["other", "t2", "ö\n", "\"", "T \"able"]);
            tables.insert(known_as.to_owned(), json!({"table": name, "where": "\"K ey\" < 9 OR s > 'x'"}));
        }
        let mut shape = json!({"tables": tables, "params": params});
        if rng.one_in(5) {
            shape["int8"] = json!("string");
        }
        if self == Self::Structure {
            (0..=rng.below(2)).for_each(|_| alter(rng, &mut shape));
        }
        let text = shape.to_string();
        if self == Self::Text { garble(rng, &text) } else { text }
    }
}
