from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse
import psycopg2

SHAPE = '{"tables": {"issues": {"where": "project_id = $1"}}, "params": [3]}'

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        since = parse_qs(urlparse(self.path).query).get("since", [None])[0]
        with psycopg2.connect("") as db, db.cursor() as cursor:
            cursor.execute("SELECT sync_pull(%s, %s)::text", (since, SHAPE))
            body = cursor.fetchone()[0].encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
