"""Pulling, and waiting once for all."""
import json
import threading
import time

from django.db import OperationalError, connections


def project_shape(project_id):
    """A project and its issues."""
    return {
        "params": [project_id],
        "tables": {
            "project": {"table": "tracker_project", "where": "id = $1"},
            "issue": {"table": "tracker_issue", "where": "project_id = $1"},
        },
    }


def pull(since, shape, using="default"):
    """The next cursor, the delta as the text of a JSON document, and whether that is all."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT p->>'cursor', p::text, (p->>'up_to_date')::boolean FROM sync_pull(%s, %s) p", [since, json.dumps(shape)])
        return cursor.fetchone()


def preview(shape):
    """The rows of a shape by relation, what this transaction has written among them."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT relation, value::text FROM sync_preview(%s) WHERE op = 'upsert'", [json.dumps(shape)])
        return [(relation, json.loads(value)) for relation, value in cursor.fetchall()]


class Watcher:
    """One session waits for the whole process; whoever follows a shape is woken and pulls."""

    def __init__(self):
        self._wake = threading.Condition()
        self._count = 0
        self._thread = None

    def count(self):
        """How often anything has changed: read it before a pull, and wait for more after."""
        with self._wake:
            # Started by the first follower, not at import: a server that forks would leave the thread behind.
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()
            return self._count

    def wait(self, seen, timeout):
        """Returns when anything has changed since `seen`, or after the timeout."""
        with self._wake:
            self._wake.wait_for(lambda: self._count != seen, timeout)

    def _watch(self):
        while True:
            try:
                # Django's connections are in autocommit mode: the statements are not inside a transaction block.
                with connections["default"].cursor() as cursor:
                    cursor.execute("SELECT sync_position()")
                    position = cursor.fetchone()
                    with self._wake:
                        self._count += 1
                        self._wake.notify_all()
                    cursor.execute("CALL sync_wait(%s, NULL)", position)
            except OperationalError:
                connections["default"].close()
                time.sleep(1)


watcher = Watcher()
