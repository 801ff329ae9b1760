"""A queue's worker: what a message causes and the cursor are one transaction, and one worker works at a time."""
import psycopg2

SHAPE = '{"tables": {"message": {"table": "syncline.message", "where": "topic = $1"}}, "params": ["mail"]}'
db, waiting = psycopg2.connect(""), psycopg2.connect("")
waiting.autocommit = True
while True:
    with db, db.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('mail'))")
        cursor.execute("SELECT max(since) FROM worker")
        cursor.execute("SELECT op, value, cursor FROM sync_changes(%s, %s, max_rows => 100)", (cursor.fetchone()[0], SHAPE))
        for op, message, since in cursor.fetchall():
            # A message that was pruned is a delete; after a reset what is left comes again.
            if op == "upsert":
                row = message["id"], message["payload"]["to"]
                cursor.execute("INSERT INTO mail VALUES (%s, %s) ON CONFLICT DO NOTHING", row)
        cursor.execute("DELETE FROM worker")
        cursor.execute("INSERT INTO worker VALUES (%s)", (since,))
    with waiting.cursor() as cursor:
        cursor.execute("CALL sync_wait(%s, %s)", (since, SHAPE))
