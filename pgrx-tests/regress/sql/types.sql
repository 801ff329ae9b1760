-- Values are written as to_jsonb writes them under the pinned settings, whatever the session has set.
SET client_min_messages = warning;
CREATE TYPE mood AS ENUM ('calm', 'stormy "sea"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE v (
    id bigint PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, n2 numeric(20,4),
    t text, vc varchar(10), c char(5), "na""me" name, d date, ts timestamp, tz timestamptz, ti time, tt timetz, iv interval,
    u uuid, by bytea, js json, jb jsonb, ai int[], at text[], an numeric[], atz timestamptz[], ajb jsonb[], ae mood[],
    e mood, p pair, ap pair[], dm positive, r int4range, mr nummultirange, ip inet, m money, pt point, o oid, rc regclass,
    bi bit(3), x xml, ln pg_lsn, tv tsvector, "💧" text, "new
line" text);
INSERT INTO v (id) VALUES (1);
INSERT INTO v VALUES (2, true, -32768, -2147483648, -9223372036854775808, 1e-7, 1e100, 1e-10, 12345.6700,
    E'quote " back \\ tab \t nl \n bell \x07 del \x7f é 💧', 'v', 'c', 'name', '0044-03-15 BC', '-infinity', '2024-06-01 12:00+02',
    '24:00', '12:00+05:30', '1 year -2 days 03:04:05.678', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\x00ff',
    '{"b":  [1, 2.50]}', '{"b": [1, 2.50], "aa": null}', '{{1,NULL},{3,4}}', '{NULL,"NULL","a\"b",""}', '{NaN,1.0}',
    '{infinity,"2024-01-01 00:00+00"}', array['{"a":1}'::jsonb, 'null'], '{calm,"stormy \"sea\""}', 'stormy "sea"', '(1,"x y")',
    array['(1,a)'::pair, null], 5, '[1,5)', '{[1,2],[3.5,4)}', '10.0.0.1/8', '12.34', '(1.5,-2)', 4294967295, 'pg_class', '101',
    '<a>&amp;</a>', '16/B374D848', 'a fat cat', '💧', 'x');
INSERT INTO v (id, f4, f8, n, t, ai, at, jb, d, tz, iv, by) VALUES
    (9223372036854775807, 'NaN', '-Infinity', 'NaN', '', '{}', '{}', '"text"', 'infinity', '9999-12-31 23:59:59.999999+00', '-1 mon', ''),
    (4, 3.4028235e38, 5e-324, '-Infinity', repeat('long ', 10000), '[5:6]={1,2}', '{{{a}}}', '[]', '2024-02-29', '1900-01-01 00:00:00.5+00', '0', '\xdeadbeef'),
    (5, 1.1, 0.1, 123456789012345678901234567890.123456789, 'x', NULL, NULL, '1.10', NULL, NULL, 'P1Y2M3DT4H5M6.7S', NULL),
    (6, -0.0, -0.0, 0.00, NULL, NULL, NULL, 'true', NULL, NULL, NULL, NULL),
    (7, 16777216, 123456789.123456789, 1e30, NULL, NULL, NULL, 'null', NULL, NULL, NULL, NULL);
SELECT sync_track('v');
CREATE TABLE sent AS SELECT (key->>'id')::bigint AS id, value::text AS value FROM sync_preview('{"tables": {"v": {}}}') WHERE op = 'upsert';
CREATE FUNCTION reference() RETURNS TABLE (id bigint, value jsonb) LANGUAGE sql
    SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'iso_8601' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET lc_monetary = 'C' SET search_path = pg_catalog, pg_temp
    AS $$ SELECT id, to_jsonb(v) - '_sync_version' FROM public.v $$;
-- json columns keep their own text, so they are compared by value; all else byte by byte
UPDATE v SET js = NULL;
SELECT s.id, s.value = r.value::text AS same
FROM sync_preview('{"tables": {"v": {}}}') c
CROSS JOIN LATERAL (SELECT (c.key->>'id')::bigint AS id, c.value::text AS value) s
JOIN reference() r USING (id) WHERE c.op = 'upsert' ORDER BY s.id;
SELECT id, value::jsonb->'js' AS js FROM sent WHERE id = 2;
-- a hostile session gets the same bytes
CREATE TABLE calm AS SELECT key::text, value::text FROM sync_preview('{"tables": {"v": {}}}');
SELECT * FROM sync_digest('{"tables": {"v": {"columns": ["tz", "f8", "by", "iv", "m", "rc"]}}}') \gset calm_
SET timezone = 'Asia/Kathmandu';
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'postgres_verbose';
SET extra_float_digits = -15;
SET bytea_output = 'escape';
CREATE TABLE hostile AS SELECT key::text, value::text FROM sync_preview('{"tables": {"v": {}}}');
SELECT count(*) AS differ FROM (TABLE calm EXCEPT TABLE hostile) x;
SELECT count(*) AS rows FROM hostile;
SELECT hash = :'calm_hash' AS same_digest FROM sync_digest('{"tables": {"v": {"columns": ["tz", "f8", "by", "iv", "m", "rc"]}}}');
-- and keeps its settings
SHOW timezone;
SHOW extra_float_digits;
RESET ALL;
-- 64-bit integers as strings
SELECT key, value FROM sync_preview('{"tables": {"v": {"columns": ["i8", "i4"]}}, "int8": "string"}') WHERE key->>'id' IN ('2', '9223372036854775807');
-- every type that has an order can be filtered by
SELECT sync_track('v', filter_columns => '{b,i2,i4,i8,f4,f8,n,t,vc,c,d,ts,tz,iv,u,by,jb,ai,at,e,dm,r,ip}');
CREATE FUNCTION found(filter text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(key->>'id', ',' ORDER BY (key->>'id')::bigint)
    FROM sync_preview(jsonb_build_object('tables', jsonb_build_object('v', jsonb_build_object('where', filter)))) WHERE op = 'upsert'
$$;
SELECT filter, found(filter) FROM unnest(ARRAY[
    'b', 'b IS NOT TRUE', 'i2 = -32768', 'i8 < 0', 'f8 = ''-Infinity''', 'f8 > 1', 'n = 1e30', 'n >= 0.00 AND n < 1', 'vc = ''v''', 'c = ''c''',
    'd < ''2024-02-29''', 'ts = ''-infinity''', 'tz = ''2024-06-01 10:00+00''', 'iv < ''P1D''', 'u IS NOT NULL', 'by = ''\xdeadbeef''',
    'jb @> ''{"b": [1]}''', 'jb->''b''->>0 = ''1''', 'jb#>>''{b,1}'' = ''2.50''', 'jb ? ''aa''', 'ai @> ''{3}''', 'at && ''{NULL,""}''',
    'e = ''calm''', 'e >= ''calm''', 'dm BETWEEN 1 AND 9', 'r = ''[1,4]''', 'ip = ''10.0.0.1/8''', 'lower(t) LIKE ''long%''', 'length(t) = 0',
    'id IN (1, 4, NULL)', 'id NOT IN (1, 4)', 'NOT (i4 IS DISTINCT FROM NULL)']) filter;
DROP TABLE v, sent, calm, hostile;
DROP FUNCTION found, reference;
DROP TYPE mood, pair;
DROP DOMAIN positive;
