from django.db import connection, transaction
from django.http import HttpResponse, StreamingHttpResponse

from . import sync

# Who asks, and for which project, is yours to check.


# With ATOMIC_REQUESTS a middleware that writes first, a session say, would keep the view from pulling.
@transaction.non_atomic_requests
def pull(request, project_id):
    _, delta, _ = sync.pull(request.GET.get("since"), sync.project_shape(project_id))
    return HttpResponse(delta, content_type="application/json")


@transaction.non_atomic_requests
def live(request, project_id):
    since = request.headers.get("Last-Event-ID") or request.GET.get("since")
    return StreamingHttpResponse(events(since, sync.project_shape(project_id)), content_type="text/event-stream")


def events(since, shape):
    while True:
        seen = sync.watcher.count()
        since, delta, up_to_date = sync.pull(since, shape)
        # Streams are many and mostly wait: none of them keeps a connection meanwhile.
        connection.close()
        yield f"id: {since}\ndata: {delta}\n\n"
        if up_to_date:
            sync.watcher.wait(seen, timeout=15)
