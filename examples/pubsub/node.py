"""A node of a server: keeps what is published under its topics, each message once, through its own and the database's crashes."""
import json, sqlite3, sys
import psycopg2

path, *topics = sys.argv[1:]
SHAPE = json.dumps({"tables": {"message": {"table": "syncline.message", "where": "topic = ANY ($1)"}}, "params": [topics]})
store = sqlite3.connect(path)
store.execute("CREATE TABLE IF NOT EXISTS seen (id INTEGER PRIMARY KEY, topic, payload)")
store.execute("CREATE TABLE IF NOT EXISTS held (since)")
db = psycopg2.connect("")
db.autocommit = True
cursor = db.cursor()
while True:
    since = store.execute("SELECT max(since) FROM held").fetchone()[0]
    cursor.execute("SELECT op, value, cursor FROM sync_changes(%s, %s)", (since, SHAPE))
    with store:
        for op, message, since in cursor:
            # A message that was pruned is a delete; after a reset what is left comes again.
            if op == "upsert":
                row = message["id"], message["topic"], json.dumps(message["payload"])
                store.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", row)
        store.execute("DELETE FROM held")
        store.execute("INSERT INTO held VALUES (?)", (since,))
    cursor.execute("CALL sync_wait(%s, %s)", (since, SHAPE))
