-- Syncline: consistent deltas of your own tables with plain SQL.
-- The whole SQL side of the extension, in reading order: storage, row triggers, barriers, functions.

DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'syncline needs a database with encoding UTF8' USING ERRCODE = '0A000';
    END IF;
END $$;

CREATE SCHEMA syncline;
GRANT USAGE ON SCHEMA syncline TO PUBLIC;

-- Storage ------------------------------------------------------------------------------------------

CREATE TABLE syncline.state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch bigint NOT NULL,
    horizon pg_catalog.pg_snapshot NOT NULL
    -- The output plugin reads the epoch of the moment that it decodes.
) WITH (user_catalog_table = true);
-- And notices by the old row that it is another one.
ALTER TABLE syncline.state REPLICA IDENTITY FULL;
COMMENT ON TABLE syncline.state IS 'the generation of cursors, and the oldest snapshot that log rows are kept for';
INSERT INTO syncline.state (epoch, horizon)
VALUES (('x' || substr(md5(gen_random_uuid()::text), 1, 15))::bit(60)::bigint, '3:3:');

CREATE TABLE syncline.log (
    relation oid NOT NULL,
    xid xid8 NOT NULL,
    last bigint NOT NULL,
    pos pg_lsn NOT NULL,
    rows bytea NOT NULL,
    PRIMARY KEY (relation, xid, last)
);
COMMENT ON TABLE syncline.log IS
    'what rows were before they were deleted or updated, or that they were not: log rows by the dozen, the last one with its number in the transaction';

CREATE TABLE syncline.barrier (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    columns int2[],
    reason text NOT NULL
);
CREATE INDEX ON syncline.barrier (xid);
COMMENT ON TABLE syncline.barrier IS
    'changes that no delta can describe: cursors over the columns (NULL: any) from before them reset, older snapshots must retry';

CREATE TABLE syncline.leaf (
    leaf oid PRIMARY KEY,
    root oid NOT NULL
);
COMMENT ON TABLE syncline.leaf IS 'to which tracked table a partition belonged: a dropped one no longer tells';

CREATE TABLE syncline.altered (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    renamed boolean NOT NULL
);
COMMENT ON TABLE syncline.altered IS
    'tables whose definition was altered, for the output plugin, which reads it in the log; pulls tell it by their cursor';

CREATE TABLE syncline.sample (
    taken timestamptz PRIMARY KEY DEFAULT clock_timestamp(),
    snapshot pg_catalog.pg_snapshot NOT NULL
);
COMMENT ON TABLE syncline.sample IS 'snapshots and when they were taken, for sync_prune';

-- Row triggers ---------------------------------------------------------------------------------------

CREATE FUNCTION syncline.stamp() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'syncline_stamp';
COMMENT ON FUNCTION syncline.stamp() IS 'writes the id of the writing transaction into _sync_version of rows that change';

CREATE FUNCTION syncline.log() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'syncline_log';
COMMENT ON FUNCTION syncline.log() IS 'keeps key and filter columns of rows that were deleted, moved or changed; its arguments are the filter columns';

CREATE FUNCTION syncline.refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_catalog.current_setting('syncline.pruning', true) = 'on' AND TG_OP = 'DELETE' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'table "syncline.log" is written by triggers only'
        USING ERRCODE = '42501', HINT = 'Use sync_prune to shorten it.';
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON syncline.log
    FOR EACH STATEMENT EXECUTE FUNCTION syncline.refuse();
ALTER TABLE syncline.log ENABLE ALWAYS TRIGGER refuse;

CREATE FUNCTION syncline.arguments(tgargs bytea) RETURNS text[] LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'syncline_arguments';
COMMENT ON FUNCTION syncline.arguments(bytea) IS 'the arguments of a trigger, as pg_trigger.tgargs has them: each ends with a zero byte';

-- Barriers -------------------------------------------------------------------------------------------

CREATE FUNCTION syncline.root(relation oid) RETURNS oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(pg_partition_root($1)::oid, $1) $$;
COMMENT ON FUNCTION syncline.root(oid) IS 'the table at the top of a partition tree';

CREATE FUNCTION syncline.is_tracked(relation oid) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1 AND tgfoid = 'syncline.stamp()'::regprocedure) $$;
COMMENT ON FUNCTION syncline.is_tracked(oid) IS 'whether rows of this table are stamped';

CREATE FUNCTION syncline.set_barrier(relation oid, reason text, columns int2[] DEFAULT NULL) RETURNS void LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$ INSERT INTO syncline.barrier (relation, columns, reason) VALUES (syncline.root($1), $3, $2) $$;
REVOKE ALL ON FUNCTION syncline.set_barrier(oid, text, int2[]) FROM PUBLIC;
COMMENT ON FUNCTION syncline.set_barrier(oid, text, int2[]) IS 'makes cursors over these columns of a table reset; NULL: over any';

CREATE FUNCTION syncline.note_altered(relation oid, renamed boolean) RETURNS void LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$ INSERT INTO syncline.altered (relation, renamed) VALUES ($1, $2) $$;
REVOKE ALL ON FUNCTION syncline.note_altered(oid, boolean) FROM PUBLIC;
COMMENT ON FUNCTION syncline.note_altered(oid, boolean) IS 'tells the stream that a table, or its name, is another one from here on';

CREATE FUNCTION syncline.truncated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM syncline.set_barrier(TG_RELID, 'truncate');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION syncline.truncated() IS 'a barrier for TRUNCATE';

-- Adopts the leaves of a tracked table and forgets those that left it.
CREATE FUNCTION syncline.adopt(root oid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    members oid[] := (SELECT array_agg(p.relid) || adopt.root FROM pg_partition_tree(adopt.root::regclass) p);
    member oid;
    trigger name;
BEGIN
    FOR member IN
        SELECT l.leaf FROM syncline.leaf l
        WHERE l.root = adopt.root AND l.leaf <> ALL (members)
          AND EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = l.leaf AND g.tgname = 'syncline_truncate')
    LOOP
        EXECUTE format('DROP TRIGGER syncline_truncate ON %s', member::regclass);
    END LOOP;
    DELETE FROM syncline.leaf l WHERE l.root = adopt.root AND l.leaf <> ALL (members);
    FOR member IN SELECT DISTINCT unnest(members) LOOP
        INSERT INTO syncline.leaf VALUES (member, adopt.root) ON CONFLICT DO NOTHING;
        IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = member AND g.tgname = 'syncline_truncate') THEN
            EXECUTE format('CREATE TRIGGER syncline_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT '
                           'EXECUTE FUNCTION syncline.truncated()', member::regclass);
        END IF;
        -- ENABLE TRIGGER ALL, which frameworks run around loading fixtures, leaves them as others are. Row triggers that are
        -- disabled stay so: that is what was asked for, and pulls are refused meanwhile.
        FOR trigger IN
            SELECT g.tgname FROM pg_trigger g
            WHERE g.tgrelid = member
              AND (g.tgname = 'syncline_truncate' AND g.tgenabled <> 'A'
                   OR g.tgname IN ('~syncline_stamp', 'syncline_log') AND g.tgenabled IN ('O', 'R'))
        LOOP
            EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', member::regclass, trigger);
        END LOOP;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION syncline.adopt(oid) FROM PUBLIC;
COMMENT ON FUNCTION syncline.adopt(oid) IS 'takes the members of a tracked table under watch, their triggers among them';

CREATE FUNCTION syncline.set_type_barrier(changed oid) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- The type, and all types whose values contain values of it.
    WITH RECURSIVE made_of(type) AS (
        SELECT $1
        UNION
        SELECT o.type FROM made_of m CROSS JOIN LATERAL (
            SELECT t.oid FROM pg_type t WHERE t.typelem = m.type OR t.typbasetype = m.type
            UNION ALL
            SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.atttypid = m.type AND c.reltype <> 0
            UNION ALL
            SELECT unnest(ARRAY[r.rngtypid, r.rngmultitypid]) FROM pg_range r WHERE r.rngsubtype = m.type
        ) o(type)
    )
    INSERT INTO syncline.barrier (relation, columns, reason)
    -- A table OF the type is altered with it.
    SELECT g.tgrelid, CASE WHEN c.reloftype <> $1 THEN array_agg(a.attnum) END, 'alter type'
    FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
        LEFT JOIN pg_attribute a ON a.attrelid = g.tgrelid AND a.attnum > 0 AND a.atttypid IN (SELECT type FROM made_of)
    WHERE g.tgfoid = 'syncline.stamp()'::regprocedure AND g.tgparentid = 0 AND (a.attnum IS NOT NULL OR c.reloftype = $1)
    GROUP BY g.tgrelid, c.reloftype
$$;
REVOKE ALL ON FUNCTION syncline.set_type_barrier(oid) FROM PUBLIC;
COMMENT ON FUNCTION syncline.set_type_barrier(oid) IS 'makes cursors over columns of a type, or of one made of it, reset';

-- What ATTACH PARTITION did to the table at the top, whose leaves are not adopted yet.
CREATE FUNCTION syncline.attached(top oid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    member record;
    is_empty boolean := true;
    has_row boolean;
BEGIN
    IF NOT syncline.is_tracked(top) THEN
        -- A tracked table became a partition: from now on its changes are logged for another one.
        INSERT INTO syncline.barrier (relation, reason)
            SELECT p.relid, 'attach' FROM pg_partition_tree(top::regclass) p WHERE syncline.is_tracked(p.relid);
        RETURN;
    END IF;
    FOR member IN
        SELECT p.relid, c.relkind FROM pg_partition_tree(top::regclass) p JOIN pg_class c ON c.oid = p.relid
        WHERE p.isleaf AND NOT EXISTS (SELECT FROM syncline.leaf l WHERE l.leaf = p.relid AND l.root = top)
    LOOP
        IF member.relkind = 'r' THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s)', member.relid::regclass) INTO has_row;
        END IF;
        is_empty := is_empty AND member.relkind = 'r' AND NOT has_row;
    END LOOP;
    -- An empty partition resets nobody; a snapshot that may have seen rows in it must retry.
    PERFORM syncline.set_barrier(top, 'attach', CASE WHEN is_empty THEN '{}'::int2[] END);
END $$;
REVOKE ALL ON FUNCTION syncline.attached(oid) FROM PUBLIC;
COMMENT ON FUNCTION syncline.attached(oid) IS 'barriers for ATTACH PARTITION';

-- Called by the native event trigger with what only the parse tree tells: what became of rows ('nothing', 'key', 'renamed',
-- 'attached', 'columns' with their names, 'any'), whether values of the type read otherwise, and whether sync_track runs it.
CREATE FUNCTION syncline.on_ddl(change text, names text[], is_of_type boolean, own boolean) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    top oid;
    columns int2[];
BEGIN
    FOR c IN SELECT classid, objid, command_tag FROM pg_event_trigger_ddl_commands() LOOP
        IF c.classid = 'pg_class'::regclass AND c.command_tag IN ('ALTER TABLE', 'CREATE TABLE') AND NOT own THEN
            top := syncline.root(c.objid);
            IF change = 'attached' THEN
                PERFORM syncline.attached(top);
            END IF;
            IF syncline.is_tracked(top) THEN
                IF change = 'any' OR change = 'key' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = top AND i.indisprimary) THEN
                    PERFORM syncline.set_barrier(top, lower(c.command_tag));
                ELSIF change = 'columns' THEN
                    -- A name that is not there stands for every column.
                    SELECT array_agg(a.attnum) INTO columns FROM unnest(names) n
                        LEFT JOIN pg_attribute a ON a.attrelid = top AND a.attname = n AND a.attnum > 0;
                    columns := CASE WHEN array_position(columns, NULL) IS NULL THEN columns END;
                    PERFORM syncline.set_barrier(top, lower(c.command_tag), columns);
                END IF;
                PERFORM syncline.note_altered(top, change = 'renamed');
                PERFORM syncline.adopt(top);
            END IF;
        ELSIF c.classid = 'pg_namespace'::regclass AND c.command_tag = 'ALTER SCHEMA' THEN
            PERFORM syncline.note_altered(r.oid, true) FROM pg_class r WHERE r.relnamespace = c.objid AND syncline.is_tracked(r.oid);
        ELSIF c.classid = 'pg_trigger'::regclass AND NOT own THEN
            SELECT g.tgrelid INTO top FROM pg_trigger g
            WHERE g.oid = c.objid
              AND (g.tgname IN ('~syncline_stamp', 'syncline_log')
                   OR g.tgfoid IN ('syncline.stamp()'::regprocedure, 'syncline.log()'::regprocedure));
            IF FOUND THEN
                PERFORM syncline.set_barrier(top, 'trigger created');
                INSERT INTO syncline.leaf SELECT p.relid, top FROM pg_partition_tree(top::regclass) p
                    UNION SELECT top, top ON CONFLICT DO NOTHING;
            END IF;
        ELSIF c.classid = 'pg_cast'::regclass THEN
            -- A function that makes JSON of a type is what its values are sent as.
            PERFORM syncline.set_type_barrier(k.castsource) FROM pg_cast k
            WHERE k.oid = c.objid AND k.casttarget = 'json'::regtype AND k.castmethod = 'f';
        END IF;
        IF is_of_type AND c.command_tag IN ('ALTER TABLE', 'ALTER TYPE') THEN
            PERFORM syncline.set_type_barrier(CASE WHEN c.classid = 'pg_type'::regclass THEN c.objid ELSE r.reltype END)
            FROM (SELECT) one LEFT JOIN pg_class r ON c.classid = 'pg_class'::regclass AND r.oid = c.objid;
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION syncline.on_ddl(text, text[], boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION syncline.on_ddl(text, text[], boolean, boolean) IS 'barriers for the data definition command that just ended';

CREATE FUNCTION syncline.ddl() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'syncline_ddl';
COMMENT ON FUNCTION syncline.ddl() IS 'notices data definition commands that change rows or triggers of tracked tables';

CREATE FUNCTION syncline.dropped() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d record;
    relation oid;
BEGIN
    FOR d IN SELECT classid, objid, objsubid, object_type, address_names FROM pg_event_trigger_dropped_objects() LOOP
        IF d.classid = 'pg_class'::regclass AND d.objsubid = 0 THEN
            INSERT INTO syncline.barrier (relation, reason)
                SELECT l.root, 'drop' FROM syncline.leaf l WHERE l.leaf = d.objid;
            DELETE FROM syncline.leaf l WHERE l.leaf = d.objid;
        ELSIF d.object_type = 'cast' THEN
            PERFORM syncline.set_type_barrier(to_regtype(d.address_names[1])) WHERE to_regtype(d.address_names[1]) IS NOT NULL;
        ELSIF d.object_type = 'trigger' AND d.address_names[3] IN ('~syncline_stamp', 'syncline_log', 'syncline_truncate') THEN
            relation := to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]));
            IF relation IS NOT NULL THEN
                PERFORM syncline.set_barrier(relation, 'trigger dropped');
            END IF;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION syncline.dropped() IS 'barriers for dropped partitions and triggers';

CREATE FUNCTION syncline.rewritten() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF syncline.is_tracked(syncline.root(pg_event_trigger_table_rewrite_oid())) THEN
        PERFORM syncline.set_barrier(pg_event_trigger_table_rewrite_oid(), 'rewrite', '{}');
    END IF;
END $$;
COMMENT ON FUNCTION syncline.rewritten() IS
    'a barrier that resets nobody: a rewritten table looks empty to older snapshots, which must retry';

CREATE EVENT TRIGGER syncline_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA', 'ALTER SCHEMA', 'CREATE TRIGGER', 'ALTER TRIGGER', 'ALTER TYPE', 'CREATE CAST')
    EXECUTE FUNCTION syncline.ddl();
CREATE EVENT TRIGGER syncline_dropped ON sql_drop EXECUTE FUNCTION syncline.dropped();
CREATE EVENT TRIGGER syncline_rewritten ON table_rewrite EXECUTE FUNCTION syncline.rewritten();
ALTER EVENT TRIGGER syncline_rewritten ENABLE ALWAYS;
ALTER EVENT TRIGGER syncline_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER syncline_dropped ENABLE ALWAYS;

-- Tracking -------------------------------------------------------------------------------------------

-- The caller's part of sync_track: his rights decide. What now begins: "tracking", "logging inserts", or nothing.
CREATE FUNCTION syncline.track(relation regclass, filter_columns text[], log_inserts boolean, published boolean)
    RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c pg_catalog.pg_class;
    key oid;
    logged text[];
    inserts boolean;
    name text;
    begins text;
    indexed int2[];
    columns text;
BEGIN
    SELECT * INTO c FROM pg_catalog.pg_class WHERE oid = relation;
    IF c.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'cannot track "%": it is not a table', c.relname USING ERRCODE = '42809',
            HINT = 'Track the tables that it is made of.';
    ELSIF c.relnamespace IN ('pg_catalog'::pg_catalog.regnamespace, 'information_schema'::pg_catalog.regnamespace)
       OR (c.relnamespace = 'syncline'::pg_catalog.regnamespace AND relation NOT IN ('syncline.client'::pg_catalog.regclass, 'syncline.message'::pg_catalog.regclass)) THEN
        RAISE EXCEPTION 'cannot track system table "%"', c.relname USING ERRCODE = '42809';
    ELSIF c.relpersistence <> 'p' THEN
        RAISE EXCEPTION 'cannot track "%": it is unlogged or temporary', c.relname USING ERRCODE = '0A000',
            HINT = pg_catalog.format('ALTER TABLE %s SET LOGGED', relation);
    ELSIF c.relispartition THEN
        RAISE EXCEPTION 'cannot track partition "%" on its own', c.relname USING ERRCODE = '0A000',
            HINT = pg_catalog.format('SELECT sync_track(%L)', pg_catalog.pg_partition_root(relation));
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = relation
                  OR (i.inhparent = relation AND c.relkind = 'r')) THEN
        RAISE EXCEPTION 'cannot track "%": it takes part in plain inheritance', c.relname USING ERRCODE = '0A000',
            HINT = 'Use partitions instead of inheritance.';
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_class f JOIN pg_catalog.pg_partition_tree(relation) p ON p.relid = f.oid
                  WHERE f.relkind = 'f') THEN
        RAISE EXCEPTION 'cannot track "%": it has foreign partitions', c.relname USING ERRCODE = '0A000';
    END IF;
    SELECT i.indexrelid INTO key FROM pg_catalog.pg_index i
    WHERE i.indrelid = relation AND (i.indisprimary OR i.indisreplident) AND i.indisvalid
    ORDER BY i.indisprimary DESC LIMIT 1;
    IF key IS NULL THEN
        RAISE EXCEPTION 'cannot track "%": it has no primary key', c.relname USING ERRCODE = '55000',
            HINT = pg_catalog.format('ALTER TABLE %s ADD PRIMARY KEY (...)', relation);
    ELSIF NOT (SELECT i.indimmediate FROM pg_catalog.pg_index i WHERE i.indexrelid = key) THEN
        RAISE EXCEPTION 'cannot track "%": its key is deferrable', c.relname USING ERRCODE = '0A000',
            HINT = pg_catalog.format('ALTER TABLE %s ALTER CONSTRAINT %I NOT DEFERRABLE, or a key of its own',
                relation, (SELECT conname FROM pg_catalog.pg_constraint WHERE conindid = key AND contype = 'p'));
    END IF;
    IF NOT published AND EXISTS (SELECT FROM pg_catalog.pg_publication_tables p
                                 WHERE p.tablename = c.relname AND p.schemaname = (SELECT nspname FROM pg_catalog.pg_namespace WHERE oid = c.relnamespace)
                                 -- A list of columns does not grow by itself.
                                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication b JOIN pg_catalog.pg_publication_rel r ON r.prpubid = b.oid
                                                 WHERE b.pubname = p.pubname AND r.prrelid = relation AND r.prattrs IS NOT NULL))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = relation AND attname = '_sync_version') THEN
        RAISE EXCEPTION 'cannot track "%": it is published', c.relname USING ERRCODE = '55000',
            DETAIL = 'Subscribers without the column _sync_version would stop.',
            HINT = pg_catalog.format('Add the column on the subscribers, then: SELECT sync_track(%L, published => true)', relation);
    END IF;
    FOREACH name IN ARRAY filter_columns LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
                       WHERE attrelid = relation AND attname = name AND attnum > 0 AND NOT attisdropped) THEN
            RAISE EXCEPTION 'column "%" of table "%" does not exist', name, c.relname USING ERRCODE = '42703';
        ELSIF EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = relation AND attname = name AND attgenerated = 'v') THEN
            -- Triggers see NULL in it.
            RAISE EXCEPTION 'column "%" of table "%" is virtual', name, c.relname USING ERRCODE = '0A000',
                HINT = 'Make the column STORED, or filter by the columns it is computed from.';
        END IF;
    END LOOP;

    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = relation AND attname = '_sync_version') THEN
        EXECUTE pg_catalog.format('ALTER TABLE %s ADD COLUMN _sync_version bigint NOT NULL DEFAULT 0', relation);
    ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = relation AND attname = '_sync_version'
                      AND atttypid = 'pg_catalog.int8'::pg_catalog.regtype AND attnotnull) THEN
        RAISE EXCEPTION 'column "_sync_version" of table "%" is not bigint NOT NULL', c.relname USING ERRCODE = '42804',
            HINT = pg_catalog.format('ALTER TABLE %s ALTER COLUMN _sync_version TYPE bigint, ALTER COLUMN _sync_version SET NOT NULL', relation);
    END IF;
    -- What one transaction wrote is ordered by the key: a page goes on in the middle of it.
    SELECT pg_catalog.array_agg(a.attnum ORDER BY k.place), pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.place)
      INTO indexed, columns
      FROM (SELECT 0 AS place, v.attnum FROM pg_catalog.pg_attribute v WHERE v.attrelid = relation AND v.attname = '_sync_version'
            UNION ALL
            SELECT n, i.indkey[n - 1] FROM pg_catalog.pg_index i, pg_catalog.generate_series(1, i.indnkeyatts) n WHERE i.indexrelid = key) k
           JOIN pg_catalog.pg_attribute a ON a.attrelid = relation AND a.attnum = k.attnum;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                   WHERE i.indrelid = relation AND i.indpred IS NULL AND i.indisvalid
                     AND (i.indkey::int2[])[0:pg_catalog.cardinality(indexed) - 1] = indexed) THEN
        EXECUTE pg_catalog.format('CREATE INDEX ON %s (%s)', relation, columns);
    END IF;

    -- pg_trigger.tgtype: bit 4 is INSERT.
    SELECT syncline.arguments(t.tgargs), (t.tgtype & 4) <> 0
      INTO logged, inserts
      FROM pg_catalog.pg_trigger t WHERE t.tgrelid = relation AND t.tgname = 'syncline_log';
    begins := CASE WHEN logged IS NULL OR NOT syncline.is_tracked(relation) THEN 'tracking'
                   WHEN log_inserts AND NOT inserts THEN 'logging inserts' END;
    SELECT pg_catalog.array_agg(DISTINCT n) INTO logged FROM pg_catalog.unnest(logged || filter_columns) n;
    inserts := coalesce(inserts, false) OR log_inserts;
    IF NOT syncline.is_tracked(relation) THEN
        EXECUTE pg_catalog.format('CREATE TRIGGER "~syncline_stamp" BEFORE INSERT OR UPDATE ON %s '
                                  'FOR EACH ROW EXECUTE FUNCTION syncline.stamp()', relation);
    END IF;
    EXECUTE pg_catalog.format('CREATE OR REPLACE TRIGGER syncline_log AFTER %s UPDATE OR DELETE ON %s '
                              'FOR EACH ROW EXECUTE FUNCTION syncline.log(%s)',
        CASE WHEN inserts THEN 'INSERT OR' ELSE '' END, relation,
        (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(n), ', ') FROM pg_catalog.unnest(logged) n));
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER "~syncline_stamp"', relation);
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER syncline_log', relation);
    RETURN begins;
END $$;
COMMENT ON FUNCTION syncline.track(regclass, text[], boolean, boolean) IS 'the part of sync_track that runs with the caller''s rights';

CREATE FUNCTION sync_track(relation regclass, filter_columns text[] DEFAULT '{}', log_inserts boolean DEFAULT false,
                           published boolean DEFAULT false)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'syncline_sync_track';
COMMENT ON FUNCTION sync_track(regclass, text[], boolean, boolean) IS
    'starts tracking a table: column _sync_version, its index, triggers; calling again widens filter_columns';

CREATE FUNCTION sync_untrack(relation regclass) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    member regclass;
BEGIN
    IF NOT syncline.is_tracked(relation) THEN
        RAISE EXCEPTION 'table "%" is not tracked', relation USING ERRCODE = '55000';
    END IF;
    FOR member IN SELECT g.tgrelid FROM pg_catalog.pg_trigger g
                  WHERE g.tgname = 'syncline_truncate' AND syncline.root(g.tgrelid) = relation LOOP
        EXECUTE pg_catalog.format('DROP TRIGGER syncline_truncate ON %s', member);
    END LOOP;
    EXECUTE pg_catalog.format('DROP TRIGGER "~syncline_stamp" ON %s', relation);
    EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS syncline_log ON %s', relation);
    EXECUTE pg_catalog.format('ALTER TABLE %s DROP COLUMN _sync_version', relation);
END $$;
COMMENT ON FUNCTION sync_untrack(regclass) IS 'stops tracking a table and removes all that sync_track added; cursors over it reset';

-- Mutations ------------------------------------------------------------------------------------------

CREATE TABLE syncline.client (
    client text PRIMARY KEY CHECK (octet_length(client) BETWEEN 1 AND 200),
    role name NOT NULL,
    mutation_id bigint NOT NULL,
    rejected_id bigint,
    rejected_reason text
);
CREATE TABLE syncline.message (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    topic text NOT NULL CHECK (octet_length(topic) BETWEEN 1 AND 200),
    payload jsonb NOT NULL,
    published timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON syncline.message (topic);
COMMENT ON TABLE syncline.message IS
    'messages of sync_publish; tracked, so that they come with the rows and by cursor; sync_prune drops old ones';
COMMENT ON TABLE syncline.client IS
    'the last mutation of each client that was applied or rejected, and the last rejected one; tracked, so that it comes with the rows';
-- All arguments: nothing but our own function takes them. A publication for all tables has it already, and nobody subscribes to it yet.
SELECT @extschema@.sync_track('syncline.client'::regclass, '{role}'::text[], false, true);
SELECT @extschema@.sync_track('syncline.message'::regclass, '{topic}'::text[], false, true);
SELECT pg_catalog.pg_extension_config_dump('syncline.message', '');
SELECT pg_catalog.pg_extension_config_dump('syncline.message_id_seq', '');
-- A role sees its own clients only.
ALTER TABLE syncline.client ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON syncline.client FOR SELECT USING (role = current_user);
SELECT pg_catalog.pg_extension_config_dump('syncline.client', '');
GRANT SELECT ON syncline.client TO PUBLIC;

CREATE FUNCTION sync_mutation(client text, mutation_id bigint, rejected text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- Who calls: current_user is this function's owner here.
    caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    known syncline.client;
BEGIN
    IF $1 IS NULL OR $2 IS NULL THEN
        RAISE EXCEPTION 'client and mutation_id must not be NULL' USING ERRCODE = '22004';
    ELSIF $2 < 1 THEN
        RAISE EXCEPTION 'mutation_id must be positive' USING ERRCODE = '22023', HINT = 'A client numbers its mutations from 1.';
    ELSIF octet_length($1) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'client must have 1 to 200 bytes' USING ERRCODE = '22023', HINT = 'A random UUID will do.';
    END IF;
    -- The same mutation in two sessions: the second waits here for the first to end.
    IF $2 = 1 THEN
        INSERT INTO syncline.client AS c VALUES ($1, caller, 1, CASE WHEN $3 IS NOT NULL THEN 1 END, $3) ON CONFLICT DO NOTHING;
    ELSE
        UPDATE syncline.client c
        SET mutation_id = $2,
            rejected_id = CASE WHEN $3 IS NULL THEN c.rejected_id ELSE $2 END,
            rejected_reason = coalesce($3, c.rejected_reason)
        WHERE c.client = $1 AND c.role = caller AND c.mutation_id = $2 - 1;
    END IF;
    IF FOUND THEN
        RETURN true;
    END IF;
    SELECT * INTO known FROM syncline.client c WHERE c.client = $1;
    IF known.role <> caller THEN
        RAISE EXCEPTION 'client belongs to another role' USING ERRCODE = '42501', HINT = 'Use a client name of your own.';
    ELSIF known.mutation_id >= $2 THEN
        RETURN false;
    END IF;
    RAISE EXCEPTION 'mutation % does not follow mutation %', $2, coalesce(known.mutation_id, 0) USING ERRCODE = '55000',
        DETAIL = 'Mutations of one client are applied in their order, without a gap.',
        HINT = 'Send the missing ones first; a client that the server does not know any more takes a new name.';
END $$;
COMMENT ON FUNCTION sync_mutation(text, bigint, text) IS
    'true: the mutation was not applied yet and is recorded (as rejected, with a reason); false: it was; an error on a gap';

-- Streaming ------------------------------------------------------------------------------------------

CREATE FUNCTION syncline.snapshot() RETURNS pg_snapshot LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'syncline_snapshot';
COMMENT ON FUNCTION syncline.snapshot() IS 'the current snapshot with its subtransactions, which pg_current_snapshot() leaves out';

CREATE FUNCTION syncline.flush() RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'syncline_flush';
REVOKE ALL ON FUNCTION syncline.flush() FROM PUBLIC;
COMMENT ON FUNCTION syncline.flush() IS 'makes what is in the write-ahead log durable, and with it visible to decoding';

CREATE FUNCTION sync_publish(topic text, payload jsonb, transactional boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF $1 IS NULL OR $2 IS NULL OR $3 IS NULL THEN
        RAISE EXCEPTION 'topic, payload and transactional must not be NULL' USING ERRCODE = '22004';
    ELSIF octet_length($1) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'topic must have 1 to 200 bytes' USING ERRCODE = '22023';
    ELSIF $3 THEN
        INSERT INTO syncline.message (topic, payload) VALUES ($1, $2);
    ELSE
        PERFORM pg_logical_emit_message(false, 'syncline.message', octet_length($1) || ':' || $1 || $2::text);
        PERFORM syncline.flush();
    END IF;
END $$;
REVOKE ALL ON FUNCTION sync_publish(text, jsonb, boolean) FROM PUBLIC;
COMMENT ON FUNCTION sync_publish(text, jsonb, boolean) IS
    'a message under a topic: a row of syncline.message, pulled by cursor and streamed with this transaction; or, not transactional, only into the stream and at once';

-- A row, not a logical message: those anybody may write, and a position that claims too much loses rows.
CREATE TABLE syncline.heartbeat (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    snapshot pg_catalog.pg_snapshot NOT NULL
);
COMMENT ON TABLE syncline.heartbeat IS 'what the last sync_heartbeat saw, for the output plugin, which reads it in the log';

CREATE FUNCTION sync_heartbeat() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ INSERT INTO syncline.heartbeat (snapshot) VALUES (syncline.snapshot())
          ON CONFLICT (singleton) DO UPDATE SET snapshot = EXCLUDED.snapshot $$;
REVOKE ALL ON FUNCTION sync_heartbeat() FROM PUBLIC;
COMMENT ON FUNCTION sync_heartbeat() IS
    'writes the current snapshot into the write-ahead log: positions of the stream become as short as it; call it every few seconds';

-- Named shapes ---------------------------------------------------------------------------------------

CREATE TABLE syncline.shape (
    name text COLLATE "C" PRIMARY KEY CHECK (name <> ''),
    shape jsonb NOT NULL
);
COMMENT ON TABLE syncline.shape IS 'shapes that are used by their names';
SELECT pg_catalog.pg_extension_config_dump('syncline.shape', '');

CREATE FUNCTION syncline.check_shape(shape jsonb) RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'syncline_check_shape';
COMMENT ON FUNCTION syncline.check_shape(jsonb) IS 'an error if this cannot be a named shape';

CREATE FUNCTION sync_define(name text, shape jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF $1 IS NULL OR $2 IS NULL OR $1 = '' THEN
        RAISE EXCEPTION 'name and shape must not be NULL or empty' USING ERRCODE = '22023';
    END IF;
    PERFORM syncline.check_shape($2);
    INSERT INTO syncline.shape VALUES ($1, $2) ON CONFLICT ON CONSTRAINT shape_pkey DO UPDATE SET shape = EXCLUDED.shape;
END $$;
REVOKE ALL ON FUNCTION sync_define(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION sync_define(text, jsonb) IS
    'puts a shape under a name, to be used as {"shape": "name", "params": [...]}; defined anew, its cursors reset';

CREATE FUNCTION sync_undefine(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM syncline.shape s WHERE s.name = $1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'shape "%" is not defined', $1 USING ERRCODE = '42704', HINT = 'sync_shapes lists the named shapes.';
    END IF;
END $$;
REVOKE ALL ON FUNCTION sync_undefine(text) FROM PUBLIC;
COMMENT ON FUNCTION sync_undefine(text) IS 'removes a named shape; pulls of it are refused from then on';

-- Pulling --------------------------------------------------------------------------------------------

CREATE FUNCTION sync_changes(since text, shape jsonb, max_rows int DEFAULT NULL, max_bytes int DEFAULT NULL,
                             OUT op text, OUT relation text, OUT key json, OUT value json, OUT cursor text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000
    AS 'MODULE_PATHNAME', 'syncline_sync_changes';
COMMENT ON FUNCTION sync_changes(text, jsonb, int, int) IS
    'what a client that holds the shape as of cursor "since" (NULL: nothing) lacks in this statement''s snapshot; with a limit a page of it';

CREATE FUNCTION sync_pull(since text, shape jsonb, max_bytes int DEFAULT 4194304, max_rows int DEFAULT NULL)
    RETURNS json LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'syncline_sync_pull';
COMMENT ON FUNCTION sync_pull(text, jsonb, int, int) IS 'the delta of sync_changes as one JSON document; until "up_to_date" pull again';

CREATE FUNCTION sync_preview(shape jsonb,
                             OUT op text, OUT relation text, OUT key json, OUT value json, OUT cursor text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000
    AS 'MODULE_PATHNAME', 'syncline_sync_preview';
COMMENT ON FUNCTION sync_preview(jsonb) IS 'the rows of a shape, own uncommitted changes included, without a cursor';

CREATE FUNCTION sync_digest(shape jsonb, OUT "rows" bigint, OUT hash text) RETURNS record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'syncline_sync_digest';
COMMENT ON FUNCTION sync_digest(jsonb) IS
    'count of a shape''s rows and the sum modulo 2^64 of the first 8 bytes of sha256(relation, NUL, key, NUL, value)';

CREATE FUNCTION sync_sees(cursor text, xid xid8) RETURNS boolean LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'syncline_sync_sees';
COMMENT ON FUNCTION sync_sees(text, xid8) IS 'whether a client that holds this cursor has seen that transaction';

CREATE FUNCTION sync_position() RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'syncline_sync_position';
COMMENT ON FUNCTION sync_position() IS
    'the position of this statement''s snapshot: what a cursor made now begins with; for sync_wait over any table, and sync_sees';

CREATE PROCEDURE sync_wait(since text, shape jsonb, timeout interval DEFAULT '20 s', INOUT changed boolean DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'syncline_sync_wait';
COMMENT ON PROCEDURE sync_wait(text, jsonb, interval, boolean) IS
    'returns as soon as sync_changes would return a change, or after the timeout; holds no snapshot meanwhile';

-- Administration -------------------------------------------------------------------------------------

CREATE FUNCTION sync_prune(keep interval DEFAULT '7 days') RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    edge syncline.sample;
    pruned bigint;
BEGIN
    LOCK TABLE syncline.sample IN EXCLUSIVE MODE;
    INSERT INTO syncline.sample (snapshot) VALUES (syncline.snapshot());
    SELECT * INTO edge FROM syncline.sample s WHERE s.taken <= clock_timestamp() - keep
        ORDER BY s.taken DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    DELETE FROM syncline.sample s WHERE s.taken < edge.taken;
    PERFORM set_config('syncline.pruning', 'on', true);
    DELETE FROM syncline.log l WHERE pg_visible_in_snapshot(l.xid, edge.snapshot);
    GET DIAGNOSTICS pruned = ROW_COUNT;
    PERFORM set_config('syncline.pruning', 'off', true);
    DELETE FROM syncline.altered;
    DELETE FROM syncline.message m WHERE pg_visible_in_snapshot(m._sync_version::text::xid8, edge.snapshot);
    DELETE FROM syncline.barrier b WHERE pg_visible_in_snapshot(b.xid, edge.snapshot);
    UPDATE syncline.state SET horizon = edge.snapshot;
    RETURN pruned;
END $$;
REVOKE ALL ON FUNCTION sync_prune(interval) FROM PUBLIC;
COMMENT ON FUNCTION sync_prune(interval) IS
    'drops log rows that only cursors older than "keep" need, and messages as old; returns how many rows of syncline.log went; call it regularly';

CREATE FUNCTION sync_rotate_epoch() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ UPDATE syncline.state SET epoch = ('x' || substr(md5(gen_random_uuid()::text), 1, 15))::bit(60)::bigint $$;
REVOKE ALL ON FUNCTION sync_rotate_epoch() FROM PUBLIC;
COMMENT ON FUNCTION sync_rotate_epoch() IS 'makes every cursor reset: for restores that the server cannot notice';

-- Whoever may create the extension chose its schema, and may have put operators there that fit better than those
-- of pg_catalog: a view keeps what it found, and a superuser may read it.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE VIEW @extschema@.sync_tables AS
SELECT t.tgrelid::regclass AS relation,
       syncline.arguments(g.tgargs) AS filter_columns,
       (g.tgtype & 4) <> 0 AS log_inserts,
       t.tgenabled = 'A' AND g.tgenabled = 'A' AS enabled,
       ARRAY(SELECT c FROM unnest(syncline.arguments(g.tgargs)) c
             WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                               WHERE i.indrelid = t.tgrelid AND i.indisvalid AND i.indpred IS NULL AND a.attname = c)) AS unindexed
FROM pg_trigger t LEFT JOIN pg_trigger g ON g.tgrelid = t.tgrelid AND g.tgfoid = 'syncline.log()'::regprocedure
WHERE t.tgfoid = 'syncline.stamp()'::regprocedure AND t.tgparentid = 0;
COMMENT ON VIEW @extschema@.sync_tables IS
    'the tracked tables, their filter columns, and whether their triggers are enabled; unindexed: filter columns that lead no index, by which a sub-select has to read the whole table';
GRANT SELECT ON @extschema@.sync_tables TO PUBLIC;

CREATE VIEW @extschema@.sync_health AS
SELECT (SELECT count(*) FROM @extschema@.sync_tables) AS tables,
       (SELECT count(*) FROM @extschema@.sync_tables WHERE enabled IS NOT TRUE) AS disabled_tables,
       (SELECT count(*) FROM syncline.log) AS log_rows,
       (SELECT horizon FROM syncline.state) AS horizon,
       (SELECT max(taken) FROM syncline.sample) AS last_prune,
       (SELECT max(now() - x.since) FROM (
            SELECT xact_start AS since FROM pg_stat_activity WHERE backend_xid IS NOT NULL
            UNION ALL SELECT prepared FROM pg_prepared_xacts) x) AS oldest_transaction,
       (SELECT count(*) FROM @extschema@.sync_tables t JOIN pg_class c ON c.oid = t.relation WHERE c.relrowsecurity) AS row_security_tables,
       (SELECT count(*) FROM pg_replication_slots s WHERE s.plugin = 'syncline') AS slots,
       (SELECT max(pg_wal_lsn_diff(
                   CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                   s.confirmed_flush_lsn))
        FROM pg_replication_slots s WHERE s.plugin = 'syncline') AS slot_lag_bytes;
COMMENT ON VIEW @extschema@.sync_health IS
    'numbers for a dashboard: log_rows are those of syncline.log, with up to some dozens of log rows each; last_prune far back means that nobody calls sync_prune; cursors carry the ids of open transactions';

CREATE VIEW @extschema@.sync_shapes AS SELECT s.name, s.shape FROM syncline.shape s;
COMMENT ON VIEW @extschema@.sync_shapes IS 'the named shapes';

-- The owner of a database creates the extension and need not be a superuser.
GRANT EXECUTE ON FUNCTION @extschema@.sync_prune(interval), @extschema@.sync_rotate_epoch(),
    @extschema@.sync_heartbeat(), @extschema@.sync_publish(text, jsonb, boolean),
    @extschema@.sync_define(text, jsonb), @extschema@.sync_undefine(text) TO @extowner@;
GRANT SELECT ON @extschema@.sync_health, @extschema@.sync_shapes TO @extowner@;
