-- What a client gets after each kind of change. Cursors are kept in a table, never shown.
SET client_min_messages = warning;
CREATE TABLE issues (id int PRIMARY KEY, project_id int, state text, title text);
INSERT INTO issues SELECT g, g % 2, 'open', 'issue ' || g FROM generate_series(1, 4) g;
SELECT sync_track('issues', filter_columns => '{project_id,state}');
CREATE TABLE held (cursor text);
CREATE FUNCTION pull() RETURNS TABLE (op text, key text, value text) LANGUAGE sql AS $$
    SELECT op, key::text, value::text FROM sync_changes((SELECT cursor FROM held),
        '{"tables": {"issues": {"where": "project_id = $1 AND state = ''open''"}}, "params": [1]}')
$$;
CREATE FUNCTION store() RETURNS void LANGUAGE plpgsql AS $$
DECLARE c text;
BEGIN
    SELECT cursor INTO c FROM sync_changes((SELECT h.cursor FROM held h),
        '{"tables": {"issues": {"where": "project_id = $1 AND state = ''open''"}}, "params": [1]}') WHERE op = 'commit';
    DELETE FROM held;
    INSERT INTO held VALUES (c);
END $$;
-- the first pull is everything
SELECT * FROM pull();
SELECT store();
-- nothing changed
SELECT * FROM pull();
-- into the shape, out of it, a column outside the filter
UPDATE issues SET project_id = 1 WHERE id = 2;
UPDATE issues SET state = 'done' WHERE id = 1;
UPDATE issues SET title = 'renamed' WHERE id = 3;
SELECT * FROM pull();
SELECT store();
-- a row that never was in the shape is not spoken of
UPDATE issues SET state = 'todo' WHERE id = 4;
DELETE FROM issues WHERE id = 4;
SELECT * FROM pull();
-- key change, delete and reinsert in one statement
UPDATE issues SET id = 20 WHERE id = 2;
WITH gone AS (DELETE FROM issues WHERE id = 3 RETURNING project_id, state)
INSERT INTO issues SELECT 30, project_id, state, 'reborn' FROM gone;
SELECT * FROM pull();
SELECT store();
-- there and back again
BEGIN;
UPDATE issues SET state = 'done' WHERE id = 20;
UPDATE issues SET state = 'open' WHERE id = 20;
COMMIT;
SELECT * FROM pull();
SELECT store();
-- rolled back
BEGIN;
SAVEPOINT s;
DELETE FROM issues;
ROLLBACK TO s;
COMMIT;
SELECT * FROM pull();
-- a digest is that of the rows
SELECT rows, length(hash) FROM sync_digest('{"tables": {"issues": {"where": "project_id = 1"}}}');
-- barriers
TRUNCATE issues;
SELECT * FROM pull();
SELECT sync_untrack('issues');
SELECT * FROM pull();
DROP TABLE issues, held;
DROP FUNCTION pull, store;
