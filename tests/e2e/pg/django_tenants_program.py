"""How do people use django-tenants behind the port? A schema for each of its tenants, all in one tenant of the port's.

A program of its own, as Django has one configuration in a process. Reads its seats as JSON from stdin, prints one JSON
object per check.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from typing import Any, Final

import django
from django.conf import settings
from django.db import connections, models

Seat = dict[str, Any]

LABEL: Final = "matrix"


def _configure(seat: Seat) -> None:
    database = {
        "ENGINE": "django_tenants.postgresql_backend", "HOST": seat["host"], "PORT": seat["port"],
        "NAME": seat["tenant"], "USER": seat["user"], "PASSWORD": seat["password"], "CONN_MAX_AGE": None,
        "DISABLE_SERVER_SIDE_CURSORS": seat["mode"] == "transaction",
    }  # fmt: skip
    settings.configure(
        DATABASES={"default": database}, DATABASE_ROUTERS=["django_tenants.routers.TenantSyncRouter"], USE_TZ=True,
        INSTALLED_APPS=["django_tenants", "django.contrib.contenttypes"], SHARED_APPS=["django_tenants"],
        TENANT_APPS=["django.contrib.contenttypes"], TENANT_MODEL=f"{LABEL}.Tenant",
        PUBLIC_SCHEMA_NAME=f"django_{seat['mode']}", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )  # fmt: skip
    django.setup()


def tenants(seat: Seat) -> None:
    """Each schema's rows are seen in it alone, by threads that switch between them on connections that are shared."""
    from django_tenants.utils import schema_context

    class Note(models.Model):  # type: ignore[misc]
        body = models.TextField()

        class Meta:
            app_label = LABEL

    default = connections["default"]
    names = [f"django_{seat['mode']}_{n}" for n in range(3)]
    for name in names:
        with default.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {name}")
        with schema_context(name), default.schema_editor() as editor:
            editor.create_model(Note)
    failed: list[str] = []

    def work(number: int) -> None:
        try:
            for turn in range(6):
                for name in names:
                    with schema_context(name):
                        Note.objects.create(body=f"{name} {number} {turn}")
                        bodies = Note.objects.filter(body__contains=f" {number} ").values_list("body", flat=True)
                        assert set(bodies) == {f"{name} {number} {n}" for n in range(turn + 1)}, bodies
        except Exception:  # noqa: BLE001 - said below
            failed.append(traceback.format_exc())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
    for name in names:
        with schema_context(name):
            assert Note.objects.count() == 24


def main() -> None:
    """Run it, in the mode of the seat."""
    (seat,) = json.load(sys.stdin)["seats"]
    error = ""
    try:
        _configure(seat)
        tenants(seat)
        connections.close_all()
    except Exception:  # noqa: BLE001 - said
        error = traceback.format_exc()
    print(json.dumps({"check": "tenants", "kind": seat["kind"], "ok": not error, "error": error}), flush=True)


if __name__ == "__main__":
    main()
