import io
import tempfile

from django.core.management import call_command
from django.db import InternalError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.test import TestCase, TransactionTestCase

from tracker import sync
from tracker.models import Issue, Project

from .copy import Copy


class RolledBack(TestCase):
    """What a test writes is never committed, so no pull sees it: sync_preview does."""

    @classmethod
    def setUpTestData(cls):
        cls.project = Project.objects.create(name="garden")

    def test_preview_shows_what_the_test_wrote(self):
        Issue.objects.create(project=self.project, title="weeds")
        Issue.objects.create(project=Project.objects.create(name="house"), title="roof")
        shape = sync.project_shape(self.project.pk)
        self.assertEqual(
            sorted((relation, row.get("name") or row["title"]) for relation, row in sync.preview(shape)),
            [("issue", "weeds"), ("project", "garden")],
        )

    def test_pull_after_a_write_is_refused(self):
        with self.assertRaisesMessage(InternalError, "cannot pull in a transaction that has written"):
            with transaction.atomic():
                sync.pull(None, sync.project_shape(self.project.pk))


class Committed(TransactionTestCase):
    def setUp(self):
        self.project = Project.objects.create(name="garden")
        self.other = Project.objects.create(name="house")
        self.copy = Copy(sync.project_shape(self.project.pk))
        self.copy.pull()

    def check(self, ops):
        """The delta has these ops, and the copy equals what the ORM reads."""
        self.assertEqual(sorted(self.copy.pull()), sorted(ops))
        truth = list(self.project.issue_set.values("id", "state", "title", "project_id"))
        rows = [row for (relation, _), row in self.copy.rows.items() if relation == "issue"]
        self.assertCountEqual(rows, truth)

    def test_every_way_to_write_ends_in_the_delta(self):
        issue = self.project.issue_set.create(title="weeds")
        self.check(["upsert"])
        issue.title = "more weeds"
        issue.save()
        self.check(["upsert"])
        issue.project = self.other
        issue.save(update_fields=["project"])
        self.check(["delete"])
        Issue.objects.filter(pk=issue.pk).update(project=self.project, title=Concat(F("title"), Value("!")))
        self.check(["upsert"])
        many = Issue.objects.bulk_create([Issue(project=self.project, title=f"seed {n}") for n in range(3)])
        self.check(["upsert"] * 3)
        Issue.objects.bulk_create([Issue(pk=many[0].pk, project=self.project, title="twice")], ignore_conflicts=True)
        self.check([])
        for seed in many:
            seed.state = "done"
        Issue.objects.bulk_update(many, ["state"])
        self.check(["upsert"] * 3)
        Issue.objects.update_or_create(pk=many[0].pk, defaults={"title": "tree"})
        self.check(["upsert"])
        Issue.objects.filter(state="done").delete()
        self.check(["delete"] * 3)
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            issue.delete()
            1 / 0
        self.check([])

    def test_cascade_ends_in_the_delta(self):
        self.project.issue_set.create(title="weeds")
        self.check(["upsert"])
        self.project.delete()
        self.assertEqual(self.copy.pull(), ["delete", "delete"])
        self.assertEqual(self.copy.rows, {})

    def test_flush_is_a_reset(self):
        call_command("flush", interactive=False, verbosity=0)
        self.assertEqual(self.copy.pull(), ["reset"])

    def test_pull_in_a_transaction_that_has_only_read_answers(self):
        with transaction.atomic():
            Issue.objects.count()
            self.assertEqual(self.copy.pull(), [])


class Versioned(models.Model):
    """A model that does have the column as a field."""

    _sync_version = models.BigIntegerField(default=0, editable=False)
    project_id = models.BigIntegerField()
    state = models.TextField(default="open")
    title = models.TextField()

    class Meta:
        app_label = "versioned"
        managed = False
        db_table = "tracker_issue"


class Column(TransactionTestCase):
    """What _sync_version does to models: nothing."""

    def setUp(self):
        self.project = Project.objects.create(name="garden")

    def test_migrations_do_not_see_it(self):
        call_command("makemigrations", "tracker", check=True, dry_run=True, verbosity=0)

    def test_raw_query_with_a_star_gets_an_attribute_more(self):
        self.project.issue_set.create(title="weeds")
        issue = Issue.objects.raw("SELECT * FROM tracker_issue")[0]
        self.assertGreater(issue._sync_version, 0)
        issue.save()

    def test_model_that_has_it_as_a_field_is_stamped_all_the_same(self):
        issue = Versioned.objects.create(project_id=self.project.pk, title="weeds")
        self.assertEqual(issue._sync_version, 0)
        issue.refresh_from_db()
        first = issue._sync_version
        self.assertGreater(first, 0)
        issue.save()
        issue.refresh_from_db()
        self.assertGreater(issue._sync_version, first)

    def test_inspectdb_names_it_and_says_why(self):
        out = io.StringIO()
        call_command("inspectdb", "tracker_issue", stdout=out)
        self.assertRegex(out.getvalue(), r"field_sync_version = models.BigIntegerField\(db_column='_sync_version'\)")

    def test_fixtures_leave_it_out_and_are_stamped_when_loaded(self):
        issue = self.project.issue_set.create(title="weeds")
        copy = Copy(sync.project_shape(self.project.pk))
        copy.pull()
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            call_command("dumpdata", "tracker", output=file.name)
            self.assertNotIn(b"_sync_version", file.read())
            issue.delete()
            self.assertEqual(copy.pull(), ["delete"])
            call_command("loaddata", file.name, verbosity=0)
        self.assertEqual(copy.pull(), ["upsert", "upsert"])
        self.assertEqual(copy.titles(), ["weeds"])

    def test_migration_goes_back_and_forth(self):
        self.project.issue_set.create(title="weeds")
        copy = Copy(sync.project_shape(self.project.pk))
        copy.pull()
        call_command("migrate", "tracker", "0001", verbosity=0)
        with connection.cursor() as cursor:
            columns = [column.name for column in connection.introspection.get_table_description(cursor, "tracker_issue")]
        self.assertNotIn("_sync_version", columns)
        call_command("migrate", "tracker", verbosity=0)
        self.assertEqual(copy.pull(), ["reset", "upsert", "upsert"])
