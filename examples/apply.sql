-- A client that is itself a Postgres table applies a delta.
--
-- It holds, per shape, a copy and the cursor of the last commit:
--
--     CREATE TABLE copy (relation text, key text, value text, PRIMARY KEY (relation, key));
--     CREATE TABLE pulled (op text, relation text, key text, value text, cursor text);
--     CREATE TABLE held (cursor text);
--
-- `pulled` takes the rows of
--
--     SELECT op, relation, key::text, value::text, cursor FROM sync_changes(:since, :shape)
--
-- by way of COPY, dblink or a driver: the other side is another server, or this one in a transaction of
-- its own, since a transaction that has written may not pull. Keys are compared by their text.
--
-- One transaction: whoever reads the copy sees the state of one snapshot, never half a delta. The lock
-- lets one delta in at a time and does not hinder readers; where it must wait for another one to
-- finish, this delta was pulled with a cursor that is no longer the newest: take it first, then pull.

BEGIN;
LOCK TABLE copy IN SHARE ROW EXCLUSIVE MODE;

-- A reset says that what follows is complete.
DELETE FROM copy WHERE EXISTS (SELECT FROM pulled WHERE op = 'reset');

-- Upserted keys go too, and all of them before the first one comes back: two rows may have swapped a
-- value that a unique index of the copy covers.
DELETE FROM copy c USING pulled p
WHERE p.op IN ('delete', 'upsert') AND c.relation = p.relation AND c.key = p.key;

INSERT INTO copy (relation, key, value)
SELECT relation, key, value FROM pulled WHERE op = 'upsert';

-- The cursor belongs to these rows: it is stored with them or not at all.
DELETE FROM held WHERE EXISTS (SELECT FROM pulled WHERE op = 'commit');
INSERT INTO held SELECT cursor FROM pulled WHERE op = 'commit';

TRUNCATE pulled;
COMMIT;
