-- Shared todo lists. Three plain tables; sync_track is all that Syncline asks of them.

CREATE EXTENSION IF NOT EXISTS syncline;

CREATE TABLE list (
    id uuid PRIMARY KEY,
    title text NOT NULL CONSTRAINT list_title CHECK (title ~ '\S' AND length(title) <= 80)
);

CREATE TABLE member (
    list_id uuid REFERENCES list ON DELETE CASCADE,
    name text CONSTRAINT member_name CHECK (name ~ '\S' AND length(name) <= 40),
    PRIMARY KEY (list_id, name)
);
CREATE INDEX ON member (name);

CREATE TABLE todo (
    id uuid PRIMARY KEY,
    list_id uuid NOT NULL REFERENCES list ON DELETE CASCADE,
    title text NOT NULL CONSTRAINT todo_title CHECK (title ~ '\S' AND length(title) <= 200),
    done boolean NOT NULL DEFAULT false,
    made timestamptz NOT NULL,
    CONSTRAINT todo_taken UNIQUE (list_id, title)
);

SELECT sync_track('list'), sync_track('member'), sync_track('todo', filter_columns => '{list_id}');

-- Who may read and write a list: its members.
CREATE FUNCTION may(who text, list uuid) RETURNS boolean STABLE
    RETURN EXISTS (SELECT FROM member m WHERE m.list_id = list AND m.name = who);

-- What a user's browser keeps: his memberships, one shape for each of his lists, and what the server knows
-- of this browser's writes. A membership that comes or goes makes a whole shape come or go.
CREATE FUNCTION shapes(who text, client text) RETURNS TABLE (id text, shape jsonb) STABLE
BEGIN ATOMIC
    SELECT 'me', jsonb_build_object('params', jsonb_build_array(who), 'tables', '{"member": {"where": "name = $1"}}'::jsonb)
    UNION ALL
    SELECT 'client', jsonb_build_object('params', jsonb_build_array(client), 'tables',
        '{"syncline.client": {"where": "client = $1"}}'::jsonb) WHERE client IS NOT NULL
    UNION ALL
    SELECT 'list:' || list_id, jsonb_build_object('params', jsonb_build_array(list_id), 'tables',
        '{"list": {"where": "id = $1"}, "member": {"where": "list_id = $1"}, "todo": {"where": "list_id = $1"}}'::jsonb)
    FROM member WHERE name = who;
END;
