//! A value or more of each type, as SQL expressions: extremes, and what has a text of its own.

/// Types of our own making, and those of the extensions that come with the server.
pub const TYPES: &str = r#"
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION cube; CREATE EXTENSION seg;
CREATE EXTENSION isn; CREATE EXTENSION lo; CREATE EXTENSION intarray; CREATE EXTENSION btree_gist; CREATE EXTENSION pg_trgm;
CREATE EXTENSION earthdistance; CREATE EXTENSION tablefunc;
CREATE SCHEMA "odd ""schema"; CREATE SCHEMA lure;
CREATE TYPE mood AS ENUM ('sad', 'a "quoted" one', 'ünï,{}');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN more_positive AS positive CHECK (VALUE > 1);
CREATE DOMAIN mood_domain AS mood;
CREATE DOMAIN words AS text[];
CREATE DOMAIN document AS jsonb;
CREATE TYPE pair AS (a bigint, "B ""b" text, c numeric[], gone int, d timestamptz, e boolean);
ALTER TYPE pair DROP ATTRIBUTE gone;
CREATE TYPE plain_pair AS (a int, b text);
CREATE TYPE nested AS (long_name pair, q mood, pairs pair[], d positive, i interval, x bytea, f float4);
CREATE TYPE nothing AS ();
CREATE DOMAIN pair_domain AS plain_pair CHECK ((VALUE).a > 0);
CREATE TYPE "odd ""schema"."odd ""type" AS ENUM ('x');
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE TYPE float8range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN span AS int4range;
CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN blind_text AS text COLLATE blind;
CREATE TYPE celsius;
CREATE FUNCTION celsius_in(cstring) RETURNS celsius LANGUAGE internal IMMUTABLE STRICT AS 'float8in';
CREATE FUNCTION celsius_out(celsius) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'float8out';
CREATE TYPE celsius (INPUT = celsius_in, OUTPUT = celsius_out, LIKE = float8);
CREATE FUNCTION to_json(celsius) RETURNS json LANGUAGE sql IMMUTABLE STRICT AS 'SELECT pg_catalog.json_build_object(''degrees'', $1::text)';
CREATE CAST (celsius AS json) WITH FUNCTION to_json(celsius);
"#;

/// What a search path may put before the system's own: a function, and a cast's helper.
pub const LURE: &str = "CREATE FUNCTION lure.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS 'SELECT ''\"lured\"''::jsonb'; \
    CREATE FUNCTION lure.json_build_object(text, text) RETURNS json LANGUAGE sql AS 'SELECT ''\"lured\"''::json'; \
    CREATE TYPE lure.regtype AS ENUM ('lured'); CREATE TABLE lure.every (id int)";

/// Internal types that have no input: a column of them holds NULL.
const NONE: &[&str] = &[];

/// The samples of a type by its bare name; nothing if it is made of another one, or unknown.
pub fn of(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "bool" => &["true", "false"],
        "bytea" => &[r"''", r"'\x00ff5c27225c'", "decode(repeat('00ff0a', 5000), 'hex')"],
        "char" => &["'a'", "''", "'\"'", "'\n'", "127"],
        "name" => &["'n'", "repeat('é', 31)", "''"],
        "int8" => &["0", "9223372036854775807", "'-9223372036854775808'", "9007199254740993"],
        "int2" => &["0", "32767", "'-32768'"],
        "int4" => &["0", "2147483647", "'-2147483648'"],
        "int2vector" => &["'1 -2 32767'", "''"],
        "oidvector" => &["'1 4294967295'", "''"],
        "regproc" => &["'pg_catalog.now'", "0", "'999999'", "'public.to_json'"],
        "regprocedure" => &["'lower(text)'", "0", "'public.celsius_in(cstring)'"],
        "regoper" => &["'pg_catalog.||/'", "0"],
        "regoperator" => &["'+(int4,int4)'", "'public.->(hstore,text)'", "0"],
        "regclass" => &["'pg_class'", "'public.pair'", "'information_schema.tables'", "0", "999999"],
        "regcollation" => &["'\"C\"'", "'public.blind'", "0"],
        "regtype" => &["'int4'", "'public.mood[]'", "'\"odd \"\"schema\".\"odd \"\"type\"'", "0"],
        "regrole" => &["'postgres'", "0", "999999"],
        "regnamespace" => &["'pg_catalog'", "'\"odd \"\"schema\"'", "0"],
        "regconfig" => &["'english'", "'simple'", "0"],
        "regdictionary" => &["'simple'", "'english_stem'", "0"],
        "text" => &[
            "''",
            "'é\u{1F600}\"\\\n\r\t\u{8}\u{c}\u{1}\u{1f}\u{7f}\u{2028}'",
            "repeat('long \"text\"', 10000)",
            "'\\u0041'",
        ],
        "bpchar" => &["'a  '", "''", "'\"'"],
        "varchar" => &["'a  '", "''", "repeat('é', 9000)"],
        "oid" => &["0", "4294967295"],
        "tid" => &["'(0,1)'", "'(4294967295,65535)'"],
        "xid" => &["'0'", "'4294967295'"],
        "xid8" => &["'0'", "'18446744073709551615'"],
        "cid" => &["'0'", "'4294967295'"],
        // Its text is sent as it is stored: see the exceptions. These are as jsonb would write them.
        "json" => &["'{\"a\": [1, null, \"x\"]}'", "'1'", "'null'", "'\"\"'", "'[]'", "'{}'"],
        "jsonb" => &[
            "'{\"bb\":1,\"a\":[1.0,1e3,null,true,{}],\"é\\\"\":\"\\u0001\"}'",
            "'null'",
            "'\"\"'",
            "'[]'",
            "'-0'",
            "'1e-300'",
            "jsonb_build_object('x', repeat('y', 20000))",
        ],
        "jsonpath" => &["'$.a[*] ? (@ > 1.5 && @.b like_regex \"^x\" flag \"i\")'", "'strict $'"],
        "xml" => &["'<a b=\"1\">é</a>'", "'text only'", "'<?xml version=\"1.0\" encoding=\"latin1\"?><r/>'", "''"],
        "pg_node_tree" => &["(SELECT adbin FROM pg_attrdef LIMIT 1)"],
        "point" => &["'(0,-0)'", "'(1e300,-1e-300)'", "'(NaN,Infinity)'", "'(0.1,3.3333333333333335)'"],
        "lseg" => &["'[(0,0),(1.1,1)]'"],
        "path" => &["'[(0,0),(1,1),(2,0)]'", "'((0,0),(1,1))'"],
        "box" => &["'(1,1),(0,0)'", "'(Infinity,0.1),(-Infinity,0)'"],
        "polygon" => &["'((0,0),(1,1),(2,0.30000000000000004))'"],
        "line" => &["'{1,-1,0.1}'"],
        "circle" => &["'<(0,0),1.5>'"],
        "float4" => {
            &["0", "'-0'", "'NaN'", "'Infinity'", "'-Infinity'", "'3.4028235e38'", "'1e-45'", "0.1", "1e7", "16777216"]
        }
        "float8" => &[
            "0",
            "'-0'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'1.7976931348623157e308'",
            "'5e-324'",
            "'-1.5e-7'",
            "0.1",
            "1e15",
            "1e16",
            "123456789.12345678",
            "'-1e20'",
            "'1.25e3'",
        ],
        "numeric" => &[
            "0",
            "1.00",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0.000'",
            "'1e-1000'",
            "'1e400'",
            "'-123456789012345678901234567890.1200'",
        ],
        "money" => &["0", "'-92233720368547758.08'", "'92233720368547758.07'", "'-1.5'"],
        "macaddr" => &["'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'"],
        "macaddr8" => &["'08:00:2b:01:02:03:04:05'"],
        "inet" => &["'192.168.0.1/24'", "'::ffff:1.2.3.4/128'", "'10.0.0.1'", "'::/0'"],
        "cidr" => &["'192.168.0.0/24'", "'2001:db8::/32'", "'10/8'"],
        "aclitem" => &["'postgres=arwdDxt/postgres'", "'=r/postgres'", "'postgres=r*w/postgres'"],
        "date" => &["'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "'2024-02-29'", "'0001-01-01'"],
        "time" => &["'00:00'", "'24:00:00'", "'23:59:59.999999'"],
        "timetz" => &["'00:00+15:59:59'", "'24:00:00-15:59:59'", "'12:00:00.5+05:45'"],
        "timestamp" => &[
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 BC'",
            "'294276-12-31 23:59:59.999999'",
            "'2024-02-29 12:00:00.5'",
        ],
        "timestamptz" => &[
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'2024-02-29 12:00:00.123+05:45'",
            "'1890-01-01 00:00+00'",
        ],
        "interval" => &[
            "'0'",
            "'178000000 years'",
            "'-178000000 years'",
            "'1 mon -1 day 00:00:00.000001'",
            "'-1 year 2 mons -3 days -04:05:06.7'",
            "'2562047788:00:54.775807'",
        ],
        "bit" => &["B'1'", "B'10101'", "B''"],
        "varbit" => &["B''", "B'10101'", "repeat('10', 20000)::varbit"],
        "refcursor" => &["'c'", "'\"'"],
        "uuid" => &["'00000000-0000-0000-0000-000000000000'", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"],
        "pg_lsn" => &["'0/0'", "'FFFFFFFF/FFFFFFFF'"],
        "tsvector" => &[
            "''",
            "'''a'':1A,2 ''b c'' ''é\"''''\\\\'''",
            "array_to_tsvector(array(SELECT 'w' || g FROM generate_series(1, 3000) g))",
        ],
        "tsquery" => &["'a & !b | (c <2> d:*A)'", "''"],
        "txid_snapshot" | "pg_snapshot" => &["'10:20:10,14,15'", "'1:1:'"],
        "int4range" => &["'empty'", "'[1,5]'", "'(,)'", "'[-2147483648,2147483647)'"],
        "int8range" => &["'empty'", "'[1,5]'", "'(,9223372036854775807)'"],
        "numrange" => &["'empty'", "'[1.0,1.00]'", "'(,NaN)'"],
        "tsrange" => &["'empty'", "'[2024-01-01,2024-02-01 12:00)'", "'(-infinity,infinity)'"],
        "tstzrange" => &["'empty'", "'[2024-01-01 00:00+00,2024-02-01 12:00+05:45)'", "'[,infinity]'"],
        "daterange" => &["'empty'", "'[2024-01-01,2024-02-01]'", "'(,)'"],
        "textrange" => &["'empty'", "'[\"a,\"\"b\",c\\\\]'", "'(,\"\")'"],
        "float8range" => &["'empty'", "'[0.1,3.3333333333333335]'", "'[-Infinity,NaN]'"],
        "mood" => &["'sad'", "'a \"quoted\" one'", "'ünï,{}'"],
        "odd \"type" => &["'x'"],
        "yes_or_no" => &["'YES'", "'NO'"],
        "cardinal_number" => &["0", "2147483647"],
        "positive" => &["1", "2147483647"],
        "more_positive" => &["2", "2147483647"],
        "words" => &["ARRAY['a', NULL, '\"']", "'{}'"],
        "pair_domain" => &["'(1,x)'", "'(2,)'"],
        "blind_text" => &["'a'", "'B'"],
        "plain_pair" => &["'(1,a)'", "'(,)'", "'(-2,\"\"\"\")'"],
        "pair" => &[
            "ROW(9223372036854775807, 'é\"', '{1.0,NaN,NULL}', '2024-02-29 12:00+05:45', true)",
            "'(,,,,)'",
            "ROW(1, repeat('t', 5000), NULL, 'infinity', NULL)",
        ],
        "nested" => &[
            "ROW(ROW(1, 'x', '{1.50}', '1890-01-01 00:00+00', false), 'sad', ARRAY[ROW(2, NULL, NULL, NULL, NULL), NULL]::pair[], 7, '1 day -1 sec', '\\x00ff', 0.1)",
            "'(,,,,,,)'",
        ],
        "nothing" => &["'()'"],
        "celsius" => &["'36.6'", "'-Infinity'"],
        "hstore" => &["'a=>1, \"b \\\"\"=>NULL, é=>\"2\"'", "''"],
        "citext" => &["'Mixed'", "''"],
        "ltree" => &["'Top.Science.2'", "''"],
        "lquery" => &["'Top.*{1,2}.a|b'"],
        "ltxtquery" => &["'a & !b@'"],
        "cube" => &["'(1,2,3.3),(4,5,6)'", "'(1e300)'", "'()'"],
        "earth" => &["ll_to_earth(0, 0)"],
        "seg" => &["'1.50 .. 2'", "'>4.0'", "'5(+-)0.3'"],
        "ean13" => &["'978-0-393-04002-9'"],
        "isbn13" => &["'978-0-393-04002-9'"],
        "isbn" => &["'0-393-04002-X'"],
        "ismn13" | "ismn" => &["'979-0-060-11561-5'"],
        "issn13" | "issn" => &["'1436-4522'"],
        "upc" => &["'220356483481'"],
        "lo" => &["0", "4294967295"],
        "query_int" => &["'1&(2|!3)'"],
        "gtsvector"
        | "gtrgm"
        | "ghstore"
        | "ltree_gist"
        | "intbig_gkey"
        | "pg_ndistinct"
        | "pg_dependencies"
        | "pg_mcv_list"
        | "pg_brin_bloom_summary"
        | "pg_brin_minmax_multi_summary" => NONE,
        _ if name.starts_with("gbtreekey") => NONE,
        "tablefunc_crosstab_2" => &["'(x,a,)'"],
        "tablefunc_crosstab_3" => &["'(x,a,,)'"],
        "tablefunc_crosstab_4" => &["'(x,a,,,)'"],
        _ => return None,
    })
}
