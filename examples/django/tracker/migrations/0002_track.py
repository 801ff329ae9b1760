from django.contrib.postgres.operations import CreateExtension
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("tracker", "0001_initial")]

    operations = [
        CreateExtension("syncline"),
        migrations.RunSQL(
            "SELECT sync_track('tracker_project')",
            "SELECT sync_untrack('tracker_project')",
        ),
        migrations.RunSQL(
            "SELECT sync_track('tracker_issue', filter_columns => '{project_id,state}')",
            "SELECT sync_untrack('tracker_issue')",
        ),
    ]
