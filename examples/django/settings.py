import os

SECRET_KEY = "an example has no secrets"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["tracker"]
ROOT_URLCONF = "tracker.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Migrations and the waiting session use this one: a direct connection.
direct = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ.get("PGHOST", ""),
    "PORT": os.environ.get("PGPORT", ""),
    "USER": os.environ.get("PGUSER", ""),
    "NAME": os.environ.get("PGDATABASE", "tracker"),
}

# The same database through pgbouncer in transaction mode.
pooled = {
    **direct,
    "HOST": os.environ.get("PGBOUNCER_HOST", direct["HOST"]),
    "PORT": os.environ.get("PGBOUNCER_PORT", direct["PORT"]),
    "DISABLE_SERVER_SIDE_CURSORS": True,
    "TEST": {"MIRROR": "default"},
}

DATABASES = {"default": direct, "pooled": pooled}
