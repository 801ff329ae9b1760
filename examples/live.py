import threading
import psycopg2

SHAPE = '{"tables": {"issues": {"where": "project_id = $1"}}, "params": [3]}'
wake, wakes = threading.Condition(), 0

def pull(since):
    with psycopg2.connect("") as db, db.cursor() as cursor:
        cursor.execute("SELECT p->>'cursor', p::text, (p->>'up_to_date')::boolean FROM sync_pull(%s, %s) p", (since, SHAPE))
        return cursor.fetchone()

def wait(seen):
    with wake:
        wake.wait_for(lambda: wakes != seen, timeout=15)

def watch():
    global wakes
    db = psycopg2.connect("")
    db.autocommit = True
    cursor = db.cursor()
    while True:
        cursor.execute("SELECT sync_position()")
        position = cursor.fetchone()
        with wake:
            wakes += 1
            wake.notify_all()
        cursor.execute("CALL sync_wait(%s, NULL)", position)

threading.Thread(target=watch, daemon=True).start()
