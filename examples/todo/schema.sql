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

-- Who may see which list: the same pairs as in member. A policy on member that read member would have no end.
CREATE TABLE access (
    list_id uuid,
    name text,
    PRIMARY KEY (name, list_id),
    FOREIGN KEY (list_id, name) REFERENCES member ON DELETE CASCADE
);
CREATE INDEX ON access (list_id, name);

CREATE FUNCTION give_access() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO access (list_id, name) VALUES (NEW.list_id, NEW.name);
    RETURN NULL;
END $$;
CREATE TRIGGER give_access AFTER INSERT ON member FOR EACH ROW EXECUTE FUNCTION give_access();

-- Who makes a list is its first member.
CREATE FUNCTION join_own() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO member (list_id, name) VALUES (NEW.id, current_setting('app.user'));
    RETURN NULL;
END $$;
CREATE TRIGGER join_own AFTER INSERT ON list FOR EACH ROW
    WHEN (current_setting('app.user', true) <> '') EXECUTE FUNCTION join_own();

-- A row that row security gives and takes may come and go unwritten: of all tables the inserts are logged too.
SELECT sync_track('access', log_inserts => true), sync_track('list', log_inserts => true),
    sync_track('member', log_inserts => true), sync_track('todo', filter_columns => '{list_id}', log_inserts => true);

-- The server works as this role, for the user whom app.user names. Roles are common to all databases.
DO $$ BEGIN CREATE ROLE todo_user; EXCEPTION WHEN duplicate_object THEN END $$;
GRANT SELECT ON access TO todo_user;
GRANT SELECT, INSERT ON list TO todo_user;
GRANT SELECT, INSERT, DELETE ON member TO todo_user;
GRANT SELECT, INSERT, DELETE, UPDATE (title, done) ON todo TO todo_user;

ALTER TABLE access ENABLE ROW LEVEL SECURITY;
ALTER TABLE list ENABLE ROW LEVEL SECURITY;
ALTER TABLE member ENABLE ROW LEVEL SECURITY;
ALTER TABLE todo ENABLE ROW LEVEL SECURITY;

CREATE POLICY own ON access FOR SELECT TO todo_user USING (name = current_setting('app.user', true));
CREATE POLICY anybody_makes ON list FOR INSERT TO todo_user WITH CHECK (true);
CREATE POLICY of_members ON list FOR SELECT TO todo_user USING (EXISTS (SELECT FROM access a WHERE a.list_id = list.id));
CREATE POLICY of_members ON member TO todo_user USING (EXISTS (SELECT FROM access a WHERE a.list_id = member.list_id));
CREATE POLICY of_members ON todo TO todo_user USING (EXISTS (SELECT FROM access a WHERE a.list_id = todo.list_id));
