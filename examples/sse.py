import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import psycopg2

SHAPE = '{"tables": {"issues": {"where": "project_id = $1"}}, "params": [3]}'
wake, wakes = threading.Condition(), 0

def pull(since):
    with psycopg2.connect("") as db, db.cursor() as cursor:
        cursor.execute("SELECT p->>'cursor', p::text FROM sync_pull(%s, %s) p", (since, SHAPE))
        return cursor.fetchone()

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

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        since = self.headers.get("Last-Event-ID")
        while True:
            seen = wakes
            since, delta = pull(since)
            self.wfile.write(f"id: {since}\ndata: {delta}\n\n".encode())
            with wake:
                wake.wait_for(lambda: wakes != seen, timeout=15)

threading.Thread(target=watch, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", 8081), Handler).serve_forever()
