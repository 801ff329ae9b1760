-- Everything that is refused says what is wrong, with SQLSTATE, DETAIL and HINT.
SET client_min_messages = warning;
\set VERBOSITY verbose
\set SHOW_CONTEXT never
CREATE FUNCTION refused(since text, shape jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE d text; h text;
BEGIN
    PERFORM * FROM sync_changes(since, shape);
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, 'DETAIL ' || nullif(d, ''), 'HINT ' || nullif(h, ''));
END $$;
CREATE TABLE t (id int PRIMARY KEY, f int, j jsonb, a int[], s text, at timestamptz, plain text);
CREATE TABLE untracked (id int PRIMARY KEY);
SELECT sync_track('t', filter_columns => '{f,j,a,s,at}');
\t on
\a
-- cursors
SELECT refused('', '{"tables":{"t":{}}}');
SELECT refused('nonsense', '{"tables":{"t":{}}}');
SELECT refused('s1.1.1.1.1.1.1.00000000~1.1.00000000', '{"tables":{"t":{}}}');
SELECT refused('s9.1', '{"tables":{"t":{}}}');
SELECT refused(repeat('x', 9000000), '{"tables":{"t":{}}}');
-- shapes
SELECT refused(NULL, NULL);
SELECT refused(NULL, '[]');
SELECT refused(NULL, '{}');
SELECT refused(NULL, '{"tables":{}}');
SELECT refused(NULL, '{"tables":{"t":{"wher":"f = 1"}}}');
SELECT refused(NULL, '{"tables":{"t":{}},"limit":3}');
SELECT refused(NULL, '{"tables":{"nowhere":{}}}');
SELECT refused(NULL, '{"tables":{"untracked":{}}}');
SELECT refused(NULL, '{"tables":{"pg_class":{}}}');
SELECT refused(NULL, '{"tables":{"t":{"columns":["nope"]}}}');
SELECT refused(NULL, '{"tables":{"t":{"columns":["_sync_version"]}}}');
SELECT refused(NULL, '{"tables":{"t":{"columns":["f","f"]}}}');
-- filters
SELECT refused(NULL, '{"tables":{"t":{"where":"nope = 1"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"plain = ''x''"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = "}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f + 1 = 2"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f / 0 = 2"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"s::int = 2"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"at > now()"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"at > ''now''"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"at > ''yesterday''::date"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = 1 ORDER BY f"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = 1 LIMIT 5"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f IN (SELECT id FROM untracked)"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"pg_sleep(1) IS NULL"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = 1; DROP TABLE t"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"s LIKE ''x\\''"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f LIKE ''x''"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = ''x''"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = 99999999999"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f @> 1"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"s -> ''x'' = ''1''"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"s = current_setting(''server_version'')"}}}');
-- parameters
SELECT refused(NULL, '{"tables":{"t":{"where":"f = $1"}}}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = $1"}},"params":[1,2]}');
SELECT refused(NULL, '{"tables":{"t":{"where":"f = $1"}},"params":[{"a":1}]}');
-- what is in the grammar
SELECT refused(NULL, '{"tables":{"t":{"where":"(f BETWEEN 1 AND 3 OR f IS NULL) AND NOT (s ILIKE ''a%'') AND a && ''{1,2}'' AND j @> ''{\"a\": 1}'' AND j ? ''k'' AND j->>''k'' = ''v'' AND lower(s) IN (''x'',''y'') AND f = ANY($1) AND at >= ''2024-01-01''::date AND coalesce(s, '''') <> current_user AND s IS DISTINCT FROM NULL"}},"params":[[1,2]]}');
-- tables that cannot be tracked
\set VERBOSITY default
CREATE TABLE nokey (id int);
SELECT sync_track('nokey');
CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
SELECT sync_track('late');
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
SELECT sync_track('fleeting');
CREATE VIEW seen AS SELECT * FROM t;
SELECT sync_track('seen');
SELECT sync_track('pg_class');
SELECT sync_track('t', filter_columns => '{nope}');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child () INHERITS (parent);
SELECT sync_track('parent');
CREATE TEMPORARY TABLE passing (id int PRIMARY KEY);
SELECT sync_track('passing');
CREATE PUBLICATION regress_published FOR TABLE untracked;
SELECT sync_track('untracked');
DROP PUBLICATION regress_published;
SELECT sync_untrack('untracked');
-- the log is not for hands
INSERT INTO syncline.log VALUES (1, '1', 1, '0/1', '');
DELETE FROM syncline.log;
DROP VIEW seen;
DROP TABLE passing, t, untracked, nokey, late, fleeting, parent, child;
DROP FUNCTION refused;
