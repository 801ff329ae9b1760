//! Filters of the grammar, and what is left of them after some words were moved about.

use serde_json::{Value, json};

use crate::rng::Rng;

/// A filter column as a filter names it, and constants that fit its type.
const COLUMNS: [(&str, &[&str]); 21] = [
    ("id", &["1", "7", "-3", "'5'", "2147483647"]),
    ("big", &["1", "9223372036854775807", "'-1'::bigint"]),
    ("n", &["1.50", "0", "-1e10", "'NaN'", "1e300", ".5"]),
    ("f", &["1.5", "'Infinity'", "'-0'", "1e-300"]),
    ("b", &["TRUE", "false", "'t'"]),
    ("s", &["'open'", "''", "'o''k'", "'üñ𝄞\u{202e}'", "E'tab\\t'", "$$dollar$$", "current_user", "'%_\\\\'"]),
    ("v", &["'open'", "'ok'::text", "current_setting('app.name', true)"]),
    ("c", &["'ab'", "'ab   '"]),
    ("mood", &["'sad'", "'ok'", "'sad'::text"]),
    ("at", &["'2024-01-01'", "'2024-01-01 12:00+02'::timestamptz", "timestamp '2024-02-29'", "'infinity'"]),
    ("d", &["'2024-02-29'", "date '1999-12-31'", "'-infinity'"]),
    ("span", &["'1 day'", "'P1Y2M'", "interval '25 hours'"]),
    ("u", &["'00000000-0000-0000-0000-000000000001'"]),
    ("j", &["'{\"a\": 1}'", "'null'", "'[1, \"x\"]'", "'{}'::jsonb"]),
    ("a", &["'{1,2}'", "ARRAY[1, NULL, 2]", "'{}'", "'{1}'::int[]"]),
    ("r", &["'[1,5)'", "'empty'", "'(,)'"]),
    ("during", &["'[2024-01-01,)'", "'empty'::tstzrange", "'[now,)'"]),
    ("pair", &["'(1,x)'", "NULL"]),
    ("moods", &["'{ok}'", "ARRAY['sad']"]),
    ("bin", &["'\\x00ff'", "E'\\\\x'"]),
    ("\"Odd \"\"näme\"", &["1", "2"]),
];

/// Words that stand in filters, and words that should not.
const SOUP: &[&str] = &[
    "AND",
    "OR",
    "NOT",
    "(",
    ")",
    "[",
    "]",
    ",",
    "=",
    "<>",
    "<",
    ">=",
    "-",
    "+",
    "/",
    "||",
    "->",
    "->>",
    "#>",
    "#>>",
    "@>",
    "<@",
    "&&",
    "?",
    "~",
    "::",
    "::int",
    "::date",
    "::regclass",
    "::xml",
    "::cstring",
    "::record",
    "::nothing",
    "IS",
    "NULL",
    "TRUE",
    "DISTINCT FROM",
    "IN",
    "BETWEEN",
    "LIKE",
    "ILIKE",
    "SIMILAR TO",
    "= ANY",
    "ANY(",
    "ALL(",
    "SELECT",
    "CASE WHEN",
    "END",
    "EXISTS",
    "CAST(",
    "AS",
    "int",
    "ARRAY[",
    "ROW(",
    "lower(",
    "upper(",
    "length(",
    "coalesce(",
    "now()",
    "'now'",
    "'{now}'",
    "'[today,)'",
    "'yesterday'",
    "current_user",
    "current_setting(",
    "'app.x'",
    "'is_superuser'",
    "pg_sleep(9)",
    "$1",
    "$2",
    "$0",
    "$99999999999999999999",
    "$$",
    "$x$",
    "'",
    "\"",
    "''",
    "\"\"",
    "E'\\x00'",
    "E'\\u0000'",
    "U&'\\0000'",
    "b'1'",
    "x'ff'",
    "1",
    "-1",
    "1e999999999",
    "0x10",
    "1_000",
    "99999999999999999999999999",
    "'1e400'",
    "'\\'",
    "--",
    "/*",
    "*/",
    ";",
    "DROP TABLE t",
    "LIMIT 1",
    "ORDER BY id",
    "id",
    "n",
    "s",
    "j",
    "a",
    "at",
    "ctid",
    "xmin",
    "tableoid",
    "_sync_version",
    "t.id",
    "t.*",
    "*",
    "hidden",
    "nope",
    "\u{feff}",
    "\u{0}",
    "\u{200b}",
    "𝄞",
    "İ",
    "ſ",
    "é",
    "\u{10ffff}",
    "\t",
    "\n",
    "OPERATOR(pg_catalog.=)",
    "COLLATE \"C\"",
    "AT TIME ZONE 'UTC'",
    "IS JSON",
    "OVER ()",
    "FILTER (WHERE TRUE)",
    "{",
    "}",
    ":",
    "@",
    "#",
    "\\",
    "!",
    "^",
];

/// A filter of the grammar. Values that it wants as parameters are appended to `params`.
pub fn valid(rng: &mut Rng, params: &mut Vec<Value>, depth: u32) -> String {
    let (name, constants) = *rng.pick(&COLUMNS);
    let one = *rng.pick(constants);
    let not = *rng.pick(&["", "NOT "]);
    match rng.below(if depth < 4 { 21 } else { 16 }) {
        0..=2 => format!("{name} {} {one}", rng.pick(&["=", "<>", "<", "<=", ">", ">=", "!="])),
        3 => format!("{one} {} {name}", rng.pick(&["=", ">"])),
        4 => format!("{name} IS {not}NULL"),
        5 | 6 => {
            let length = if rng.one_in(60) { 3000 } else { 1 + rng.below(4) };
            let list: Vec<&str> = (0..length).map(|_| *rng.pick(constants)).collect();
            format!("{name} {not}IN ({})", list.join(", "))
        }
        7 => format!("{name} {not}BETWEEN {one} AND {}", rng.pick(constants)),
        8 => format!(
            "{} {not}{} {}",
            rng.pick(&["s", "v", "c", "lower(s)", "j ->> 'k'"]),
            rng.pick(&["LIKE", "ILIKE"]),
            rng.pick(&["'o%'", "'%_\\\\'", "''", "'%ü%'", "'\\%'"])
        ),
        9 => format!("{name} IS {not}DISTINCT FROM {one}"),
        10 => (*rng.pick(&[
            "j ->> 'a' = '1'",
            "j -> 'a' -> 0 = '1'",
            "j #>> '{a,0}' IS NULL",
            "j #> ARRAY['a'] @> '[]'",
            "j -> -1 IS NOT NULL",
        ]))
        .to_owned(),
        11 => {
            (*rng.pick(&["a && '{1,2}'", "a @> ARRAY[1]", "a <@ '{1,2,3}'", "j @> '{\"a\": 1}'", "j ? 'a'"])).to_owned()
        }
        12 => {
            (*rng.pick(&["b", "b IS TRUE", "b IS NOT FALSE", "TRUE", "NOT b", "coalesce(b, FALSE) IS TRUE"])).to_owned()
        }
        13 => (*rng.pick(&[
            "lower(s) = upper(v)",
            "length(s) > 2",
            "coalesce(s, '') <> 'x'",
            "upper(coalesce(v, 'y')) = 'Y'",
            "s = v",
            "at = ANY('{now}')",
            "id = \"Odd \"\"näme\"",
        ]))
        .to_owned(),
        14 => {
            params.push(parameter(rng));
            format!("{name} = ${}", params.len())
        }
        15 => {
            params.push(json!([parameter(rng), 1, null]));
            format!("{name} = ANY(${})", params.len())
        }
        16 => {
            let of = *rng.pick(&["id", name]);
            format!("{of} {not}IN (SELECT {of} FROM t WHERE {})", valid(rng, params, depth + 1))
        }
        17 => format!("NOT ({})", valid(rng, params, depth + 1)),
        _ => {
            let (left, right) = (valid(rng, params, depth + 1), valid(rng, params, depth + 1));
            format!("({left}) {} {right}", rng.pick(&["AND", "OR"]))
        }
    }
}

/// A value for a parameter; more often than not of a wrong type.
fn parameter(rng: &mut Rng) -> Value {
    let number = || "123456789012345678901234567890.5e-7".parse().map_or(Value::Null, Value::Number);
    match rng.below(10) {
        0..=2 => json!(rng.below(9)),
        3 => json!("open"),
        4 => json!("2024-01-01"),
        5 => json!(rng.one_in(2)),
        6 => Value::Null,
        7 => json!({"a": [1, {"b": "\u{7f}𝄞\\\"'"}]}),
        8 => number(),
        _ => json!(["open", "now", 1e300, []]),
    }
}

/// The filter with a few words put in, taken out or doubled; or something deep, or long.
pub fn damaged(rng: &mut Rng, filter: &str) -> String {
    let depth = [10, 55, 61, 5000][rng.below(4) as usize];
    match rng.below(30) {
        0 => return format!("{}{filter}{}", "(".repeat(depth), ")".repeat(depth)),
        1 => return format!("{}{filter}", "NOT ".repeat(depth)),
        2 => return vec![filter; depth / 5].join(*rng.pick(&[" AND ", " OR ", ", ", " = ", " -> "])),
        3 => return (0..rng.below(40)).map(|_| *rng.pick(SOUP)).collect::<Vec<_>>().join(" "),
        4 => return format!("j{} IS NULL", " -> 'a'".repeat(depth)),
        5 => return format!("{}s{} = 'x'", "lower(".repeat(depth), ")".repeat(depth)),
        _ => {}
    }
    let mut words: Vec<&str> = filter.split_inclusive(' ').collect();
    for _ in 0..=rng.below(3) {
        let place = rng.below(words.len() as u32 + 1) as usize;
        match rng.below(4) {
            0 if place < words.len() => drop(words.remove(place)),
            1 if place < words.len() => words.insert(place, words[place]),
            2 if place < words.len() => words[place] = *rng.pick(SOUP),
            _ => words.insert(place, *rng.pick(SOUP)),
        }
    }
    words.join(*rng.pick(&["", " "]))
}
