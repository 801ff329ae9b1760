//! Filters and shapes: what is accepted, what is refused, and that text and tree say the same.

use proptest::prelude::*;
use serde_json::{Value, json};
use syncline_delta::Error;
use syncline_delta::filter::{Comparison, Const, Constants, Containment, Filter, Function, JsonOp, Operand, Select};
use syncline_delta::shape::Shape;

fn printed(text: &str) -> String {
    let filter = Filter::parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    let out = filter.to_string();
    assert_eq!(Filter::parse(&out), Ok(filter), "{text} -> {out}");
    out
}

#[test]
fn canonical_text() {
    for (text, expected) in [
        ("A = 1 and (b=2 and c)", "a = 1 AND b = 2 AND c"),
        ("a=1 or b=2 and not c", "a = 1 OR (b = 2 AND NOT c)"),
        ("(a or b) and \"C\"", "(a OR b) AND \"C\""),
        ("a >-1", "a > -1"),
        ("a = - 007.50", "a = -7.50"),
        ("a IN ('x', $1, NULL)", "a IN ('x', $1, NULL)"),
        ("a not between 1 and 2 and b", "a NOT BETWEEN 1 AND 2 AND b"),
        ("data ? 'k'", "data ? 'k'"),
        ("data -> 'a' ->> 'b' = 'x'", "data -> 'a' ->> 'b' = 'x'"),
        ("data @> (data -> 'a')", "data @> (data -> 'a')"),
        ("tags && ARRAY['a','b']", "tags && ARRAY['a', 'b']"),
        ("a = ANY($1)", "a = ANY($1)"),
        ("a = any('{1,2}')", "a = ANY('{1,2}')"),
        ("a = ANY(ARRAY[1, -2])", "a = ANY(ARRAY[1, -2])"),
        ("d > date '2020-01-01'", "d > '2020-01-01'::date"),
        ("d > CAST('x' AS timestamp with time zone)", "d > 'x'::timestamp with time zone"),
        ("a IS DISTINCT FROM 1 AND b", "a IS DISTINCT FROM 1 AND b"),
        ("a IS NOT TRUE", "a IS NOT TRUE"),
        (
            "o = current_user AND t = current_setting('app.x', true)::uuid",
            "o = current_user AND t = current_setting('app.x', TRUE)::uuid",
        ),
        ("lower(a) LIKE 'x%' OR a NOT ILIKE $1", "lower(a) LIKE 'x%' OR a NOT ILIKE $1"),
        ("a = -1::int", ""),
        (
            "a IN (select B from App.\"T\" where c = 1) and NOT b not in (SELECT x FROM y)",
            "a IN (SELECT b FROM app.\"T\" WHERE c = 1) AND NOT (b NOT IN (SELECT x FROM y))",
        ),
        (
            "a IN (SELECT b FROM t WHERE b IN (SELECT c FROM t WHERE c IN (SELECT d FROM t)) OR d)",
            "a IN (SELECT b FROM t WHERE b IN (SELECT c FROM t WHERE c IN (SELECT d FROM t)) OR d)",
        ),
    ] {
        if expected.is_empty() {
            assert!(matches!(Filter::parse(text), Err(Error::FilterGrammar { .. })), "{text}");
        } else {
            assert_eq!(printed(text), expected);
        }
    }
}

#[test]
fn refused_by_grammar() {
    for (text, word) in [
        ("a = now()", "now"),
        ("d > current_date", "current_date"),
        ("a IN (SELECT 1)", "select list"),
        ("a IN (SELECT b)", "FROM"),
        ("a IN (SELECT * FROM t)", "select list"),
        ("a IN (SELECT b, c FROM t)", "select list"),
        ("a IN (SELECT b AS c FROM t)", "select list"),
        ("a IN (SELECT DISTINCT b FROM t)", "more than"),
        ("a IN (SELECT b FROM t LIMIT 1)", "more than"),
        ("a IN (SELECT b FROM t ORDER BY b)", "more than"),
        ("a IN (SELECT b FROM t GROUP BY b)", "more than"),
        ("a IN (SELECT b FROM t FOR UPDATE)", "more than"),
        ("a IN (WITH w AS (SELECT 1) SELECT b FROM t)", "more than"),
        ("a IN (SELECT b FROM t UNION SELECT c FROM u)", "set operation"),
        ("a IN (VALUES (1))", "set operation"),
        ("a IN (SELECT b FROM t, u)", "FROM"),
        ("a IN (SELECT b FROM t JOIN u ON c)", "FROM"),
        ("a IN (SELECT b FROM t x)", "FROM"),
        ("a IN (SELECT b FROM ONLY t)", "FROM"),
        ("a IN (SELECT b FROM t TABLESAMPLE SYSTEM (1))", "FROM"),
        ("a IN (SELECT b FROM f(1))", "FROM"),
        ("a IN (SELECT b FROM c.s.t)", "FROM"),
        ("a IN (SELECT b FROM (SELECT 1) x)", "FROM"),
        ("lower(a) IN (SELECT b FROM t)", "lower"),
        ("1 IN (SELECT b FROM t)", "1"),
        ("(a, b) IN (SELECT b FROM t)", ""),
        ("EXISTS (SELECT b FROM t)", "SELECT"),
        ("a = (SELECT b FROM t)", "SELECT"),
        ("a = ANY(SELECT b FROM t)", ""),
        ("a IN (SELECT b FROM t WHERE now() > c)", "now"),
        ("md5(a) = 'x'", "md5()"),
        ("a + 1 = 2", "+"),
        ("a::int = 1", "a"),
        ("t.a = 1", "t.a"),
        ("a LIMIT 5", "LIMIT"),
        ("a ORDER BY a", "ORDER"),
        ("a LIKE 'x' ESCAPE 'y'", "ESCAPE"),
        ("a LIKE 'x\\'", "LIKE"),
        ("a LIKE b", "b"),
        ("d > 'now'::timestamptz", "time"),
        ("a = ANY(ARRAY[$1])", "$1"),
        ("$1 = ANY(tags)", "tags"),
        ("CASE WHEN a THEN b END", "CASE"),
        ("a ~ 'x'", "~"),
        ("data ?| '{a}'", "?|"),
        ("a = 'x'::varchar(3)", "varchar"),
        ("a = 'x'::app.t", "app.t"),
        ("lower(a)", "lower"),
        ("pg_catalog.lower(a) = 'x'", "pg_catalog"),
        ("session_user = 'x'", "session_user"),
        ("a = X'00'", "X'00'"),
    ] {
        match Filter::parse(text) {
            Err(Error::FilterGrammar { words, .. }) => assert!(words.contains(word), "{text}: {words}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for text in ["", "  ", "a =", "a = 1 b", "a IN ()", "a = 'x", "a;", "\"\" = 1", ")", "a = 1)"] {
        assert!(matches!(Filter::parse(text), Err(Error::FilterSyntax { .. })), "{text}: {:?}", Filter::parse(text));
    }
    assert!(matches!(Filter::parse("a = $0"), Err(Error::Params { .. })));
}

#[test]
fn limits() {
    let small_stack = |text: String| {
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || Filter::parse(&text).map(drop))
            .unwrap()
            .join()
            .unwrap()
    };
    let limit = |text: String| {
        let got = small_stack(text);
        assert!(matches!(got, Err(Error::Limit { .. })), "{got:?}");
    };
    assert_eq!(small_stack(vec!["a = 1"; 3000].join(" AND ")), Ok(()));
    let list = vec!["-1"; 100_000].join(",");
    assert_eq!(small_stack(format!("a IN ({list})")), Ok(()));
    assert_eq!(small_stack(format!("{}a{}", "(".repeat(40), ")".repeat(40))), Ok(()));
    limit(format!("{}a{}", "(".repeat(5000), ")".repeat(5000)));
    limit("NOT ".repeat(3000) + "a");
    limit("- ".repeat(3000) + "1");
    limit(vec!["a"; 3000].join(" + "));
    limit(format!("a{}", " BETWEEN 1 AND 2".repeat(1000)));
    limit(format!("a = 'x'{}", "::int".repeat(1000)));
    limit(vec!["a = 1"; 20_000].join(" OR "));
    limit(format!("{}a{}", "a IN (SELECT b FROM t WHERE ".repeat(4), ")".repeat(4)));
    assert!(small_stack(format!("a IN ({})", vec!["SELECT b FROM t WHERE a AND b"; 1000].join(" UNION "))).is_err());
    // A long chain where an operand belongs: an error, not a crash.
    assert!(small_stack(format!("({}) COLLATE \"C\" = 1", vec!["a"; 4000].join(" AND "))).is_err());
}

struct Env(Vec<Value>);

impl Constants for Env {
    fn param(&self, n: usize) -> Option<&Value> {
        self.0.get(n.checked_sub(1)?)
    }
    fn setting(&self, name: &str, missing_ok: bool) -> Result<Option<String>, Error> {
        match name {
            "app.x" => Ok(Some("v".to_owned())),
            _ if missing_ok => Ok(None),
            _ => Err(Error::rule("42704", "unrecognized configuration parameter")),
        }
    }
    fn current_user(&self) -> String {
        "alice".to_owned()
    }
}

#[test]
fn folds() {
    let fold = |text: &str, params: Value| {
        let Value::Array(params) = params else { panic!("no array") };
        Filter::parse(text).unwrap().fold(&Env(params))
    };
    let folded = fold(
        "a = $1 AND b = current_user AND c = current_setting('app.x') AND d = current_setting('n', true)",
        json!([3]),
    );
    assert_eq!(folded.unwrap().to_string(), "a = 3 AND b = 'alice' AND c = 'v' AND d = NULL");
    assert!(matches!(fold("a = $2", json!([3])), Err(Error::Params { .. })));
    assert!(matches!(fold("a LIKE $1", json!(["x\\"])), Err(Error::FilterGrammar { .. })));
    assert!(fold("a LIKE $1", json!(["x\\\\"])).is_ok());
    assert!(matches!(fold("a > $1::date", json!(["Today"])), Err(Error::FilterGrammar { .. })));
    assert!(fold("a = ANY($1)", json!([3])).is_err());
    assert!(fold("a = ANY($1)", json!([[3]])).is_ok());
    let filter = Filter::parse("a = $2 AND b = ANY($1::int[]) AND lower(c) = 'x' AND d -> $3 IS NULL").unwrap();
    assert_eq!(filter.columns().into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!(filter.params().into_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn every_keyword_can_be_a_column() {
    for word in sqlparser::keywords::ALL_KEYWORDS {
        let column = || Operand::Column(word.to_ascii_lowercase());
        let one = || Operand::Const(Const::Number("1".to_owned()));
        let call = Operand::Call { function: Function::Lower, args: vec![column()] };
        let json = Operand::Json { op: JsonOp::Get, base: Box::new(column()), path: Const::Text("k".to_owned()) };
        let filter = Filter::And(vec![
            Filter::Bool(column()),
            Filter::Not(Box::new(Filter::Bool(column()))),
            Filter::Compare { op: Comparison::Eq, left: column(), right: column() },
            Filter::IsNull { operand: column(), negated: true },
            Filter::In { operand: call, list: vec![one(), column()], negated: true },
            Filter::Between { operand: json, low: one(), high: column(), negated: false },
            Filter::Contains { op: Containment::Contains, left: column(), right: column() },
            Filter::IsDistinct { left: column(), right: column(), negated: false },
        ]);
        let text = filter.to_string();
        assert_eq!(Filter::parse(&text), Ok(filter), "{text}");
    }
}

#[test]
fn shapes() {
    let shape = Shape::parse(
        r#"{"params":[3],"int8":"string","tables":{"Issues":{"columns":["id"],"where":"p = $1"},
            "x":{"table":"app.\"My \"\"Table\""}}}"#,
    )
    .unwrap();
    assert!(shape.int8_as_string);
    assert_eq!((shape.tables[0].relation.as_str(), shape.tables[0].name.as_str()), ("Issues", "issues"));
    assert_eq!(shape.tables[1].schema.as_deref(), Some("app"));
    assert_eq!(shape.tables[1].name, "My \"Table");
    for (text, part) in [
        ("[]", "array"),
        ("{}", "tables"),
        (r#"{"tables":{}}"#, "empty"),
        (r#"{"tables":{"a":{}},"x":1}"#, "\"x\""),
        (r#"{"tables":{"a":{"filter":"b"}}}"#, "\"filter\""),
        (r#"{"tables":{"a":{"columns":[]}}}"#, "empty"),
        (r#"{"tables":{"a":{"columns":["b","b"]}}}"#, "twice"),
        (r#"{"tables":{"a":{},"a":{}}}"#, "twice"),
        (r#"{"tables":{"a.b.c":{}}}"#, "name"),
        (r#"{"tables":{"a b":{}}}"#, "name"),
        ("{", "JSON"),
        (r#"{"tables":{"a":{}},"int8":"number"}"#, "int8"),
        (r#"{"tables":{"a\u0000":{}}}"#, "NUL"),
    ] {
        match Shape::parse(text) {
            Err(Error::Shape { message, .. }) => assert!(message.contains(part), "{text}: {message}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for text in [r#"{"tables":{"a":{"where":"b = $1"}}}"#, r#"{"tables":{"a":{}},"params":[1.5]}"#] {
        assert!(matches!(Shape::parse(text), Err(Error::Params { .. })), "{text}");
    }
    assert!(matches!(Shape::parse(&" ".repeat((1 << 20) + 1)), Err(Error::Limit { .. })));
}

fn literal() -> impl Strategy<Value = Const> {
    prop_oneof![
        Just(Const::Null),
        any::<bool>().prop_map(Const::Bool),
        "-?(0|[1-9][0-9]{0,5})(\\.[0-9]{1,3})?(e[+-][0-9]{1,2})?".prop_map(Const::Number),
        "[^\\x00]{0,6}".prop_map(Const::Text),
    ]
}

fn constant() -> impl Strategy<Value = Const> {
    let leaf = prop_oneof![
        literal(),
        (1..100usize).prop_map(Const::Param),
        ("[a-z.']{1,6}", any::<bool>()).prop_map(|(name, missing_ok)| Const::Setting { name, missing_ok }),
        Just(Const::CurrentUser),
        prop::collection::vec(literal(), 0..4).prop_map(|items| {
            Const::Json(Value::Array(
                items
                    .into_iter()
                    .map(|item| match item {
                        Const::Bool(value) => Value::Bool(value),
                        Const::Number(text) => Value::Number(text.parse().unwrap()),
                        Const::Text(text) => Value::String(text),
                        _ => Value::Null,
                    })
                    .collect(),
            ))
        }),
    ];
    let types = prop::sample::select(vec![
        "int",
        "uuid",
        "text[]",
        "double precision",
        "my_type",
        "jsonb",
        "timestamp with time zone",
    ]);
    (leaf, prop::option::of(types)).prop_map(|(value, to)| match to {
        Some(to) => Const::Cast { value: Box::new(value), to: to.to_owned() },
        None => value,
    })
}

fn operand() -> impl Strategy<Value = Operand> {
    let leaf = prop_oneof![
        "[a-z_][a-z0-9_]{0,5}".prop_map(Operand::Column),
        "[^\\x00]{1,6}".prop_map(Operand::Column),
        constant().prop_map(Operand::Const),
    ];
    let op = || prop::sample::select(vec![JsonOp::Get, JsonOp::GetText, JsonOp::Path, JsonOp::PathText]);
    let one = || prop::sample::select(vec![Function::Lower, Function::Upper, Function::Length]);
    leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            (op(), inner.clone(), constant()).prop_map(|(op, base, path)| Operand::Json {
                op,
                base: Box::new(base),
                path
            }),
            (one(), inner.clone()).prop_map(|(function, arg)| Operand::Call { function, args: vec![arg] }),
            prop::collection::vec(inner, 1..4).prop_map(|args| Operand::Call { function: Function::Coalesce, args }),
        ]
    })
}

/// A sub-select whose own filter has sub-selects `depth` deep.
fn select(depth: usize) -> BoxedStrategy<Select> {
    let own = "[a-z]{1,4}".prop_map(|name| Filter::Bool(Operand::Column(name)));
    let filter = if depth == 0 {
        own.boxed()
    } else {
        prop_oneof![own, in_select(depth - 1), in_select(depth - 1).prop_map(|inner| Filter::Not(Box::new(inner)))]
            .boxed()
    };
    let name = || "[a-zA-Z\" .]{1,4}";
    (name(), prop::option::of(name()), name(), prop::option::of(filter))
        .prop_map(|(column, schema, table, filter)| Select { column, schema, table, filter })
        .boxed()
}

fn in_select(depth: usize) -> impl Strategy<Value = Filter> {
    ("[a-z]{1,4}", select(depth), any::<bool>()).prop_map(|(name, select, negated)| Filter::InSelect {
        operand: Operand::Column(name),
        select: Box::new(select),
        negated,
    })
}

fn tree() -> impl Strategy<Value = Filter> {
    use Comparison::{Eq, Ge, Gt, Le, Lt, Ne};
    use Containment::{ContainedBy, Contains, HasKey, Overlaps};
    let b = any::<bool>;
    let leaf = prop_oneof![
        (prop::sample::select(vec![Eq, Ne, Lt, Le, Gt, Ge]), operand(), operand())
            .prop_map(|(op, left, right)| Filter::Compare { op, left, right }),
        (operand(), b()).prop_map(|(operand, negated)| Filter::IsNull { operand, negated }),
        (operand(), b(), b()).prop_map(|(operand, value, negated)| Filter::IsBool { operand, value, negated }),
        (operand(), operand(), b()).prop_map(|(left, right, negated)| Filter::IsDistinct { left, right, negated }),
        (operand(), prop::collection::vec(operand(), 1..4), b()).prop_map(|(operand, list, negated)| Filter::In {
            operand,
            list,
            negated
        }),
        (operand(), operand(), operand(), b()).prop_map(|(operand, low, high, negated)| Filter::Between {
            operand,
            low,
            high,
            negated
        }),
        (operand(), "[a-z%_']{0,5}", b(), b()).prop_map(|(operand, text, insensitive, negated)| {
            Filter::Like { operand, pattern: Operand::Const(Const::Text(text)), insensitive, negated }
        }),
        (operand(), (1..9usize).prop_map(Const::Param)).prop_map(|(operand, array)| Filter::EqAny { operand, array }),
        (prop::sample::select(vec![Contains, ContainedBy, Overlaps, HasKey]), operand(), operand())
            .prop_map(|(op, left, right)| Filter::Contains { op, left, right }),
        "[a-z]{1,4}".prop_map(|name| Filter::Bool(Operand::Column(name))),
        b().prop_map(|value| Filter::Bool(Operand::Const(Const::Bool(value)))),
        in_select(2),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        // A chain inside a chain of its kind has no text of its own.
        let chain = |and: bool, parts: Vec<Filter>| {
            let mut flat = Vec::new();
            for part in parts {
                match part {
                    Filter::And(inner) if and => flat.extend(inner),
                    Filter::Or(inner) if !and => flat.extend(inner),
                    part => flat.push(part),
                }
            }
            if and { Filter::And(flat) } else { Filter::Or(flat) }
        };
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(move |parts| chain(true, parts)),
            prop::collection::vec(inner.clone(), 2..4).prop_map(move |parts| chain(false, parts)),
            inner.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

fn fragments() -> impl Strategy<Value = String> {
    let words = vec![
        "a",
        "\"B\"",
        "1",
        "-",
        "'x'",
        "$1",
        "AND",
        "OR",
        "NOT",
        "(",
        ")",
        "=",
        "<>",
        "IN",
        "BETWEEN",
        "LIKE",
        "ILIKE",
        "IS",
        "NULL",
        "TRUE",
        "DISTINCT",
        "FROM",
        "ANY",
        "ARRAY",
        "[",
        "]",
        ",",
        "->",
        "->>",
        "#>",
        "@>",
        "?",
        "&&",
        "::",
        "int",
        "lower",
        "coalesce",
        "current_user",
        "current_setting",
        "CAST",
        "AS",
        "CASE",
        "SELECT",
        "WHERE",
        "a IN (SELECT b FROM t WHERE",
        "interval",
        "date",
        ".",
        "*",
        "point",
        "E'\\'",
        "{",
        "}",
    ];
    prop::collection::vec(prop::sample::select(words), 0..24).prop_map(|words| words.join(" "))
}

/// What a condition says when own conditions, by their text, are true, false or unknown.
fn says(filter: &Filter, own: &impl Fn(&str) -> Option<bool>) -> Option<bool> {
    let all = |parts: &[Filter], empty: bool| {
        let said: Vec<_> = parts.iter().map(|part| says(part, own)).collect();
        if said.contains(&Some(!empty)) {
            Some(!empty)
        } else if said.contains(&None) {
            None
        } else {
            Some(empty)
        }
    };
    match filter {
        Filter::And(parts) => all(parts, true),
        Filter::Or(parts) => all(parts, false),
        Filter::Not(part) => says(part, own).map(|said| !said),
        Filter::InSelect { operand, select, negated } => {
            own(&format!("{operand} {select}")).map(|said| said != *negated)
        }
        other => own(&other.to_string()),
    }
}

proptest! {
    #[test]
    fn normal_form_says_the_same_and_negates_no_sub_select(filter in tree(), salt in any::<u64>()) {
        let own = |text: &str| {
            let sum = text.bytes().fold(salt, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
            [Some(true), Some(false), None][(sum % 3) as usize]
        };
        fn positive(filter: &Filter) -> bool {
            match filter {
                Filter::And(parts) | Filter::Or(parts) => parts.iter().all(positive),
                Filter::Not(part) => part.selects().is_empty(),
                _ => true,
            }
        }
        let normal = filter.clone().normal();
        prop_assert_eq!(says(&normal, &own), says(&filter, &own));
        prop_assert!(positive(&normal));
    }

    #[test]
    fn text_and_tree_agree(filter in tree()) {
        let text = filter.to_string();
        prop_assert_eq!(Filter::parse(&text), Ok(filter), "{}", text);
    }

    #[test]
    fn any_text_is_survived(text in "\\PC*") {
        let _ = Filter::parse(&text);
        let _ = Shape::parse(&text);
    }

    #[test]
    fn any_words_are_survived(text in fragments()) {
        if let Ok(filter) = Filter::parse(&text) {
            let again = filter.to_string();
            prop_assert_eq!(Filter::parse(&again), Ok(filter), "{} -> {}", text, again);
        }
    }
}
