-- A pull that cannot be exact is refused or starts over: damaged and foreign cursors, rights, tables that went unwatched.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE TABLE t (id int PRIMARY KEY, f int, at timestamptz, during tstzrange);
SELECT sync_track('t', filter_columns => '{f,at,during}');
INSERT INTO t VALUES (1, 1), (2, 1);
-- The ops of a delta with their reasons, or the error in full.
CREATE FUNCTION pulled(since text, shape text DEFAULT '{"tables":{"t":{}}}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE d text; h text;
BEGIN
    RETURN (SELECT string_agg(concat_ws(' ', op, value->>'reason', key), ', ') FROM sync_changes(since, shape::jsonb));
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, 'DETAIL ' || nullif(d, ''), 'HINT ' || nullif(h, ''));
END $$;
-- CRC-32, as the checksum of a cursor's position: whoever can compute it can forge.
CREATE FUNCTION checksum(bytes bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE crc bigint := 4294967295;
BEGIN
    FOR i IN 0 .. length(bytes) - 1 LOOP
        crc := crc # get_byte(bytes, i);
        FOR bit IN 1 .. 8 LOOP
            crc := CASE WHEN crc & 1 = 1 THEN (crc >> 1) # 3988292384 ELSE crc >> 1 END;
        END LOOP;
    END LOOP;
    RETURN lpad(to_hex(crc # 4294967295), 8, '0');
END $$;
-- The cursor with one field of its position replaced: system, database, timeline, lsn, epoch, xmax.
CREATE FUNCTION forged(cursor text, field text, changed text) RETURNS text LANGUAGE sql AS $$
    SELECT body || '.' || checksum(body::bytea) || '~' || split_part(cursor, '~', 2) FROM (
        SELECT string_agg(CASE WHEN n - 1 = array_position('{system,database,timeline,lsn,epoch,xmax}', field)
                               THEN changed ELSE part END, '.' ORDER BY n)
        FROM string_to_table(split_part(cursor, '~', 1), '.') WITH ORDINALITY x (part, n) WHERE n < 8) x (body)
$$;
SELECT cursor FROM sync_changes(NULL, '{"tables":{"t":{}}}') WHERE op = 'commit' \gset
\t on
\a
-- a good cursor, and the same forged into itself
SELECT pulled(:'cursor');
SELECT pulled(forged(:'cursor', 'database', split_part(:'cursor', '.', 3)));
-- cut off, altered, put together, too long, of a later version
SELECT pulled(left(:'cursor', -1));
SELECT pulled(left(:'cursor', 20));
SELECT pulled(split_part(:'cursor', '~', 1));
SELECT pulled(:'cursor' || ' ');
SELECT count(*) > 400 AS bits, bool_and(pulled(flipped) LIKE '22P02 invalid cursor%') AS refused
FROM (SELECT convert_to(:'cursor', 'UTF8') AS good) c, generate_series(0, 8 * length(good) - 1) i,
     convert_from(set_bit(good, i, 1 - get_bit(good, i)), 'UTF8') flipped
WHERE i % 8 <> 7;
SELECT pulled(:'cursor' || repeat('0', 9000000));
SELECT pulled(regexp_replace(:'cursor', '^s1', 's2'));
-- of another server, database, epoch, or history
SELECT pulled(forged(:'cursor', 'system', '7'));
SELECT pulled(forged(:'cursor', 'database', '7'));
SELECT pulled(forged(:'cursor', 'epoch', '7'));
SELECT pulled(forged(:'cursor', 'timeline', '7'));
SELECT pulled(forged(:'cursor', 'lsn', '18446744073709551615'));
SELECT pulled(forged(:'cursor', 'database', '4294967296'));
-- from before all that is kept, and from the future
SELECT pulled(forged(:'cursor', 'xmax', '3'));
SELECT pulled(forged(:'cursor', 'xmax', '9223372036854775808'));
SELECT pulled(forged(:'cursor', 'xmax', '18446744073709551616'));
SELECT pulled(forged(:'cursor', 'xmax', '5_9'));
-- of another shape
SELECT pulled(:'cursor', '{"tables":{"t":{"where":"f = 1"}}}');
-- no JSON
SELECT pulled(NULL, 'x');
SELECT sync_changes(NULL, 'x');
SELECT pulled(NULL, '"t"');
SELECT pulled(NULL, '{"tables":{"t\u0000":{}}}');
-- what depends on the time of the call, however it is written
SELECT pulled(NULL, '{"tables":{"t":{"where":"at = ANY(''{now}'')"}}}');
SELECT pulled(NULL, '{"tables":{"t":{"where":"at = ANY(ARRAY[''today''])"}}}');
SELECT pulled(NULL, '{"tables":{"t":{"where":"at = ANY(ARRAY[''today'']::timestamptz[])"}}}');
SELECT pulled(NULL, '{"tables":{"t":{"where":"during = ''[yesterday,)''"}}}');
SELECT pulled(NULL, '{"tables":{"t":{"where":"during = ''[now,)''::tstzrange"}}}');
SELECT pulled(NULL, '{"tables":{"t":{"where":"at = ANY($1)"}},"params":[["tomorrow"]]}');
SELECT pulled(NULL, '{"tables":{"t":{"where":"during = $1"}},"params":["[NOW,infinity)"]}');
SELECT pulled(NULL, '{"tables":{"t":{"where":"f = ANY(''{1}''::int[]) AND during IS DISTINCT FROM ''[2024-01-01,)''::tstzrange"}}}');
-- missing rights
CREATE ROLE regress_reader;
SET ROLE regress_reader;
SELECT pulled(NULL);
SELECT pulled(:'cursor');
SELECT sync_track('t');
SELECT sync_prune();
RESET ROLE;
GRANT SELECT (id, f) ON t TO regress_reader;
SET ROLE regress_reader;
SELECT pulled(NULL, '{"tables":{"t":{"columns":["f"]}}}');
RESET ROLE;
GRANT SELECT (_sync_version) ON t TO regress_reader;
SET ROLE regress_reader;
SELECT pulled(NULL, '{"tables":{"t":{"columns":["f"]}}}');
SELECT pulled(NULL, '{"tables":{"t":{"columns":["f"],"where":"at IS NULL"}}}');
RESET ROLE;
-- row security that restricts
GRANT SELECT ON t TO regress_reader;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
SET ROLE regress_reader;
SELECT pulled(NULL);
SELECT pulled(:'cursor');
RESET ROLE;
SELECT pulled(:'cursor');
ALTER TABLE t FORCE ROW LEVEL SECURITY;
ALTER TABLE t DISABLE ROW LEVEL SECURITY;
-- a transaction that has written
BEGIN;
INSERT INTO t VALUES (3, 1);
SELECT pulled(:'cursor');
SELECT sync_pull(NULL, '{"tables":{"t":{}}}');
ROLLBACK;
-- triggers that do not fire always
ALTER TABLE t DISABLE TRIGGER syncline_log;
SELECT pulled(:'cursor');
ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_log;
SELECT pulled(:'cursor');
ALTER TABLE t ENABLE TRIGGER "~syncline_stamp";
SELECT pulled(:'cursor');
ALTER TABLE t ENABLE ALWAYS TRIGGER "~syncline_stamp";
ALTER TABLE t DISABLE TRIGGER syncline_truncate;
SELECT pulled(:'cursor');
ALTER TABLE t ENABLE ALWAYS TRIGGER syncline_truncate;
SELECT cursor FROM sync_changes(NULL, '{"tables":{"t":{}}}') WHERE op = 'commit' \gset
DROP TRIGGER syncline_truncate ON t;
TRUNCATE t;
SELECT pulled(:'cursor');
SELECT sync_track('t');
SELECT pulled(:'cursor');
DROP TRIGGER syncline_log ON t;
SELECT pulled(NULL);
-- a version of another type
ALTER TABLE t ALTER COLUMN _sync_version DROP DEFAULT, ALTER COLUMN _sync_version TYPE text;
SELECT pulled(NULL);
INSERT INTO t VALUES (4, 1);
DROP TABLE t;
DROP FUNCTION pulled, checksum, forged;
DROP ROLE regress_reader;
