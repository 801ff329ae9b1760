import json
import os
import subprocess
import threading
import time

import psycopg2
from django.db import connection, connections, transaction
from django.test import TransactionTestCase

from tracker import sync
from tracker.models import Project

from .copy import Copy


def wait_until(holds):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


class Routes(TransactionTestCase):
    def test_pull_answers_with_deltas(self):
        project = Project.objects.create(name="garden")
        url = f"/projects/{project.pk}/pull"
        first = self.client.get(url).json()
        project.issue_set.create(title="weeds")
        next = self.client.get(url, {"since": first["cursor"]}).json()
        self.assertEqual([change["value"]["title"] for change in next["changes"]], ["weeds"])

    def test_stream_sends_each_change(self):
        project = Project.objects.create(name="garden")
        events = iter(self.client.get(f"/projects/{project.pk}/live").streaming_content)
        copy = Copy(sync.project_shape(project.pk))

        def follow():
            id, data = next(events).decode().rstrip("\n").split("\n")
            copy.cursor = id[len("id: "):]
            return copy.apply(json.loads(data[len("data: "):]))

        self.assertEqual(follow(), ["reset", "upsert"])
        for title in ["weeds", "roses"]:
            project.issue_set.create(title=title)
            # The watcher may have woken the stream for an earlier commit.
            wait_until(lambda: follow() == ["upsert"])
        self.assertEqual(copy.titles(), ["roses", "weeds"])
        # A browser's EventSource sends the last id when it comes back.
        back = self.client.get(f"/projects/{project.pk}/live", HTTP_LAST_EVENT_ID=copy.cursor)
        self.assertIn(b'"changes": []', next(iter(back.streaming_content)))


class Restore(TransactionTestCase):
    """A dump that goes into another database brings the tracking along."""

    def run_sql(self, database, sql):
        there = psycopg2.connect(database)
        there.autocommit = True
        cursor = there.cursor()
        try:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None
        finally:
            there.close()

    def pull(self, database, since):
        text = self.run_sql(database, f"SELECT sync_pull({since}, '{json.dumps(self.shape)}')::text")[0][0]
        delta = json.loads(text)
        ops = [change.get("value", {}).get("reason") or change["op"] for change in delta["changes"]]
        return f"'{delta['cursor']}'", ops

    def check(self, database, foreign):
        """The copy is tracked like the original, accepts none of the cursors from elsewhere, and goes on by itself."""
        tables = "SELECT relation::text, filter_columns, log_inserts, enabled FROM sync_tables ORDER BY 1"
        self.assertEqual(self.run_sql(database, tables), self.run_sql(self.original, tables))
        for cursor in foreign:
            self.assertEqual(self.pull(database, cursor)[1], ["epoch", "upsert", "upsert"])
        cursor, _ = self.pull(database, "NULL")
        # Only a restore into another server needs it: there rows may carry ids from the future. It resets nobody.
        self.run_sql(database, "SELECT sync_track(relation) FROM sync_tables")
        self.run_sql(database, "UPDATE tracker_issue SET title = 'roses'")
        cursor, ops = self.pull(database, cursor)
        self.assertEqual(ops, ["upsert"])
        self.run_sql(database, "DELETE FROM tracker_issue")
        self.assertEqual(self.pull(database, cursor)[1], ["delete"])

    def test_dump_and_template_are_tracked_and_reset_cursors_from_elsewhere(self):
        settings = connection.settings_dict
        base = f"host={settings['HOST']} port={settings['PORT']} user={settings['USER']} dbname="
        self.original, restored, cloned = base + settings["NAME"], base + "restored", base + "cloned"
        project = Project.objects.create(name="garden")
        project.issue_set.create(title="weeds")
        self.shape = sync.project_shape(project.pk)
        of_original, _ = self.pull(self.original, "NULL")
        self.run_sql(base + "postgres", "CREATE DATABASE restored TEMPLATE template0")
        dump = subprocess.run(["pg_dump", "-d", self.original], check=True, capture_output=True)
        subprocess.run(
            ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", restored],
            check=True, input=dump.stdout, stdout=subprocess.DEVNULL,
        )
        of_restored, _ = self.pull(restored, "NULL")
        # What `manage.py test --parallel` makes its databases with.
        self.run_sql(base + "postgres", "CREATE DATABASE cloned TEMPLATE restored")
        self.check(cloned, [of_original, of_restored])
        self.check(restored, [of_original])


class Pgbouncer(TransactionTestCase):
    """Through pgbouncer in transaction mode, with one connection to the server for all."""

    databases = {"default", "pooled"}

    def setUp(self):
        self.assertIn("PGBOUNCER_HOST", os.environ, "run me by make test-django")
        self.project = Project.objects.create(name="garden")

    def test_pulls_are_as_without(self):
        copy = Copy(sync.project_shape(self.project.pk), using="pooled")
        self.assertEqual(copy.pull(), ["reset", "upsert"])
        self.project.issue_set.create(title="weeds")
        self.assertEqual(copy.pull(), ["upsert"])

    def test_setting_that_a_filter_reads_is_set_in_the_transaction_of_the_pull(self):
        shape = {"tables": {"tracker_project": {"where": "name = current_setting('app.project')"}}}
        with connection.cursor() as cursor:
            cursor.execute("SELECT sync_track('tracker_project', '{name}')")
        with transaction.atomic(using="pooled"), connections["pooled"].cursor() as cursor:
            cursor.execute("SELECT set_config('app.project', 'garden', true)")
            _, delta, _ = sync.pull(None, shape, using="pooled")
        self.assertEqual(json.loads(delta)["changes"][1]["value"]["name"], "garden")

    def test_waiting_works_and_keeps_a_connection_of_the_pool(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT sync_position()")
            position = cursor.fetchone()[0]
        settings = connections["pooled"].settings_dict
        ended = []

        def run(name, sql, *arguments):
            pooled = psycopg2.connect(
                host=settings["HOST"], port=settings["PORT"], user=settings["USER"], dbname=settings["NAME"]
            )
            pooled.autocommit = True
            with pooled.cursor() as statement:
                statement.execute(sql, arguments)
                ended.append((name, statement.fetchone()[0]))
            pooled.close()

        waiter = threading.Thread(target=run, args=("waiter", "CALL sync_wait(%s, NULL, '60 s')", position))
        waiter.start()

        def is_waiting():
            with connection.cursor() as statement:
                statement.execute(
                    "SELECT FROM pg_stat_activity WHERE query LIKE 'CALL sync_wait%%60 s%%' AND wait_event = 'Extension'"
                )
                return statement.rowcount > 0

        wait_until(is_waiting)
        other = threading.Thread(target=run, args=("other", "SELECT 1"))
        other.start()
        other.join(timeout=1)
        self.assertEqual(ended, [])
        self.project.issue_set.create(title="weeds")
        waiter.join()
        other.join()
        self.assertEqual(ended, [("waiter", True), ("other", 1)])
