from django.db import models


class Project(models.Model):
    name = models.TextField(unique=True)


class Issue(models.Model):
    # The column _sync_version is no field: Django names the columns that it reads and writes, and so leaves it alone.
    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    state = models.TextField(default="open")
    title = models.TextField()
