from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import live

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        since = self.headers.get("Last-Event-ID")
        while True:
            seen = live.wakes
            since, delta, up_to_date = live.pull(since)
            self.wfile.write(f"id: {since}\ndata: {delta}\n\n".encode())
            if up_to_date:
                live.wait(seen)

ThreadingHTTPServer(("127.0.0.1", 8081), Handler).serve_forever()
