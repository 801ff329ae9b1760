//! Every type that a column can have: its bytes on each way out, as a key, and under `=`. A type without a sample fails.

use std::collections::BTreeMap;

use postgres::Client;
use syncline_tests::follower::Follower;
use syncline_tests::histories::state;
use syncline_tests::{Cluster, Install};

mod samples;

/// What the bytes are made under, by hand.
const PINNED: &str = "SET jit = off; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = iso_8601; \
    SET extra_float_digits = 1; SET bytea_output = hex; SET lc_monetary = 'C'";

/// What a session may have set.
const HOSTILE: &str = "SET jit = off; SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German, DMY'; SET IntervalStyle = sql_standard; \
    SET extra_float_digits = -15; SET bytea_output = escape; SET lc_monetary = 'C.UTF-8'; SET lc_numeric = 'C.UTF-8'; \
    SET lc_time = 'C.UTF-8'; SET lc_messages = 'C'; SET xmloption = content; SET array_nulls = off; \
    SET quote_all_identifiers = on; SET xmlbinary = hex; SET backslash_quote = on; SET search_path = lure, public";

/// A type that a column can have.
struct Type {
    /// With its schema, as SQL takes it.
    name: String,
    /// SQL expressions of its values.
    values: Vec<String>,
    /// The row type of a table of the system's: read, but no key and no filter.
    is_catalog: bool,
}

/// All types but pseudo-types and the row types that hold one, with their samples.
fn types(client: &mut Client) -> Vec<Type> {
    let sql = "WITH RECURSIVE refused AS (SELECT oid FROM pg_type WHERE typtype = 'p' OR oid = 'cstring[]'::regtype UNION SELECT t.oid FROM refused f \
                   JOIN pg_attribute a ON a.atttypid = f.oid AND a.attnum > 0 JOIN pg_type c ON c.typrelid = a.attrelid \
                   JOIN pg_type t ON t.oid IN (c.oid, c.typarray)) \
               SELECT t.oid, format('%I.%I', n.nspname, t.typname), t.typname::text, t.typtype::text, \
                      coalesce(e.oid, b.oid, r.rngtypid, 0::oid), e.oid IS NOT NULL, \
                      CASE c.relkind WHEN 'r' THEN format('SELECT r FROM %s r LIMIT 1', c.oid::regclass) \
                                     WHEN 'v' THEN 'SELECT NULL::' || c.oid::regclass END \
               FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
               LEFT JOIN pg_type e ON e.typarray = t.oid \
               LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype \
               LEFT JOIN pg_range r ON r.rngmultitypid = t.oid \
               LEFT JOIN pg_class c ON c.oid = t.typrelid \
               WHERE t.oid NOT IN (SELECT oid FROM refused) \
               ORDER BY e.oid IS NOT NULL, t.typtype = 'd', t.typtype = 'm', t.oid";
    let mut found: BTreeMap<u32, usize> = BTreeMap::new();
    let mut types: Vec<Type> = Vec::new();
    let mut lacking = Vec::new();
    for row in client.query(sql, &[]).expect("the catalog can be read") {
        let text = |i: usize| row.get::<_, String>(i);
        let (oid, name, kind): (u32, _, _) = (row.get(0), text(1), text(3));
        let part = found.get(&row.get(4)).map(|&place| &types[place]);
        let catalog: Option<String> = row.get(6);
        let mut is_catalog = catalog.is_some();
        let values = match (samples::of(&text(2)), part, &catalog) {
            (Some(values), ..) => values.iter().map(|value| format!("({value})::{name}")).collect(),
            (None, Some(part), _) => {
                is_catalog = part.is_catalog;
                if row.get(5) {
                    arrays(&part.values, &name)
                } else if kind == "m" {
                    multiranges(&part.values, &name)
                } else {
                    part.values.iter().map(|value| format!("{value}::{name}")).collect()
                }
            }
            (None, None, Some(row)) => vec![format!("coalesce(({row}), json_populate_record(NULL::{name}, '{{}}'))")],
            _ => {
                lacking.push(name);
                continue;
            }
        };
        found.insert(oid, types.len());
        types.push(Type { name, values, is_catalog });
    }
    assert!(lacking.is_empty(), "no samples for {lacking:?}");
    types
}

fn arrays(values: &[String], name: &str) -> Vec<String> {
    let mut arrays = vec![format!("'{{}}'::{name}"), format!("array_fill(NULL::text, '{{2}}')::{name}")];
    if let (Some(first), Some(last)) = (values.first(), values.last()) {
        arrays.push(format!("ARRAY[{}, NULL]::{name}", values.join(", ")));
        arrays.push(format!("ARRAY[[{first}, NULL], [{last}, {first}]]::{name}"));
        arrays.push(format!("array_fill({last}, '{{2,1,2}}', '{{-3,5,0}}')::{name}"));
    }
    arrays
}

fn multiranges(values: &[String], name: &str) -> Vec<String> {
    let mut all: Vec<String> = values.iter().map(|value| format!("{name}({value})")).collect();
    all.extend([format!("'{{}}'::{name}"), format!("{name}({})", values.join(", "))]);
    all
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql:.3000}: {:?}", error.as_db_error()));
}

/// A database with types of every making.
fn database(cluster: &Cluster<'_>) -> Client {
    let mut client = cluster.connect();
    run(&mut client, PINNED);
    run(&mut client, samples::TYPES);
    client
}

/// A table with a column of every type; a row holds values of some, as not all fit into a page.
fn fill(client: &mut Client, types: &[Type]) {
    const GROUP: usize = 60;
    let columns: Vec<String> = types.iter().enumerate().map(|(i, t)| format!("c{i} {}", t.name)).collect();
    run(client, &format!("CREATE TABLE every (id serial PRIMARY KEY, {})", columns.join(", ")));
    for (group, part) in types.chunks(GROUP).enumerate() {
        let rows = part.iter().map(|t| t.values.len()).max().unwrap_or(0);
        for row in 0..rows {
            let given: Vec<_> = part.iter().enumerate().filter(|(_, t)| row < t.values.len()).collect();
            let names: Vec<String> = given.iter().map(|(i, _)| format!("c{}", group * GROUP + i)).collect();
            let values: Vec<&str> = given.iter().map(|(_, t)| t.values[row].as_str()).collect();
            run(client, &format!("INSERT INTO every ({}) SELECT {}", names.join(", "), values.join(", ")));
        }
    }
    run(client, "INSERT INTO every DEFAULT VALUES");
}

#[test]
fn values_of_every_type_are_what_to_jsonb_makes_of_them_whatever_the_session_has_set() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = database(&cluster);
    let types = types(&mut client);
    fill(&mut client, &types);
    run(
        &mut client,
        "SET search_path = pg_catalog, pg_temp; \
         CREATE TABLE public.truth AS SELECT id, to_jsonb(t)::text AS value FROM public.every AS t; \
         RESET search_path; CREATE EXTENSION syncline; SELECT sync_track('every')",
    );
    run(
        &mut client,
        "CREATE FUNCTION in_latin1(shape text, OUT rows bigint, OUT hash text) LANGUAGE sql SET client_encoding = LATIN1 \
         AS 'SELECT * FROM sync_digest(shape::jsonb)'",
    );
    run(&mut client, samples::LURE);
    let shape = r#"'{"tables":{"every":{}}}'"#;
    let digest = |client: &mut Client| client.query_one(&format!("SELECT * FROM sync_digest({shape})"), &[]).unwrap();
    let (rows, hash): (i64, String) = (digest(&mut client).get(0), digest(&mut client).get(1));
    let cursor: String = client
        .query_one(&format!("SELECT cursor FROM sync_changes(NULL, {shape}) WHERE cursor IS NOT NULL"), &[])
        .unwrap()
        .get(0);
    run(&mut client, "UPDATE every SET id = id");
    let mut hostile = cluster.connect();
    run(&mut hostile, HOSTILE);
    for client in [&mut client, &mut hostile] {
        for source in [
            format!("sync_changes(NULL, {shape}) AS g"),
            format!("sync_changes('{cursor}', {shape}) AS g"),
            format!("sync_preview({shape}) AS g"),
            format!("json_to_recordset(sync_pull(NULL, {shape})->'changes') AS g(op text, key json, value json)"),
        ] {
            let sql = format!(
                "WITH got AS MATERIALIZED (SELECT g.value AS got, t.value AS truth FROM {source} \
                     JOIN public.truth t ON t.id = (g.key->>'id')::int WHERE op = 'upsert'), \
                 wrong AS MATERIALIZED (SELECT * FROM got WHERE got::text <> truth) \
                 SELECT (SELECT count(*) FROM got), (SELECT array_agg(format('%s: %s, not %s', g.key, left(g.value::text, 200), \
                         left(t.value::text, 200)) ORDER BY length(g.key), g.key) \
                     FROM wrong, json_each(got) g JOIN LATERAL json_each(truth::json) t \
                         ON t.key = g.key AND t.value::text IS DISTINCT FROM g.value::text), \
                 (SELECT count(*) FROM wrong)"
            );
            let row = client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{source:.60}: {error:?}"));
            let wrong: Vec<String> = row.get::<_, Option<Vec<String>>>(1).unwrap_or_default();
            let named: Vec<String> = wrong
                .iter()
                .map(|line| {
                    let place: Option<usize> = line.split(':').next().and_then(|name| name[1..].parse().ok());
                    format!("{} {line}", place.map_or("", |place| types[place].name.as_str()))
                })
                .collect();
            assert!(named.is_empty(), "{source:.60}: {named:#?}");
            assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(2)), (rows, 0), "{source:.60}");
        }
        let again = digest(client);
        assert_eq!((again.get::<_, i64>(0), again.get::<_, String>(1)), (rows, hash.clone()));
        // The driver speaks UTF8 only: another encoding is that of a function.
        let latin1 = client.query_one("SELECT * FROM public.in_latin1($1)", &[&shape.trim_matches('\'')]).unwrap();
        assert_eq!((latin1.get::<_, i64>(0), latin1.get::<_, String>(1)), (rows, hash.clone()));
    }
    assert!(types.len() > 500 && rows > 50, "{} types, {rows} rows", types.len());
}

/// Composites, and types without an `=` of a default operator class: no filter compares them. Nor, of the latter, their arrays.
const WITHOUT_EQUAL: &str = "pg_catalog.json pg_catalog.xml pg_catalog.pg_node_tree pg_catalog.point pg_catalog.lseg \
    pg_catalog.path pg_catalog.box pg_catalog.polygon pg_catalog.line pg_catalog.circle pg_catalog.refcursor \
    pg_catalog.txid_snapshot pg_catalog.jsonpath pg_catalog.pg_snapshot public.lquery public.ltxtquery public.query_int \
    public.tablefunc_crosstab_2 public.tablefunc_crosstab_3 public.tablefunc_crosstab_4 public.pair public.plain_pair \
    public.nested public.nothing public.celsius public.pair_domain";

/// One type's story: a client of the rows with the first value, another one of all rows, told apart by their key.
fn follow(client: &mut Client, number: usize, one: &Type) -> (bool, bool) {
    let table = format!("k{number}");
    let (name, values) = (&one.name, &one.values);
    let (first, last) = (&values[0], &values[values.len() - 1]);
    run(client, &format!("CREATE TABLE {table} (v {name}, f {name}, n int NOT NULL)"));
    // An array has an ordering only if its elements have.
    let is_key = client.batch_execute(&format!("SELECT {last} < {last}")).is_ok()
        && client.batch_execute(&format!("ALTER TABLE {table} ADD PRIMARY KEY (v)")).is_ok();
    if !is_key {
        run(client, &format!("ALTER TABLE {table} ADD PRIMARY KEY (n)"));
    }
    run(client, &format!("SELECT sync_track('{table}', filter_columns => '{{f}}')"));
    for (n, value) in values.iter().enumerate() {
        let insert = format!("INSERT INTO {table} SELECT {value}, {value}, {n} ON CONFLICT DO NOTHING");
        if let Err(error) = client.batch_execute(&insert) {
            assert!(is_key && state(&error) == "54000", "{insert:.2000}: {error:?}");
        }
    }
    let mut all = Follower::new(&format!(r#"{{"tables": {{"{table}": {{}}}}}}"#));
    let mut followers = vec![];
    // A string is a value of jsonb like any other.
    let text = if name.contains("jsonb") || name.contains("document") { "" } else { "::text" };
    let text: String = client.query_one(&format!("SELECT to_json(({first}){text})::text"), &[]).unwrap().get(0);
    let shape = format!(r#"{{"tables": {{"{table}": {{"where": "f = $1"}}}}, "params": [{text}]}}"#);
    let mut some = Follower::new(&shape);
    let is_compared = match some.try_pull(client) {
        Ok(_) => true,
        Err(error) => {
            // 0A000: there is not even an input.
            assert!(["42883", "0A000"].contains(&state(&error).as_str()), "{name}: {error:?}");
            false
        }
    };
    all.pull(client);
    if is_compared {
        // The operators of an enum take no domain; a filter's do.
        let base = if name == "public.mood_domain" { "::mood" } else { "" };
        let equal = format!("SELECT count(*) FROM {table} WHERE f{base} = {first}{base}");
        let expected: i64 = client.query_one(&equal, &[]).unwrap_or_else(|error| panic!("{equal}: {error:?}")).get(0);
        assert!(some.count() as i64 == expected && expected > 0, "{name}: {} of {expected}", some.count());
        followers.push(some);
    }
    followers.push(all);
    for step in [
        format!("UPDATE {table} SET f = {last} WHERE n = 0"),
        format!("UPDATE {table} SET f = NULL WHERE n = 1"),
        format!("UPDATE {table} SET f = {first}"),
        format!("DELETE FROM {table} WHERE n = 0"),
        format!("INSERT INTO {table} SELECT {first}, {last}, 0"),
        format!("BEGIN; DELETE FROM {table} WHERE n = 0; INSERT INTO {table} SELECT {first}, {first}, 0; COMMIT"),
        format!("DELETE FROM {table}"),
    ] {
        run(client, &step);
        for follower in &mut followers {
            follower.pull(client);
        }
    }
    assert!(followers.iter().all(|follower| follower.count() == 0), "{name}");
    (is_key, is_compared)
}

#[test]
fn values_of_every_type_are_keys_and_are_filtered_by_where_they_can_be() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = database(&cluster);
    let types = types(&mut client);
    run(&mut client, "CREATE EXTENSION syncline");
    let (mut keys, mut refused) = (0, Vec::new());
    for (number, one) in types.iter().enumerate().filter(|(_, one)| !one.is_catalog && !one.values.is_empty()) {
        let (is_key, is_compared) = follow(&mut client, number, one);
        keys += usize::from(is_key);
        if !is_compared && !one.name.contains("._") {
            // json is a keyword from 17 on, and quoted.
            refused.push(one.name.replace('"', ""));
        }
        run(&mut client, &format!("DROP TABLE k{number}"));
    }
    assert_eq!(refused.join(" "), WITHOUT_EQUAL);
    assert!(keys > 150, "{keys}");
}

/// The value of column `v` in one row, for a shape of table `t`.
/// Days around the turns of years, centuries and eras, and moments all over the range, with zeros at their end and without.
#[test]
fn points_in_time_are_what_to_jsonb_makes_of_them_all_over_their_range() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(
        &mut client,
        "SET TimeZone = 'UTC'; CREATE EXTENSION syncline; SELECT setseed(0.5);
         CREATE TABLE times (id serial PRIMARY KEY, d date, t timestamp, z timestamptz);
         INSERT INTO times (d, t, z) SELECT day, day + time '23:59:59.999999', day + interval '1 s'
             FROM unnest('{-4712,-401,-101,-1,3,99,399,1899,1999,9998,294270}'::int[]) year, generate_series(0, 800) g,
             LATERAL (SELECT '0001-01-01'::date + (year * 365.2425)::int + g) AS days(day);
         INSERT INTO times (d, t, z) SELECT '4714-11-24 BC'::date + (random() * 2147483647)::int, at, at AT TIME ZONE 'UTC'
             FROM generate_series(1, 20000) g,
             LATERAL (SELECT '4714-11-24 BC'::timestamp
                      + trunc(random() * 9e18 / 10 ^ (g % 9)) * 10 ^ (g % 9) * interval '1 microsecond') AS moments(at);
         SELECT sync_track('times')",
    );
    let sql = r#"SELECT count(*), array_agg(g.value::text) FILTER (WHERE g.value::jsonb <> to_jsonb(r) - '_sync_version')
                 FROM sync_changes(NULL, '{"tables": {"times": {}}}') g JOIN times r ON r.id = (g.key->>'id')::int"#;
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 801 * 11 + 20_000);
    assert_eq!(row.get::<_, Option<Vec<String>>>(1), None);
}

fn value(client: &mut Client, options: &str) -> String {
    let shape = format!(r#"{{"tables":{{"t":{{}}}}{options}}}"#);
    let sql = format!("SELECT value::text FROM sync_preview('{shape}') WHERE op = 'upsert'");
    let row: String = client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0);
    row.strip_prefix(r#"{"v": "#).and_then(|rest| rest.strip_suffix(r#", "id": 1}"#)).unwrap_or(&row).to_owned()
}

#[test]
fn values_that_differ_from_to_jsonb_are_these() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = database(&cluster);
    run(&mut client, "CREATE EXTENSION syncline; CREATE TYPE doc AS (n bigint, j json, c \"char\")");
    for (typ, given, options, expected) in [
        // JSON is sent as it is stored, but on one line. What jsonb does not take, a member twice among it, comes too.
        ("json", r#"'{"b" :1,  "a":1.0, "a": 1e2}'"#, "", r#"{"b" :1,  "a":1.0, "a": 1e2}"#),
        ("json", "E'[1,\r\n 2]'", "", "[1,   2]"),
        ("json", r#"'"\u0000"'"#, "", r#""\u0000""#),
        ("json[]", r#"ARRAY['{"b" :1}']::json[]"#, "", r#"[{"b" :1}]"#),
        ("doc", r#"ROW(1, '{"b" :"\u0000"}', 'x')::doc"#, "", r#"{"c": "x", "j": {"b" :"\u0000"}, "n": 1}"#),
        // A byte that is no character of UTF-8.
        ("\"char\"", "(-56)::\"char\"", "", r#""\\310""#),
        ("\"char\"[]", "ARRAY[(-1)::\"char\"]", "", r#"["\\377"]"#),
        // Asked for by the shape, at any depth.
        ("int8", "7", r#","int8":"string""#, r#""7""#),
        ("int8[]", "'{7,NULL}'", r#","int8":"string""#, r#"["7", null]"#),
        ("doc[]", "ARRAY[ROW(7, '7', NULL)]::doc[]", r#","int8":"string""#, r#"[{"c": null, "j": 7, "n": "7"}]"#),
    ] {
        run(
            &mut client,
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, v {typ}); SELECT sync_track('t'); INSERT INTO t SELECT 1, {given}"
            ),
        );
        assert_eq!(value(&mut client, options), expected, "{typ} {given}");
        run(&mut client, "DROP TABLE t");
    }
}

#[test]
fn constants_mean_the_same_whatever_the_session_has_set() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = database(&cluster);
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE t (id int PRIMARY KEY, words text[], at timestamptz, d date, i interval); \
         INSERT INTO t VALUES (1, '{a,NULL}', '2024-01-02 05:00+00', '2024-02-03', '-1 day -2 hours'); \
         SELECT sync_track('t', '{words,at,d,i}')",
    );
    let mut hostile = cluster.connect();
    run(&mut hostile, HOSTILE);
    run(&mut hostile, "SET timezone_abbreviations = 'India'");
    for filter in [
        "words = '{a,NULL}'",
        "at = '2024-01-02 00:00 EST'",
        "at = '2024-01-02 10:30 IST' OR at = '2024-01-02 07:00 IST'",
        "at = '2024-01-02 05:00'",
        "d = '24-02-03' OR d = '2024-02-03'",
        "i = '-1 2:00:00'",
    ] {
        let shape = serde_json::json!({"tables": {"t": {"where": filter}}}).to_string();
        let counts = [&mut client, &mut hostile].map(|client| {
            let row = client.query_one("SELECT rows, hash FROM public.sync_digest($1::text::jsonb)", &[&shape]);
            let row = row.unwrap_or_else(|error| panic!("{filter}: {error:?}"));
            (row.get::<_, i64>(0), row.get::<_, String>(1))
        });
        assert_eq!(counts[0], counts[1], "{filter}");
    }
}

#[test]
fn keys_and_members_whose_operators_are_particular_serve_sub_selects() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = database(&cluster);
    run(
        &mut client,
        "CREATE EXTENSION syncline; CREATE TABLE p (k plain_pair, m mood_domain, PRIMARY KEY (k, m)); \
         CREATE TABLE t (id pair_domain PRIMARY KEY, m mood_domain NOT NULL); \
         SELECT sync_track('p', log_inserts => true); SELECT sync_track('t', '{m}'); \
         INSERT INTO t VALUES ('(1,)', 'sad'), ('(2,a)', 'ünï,{}')",
    );
    let mut inside = Follower::new(r#"{"tables": {"t": {"where": "m IN (SELECT m FROM p)"}}}"#);
    let mut outside = Follower::new(r#"{"tables": {"t": {"where": "m NOT IN (SELECT m FROM p WHERE m <> 'sad')"}}}"#);
    for (sql, counts) in [
        ("INSERT INTO p VALUES ('(1,a)', 'sad'), ('(2,a)', 'sad')", (1, 2)),
        ("DELETE FROM p WHERE k = ROW(1, 'a')::plain_pair", (1, 2)),
        ("UPDATE p SET m = 'ünï,{}'", (1, 1)),
        ("UPDATE t SET m = 'ünï,{}'", (2, 0)),
        ("DELETE FROM p", (0, 2)),
    ] {
        run(&mut client, sql);
        inside.pull(&mut client);
        outside.pull(&mut client);
        assert_eq!((inside.count(), outside.count()), counts, "{sql}");
    }
}

/// Types of PostGIS with values, and whether each is a key and is compared.
const SPATIAL: [(&str, &[&str], (bool, bool)); 7] = [
    (
        "geometry",
        &["'POINT(1 2)'", "'SRID=3857;LINESTRING Z (0 0 0.1, 1e300 -1e-300 3)'", "'POLYGON EMPTY'"],
        (true, true),
    ),
    (
        "geometry(Point,4326)",
        &["'SRID=4326;POINT(-71.1043443253471 42.3150676015829)'", "'SRID=4326;POINT(1e-7 0)'"],
        (true, true),
    ),
    ("geometry(MultiPolygonZM)", &["'MULTIPOLYGON ZM (((0 0 1 2,1 0 1 2,1 1 1 2,0 0 1 2)))'"], (true, true)),
    ("geometry[]", &["ARRAY['POINT(1 2)'::geometry, NULL]"], (true, true)),
    ("geography", &["'POINT(13.4 52.5)'", "'SRID=4326;MULTIPOINT((0 0),(179.99 -89))'"], (true, true)),
    ("box2d", &["'BOX(0 0,1.5 2)'"], (false, false)),
    ("box3d", &["'BOX3D(0 0 0,1 2 0.1)'"], (false, false)),
];

#[test]
#[ignore = "needs PostGIS, which is large: make test-postgis installs and runs it"]
fn geometries_and_geographies_are_read_keyed_and_filtered_by() {
    let install = Install::new();
    let cluster = Cluster::start(&install);
    let mut client = cluster.connect();
    run(&mut client, PINNED);
    run(&mut client, "CREATE EXTENSION postgis; CREATE EXTENSION syncline; CREATE SCHEMA lure");
    let types: Vec<Type> = SPATIAL
        .iter()
        .map(|(name, values, _)| {
            let values = values.iter().map(|value| format!("({value})::{name}")).collect();
            Type { name: (*name).to_owned(), values, is_catalog: false }
        })
        .collect();
    for (number, (one, expected)) in types.iter().zip(SPATIAL.map(|spatial| spatial.2)).enumerate() {
        assert_eq!(follow(&mut client, number, one), expected, "{}", one.name);
    }
    fill(&mut client, &types);
    run(
        &mut client,
        "CREATE TABLE truth AS SELECT id, to_jsonb(t)::text AS value FROM every AS t; SELECT sync_track('every')",
    );
    run(&mut client, HOSTILE);
    let sql = r#"SELECT count(*), count(*) FILTER (WHERE g.value::text <> t.value) FROM public.truth t
                 JOIN public.sync_changes(NULL, '{"tables": {"public.every": {}}}') g ON (g.key->>'id')::int = t.id"#;
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (4, 0));
}
