"""How do people use Django's ORM with many tenants? One alias each, `using()` everywhere.

A program of its own: Django has one configuration in a process. Reads its seats as JSON from stdin, prints one JSON
object per check.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

import django
import pytest
from django.conf import settings
from django.db import IntegrityError, OperationalError, connections, models, transaction

Seat = dict[str, Any]


def _configure(seats: list[Seat]) -> None:
    databases: dict[str, Any] = {"default": {}}
    for seat in seats:
        alias = {
            "ENGINE": "django.db.backends.postgresql", "HOST": seat["host"], "PORT": seat["port"],
            "USER": seat["user"], "PASSWORD": seat["password"], "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True,
            # As Django's own documentation says for poolers in transaction mode.
            "DISABLE_SERVER_SIDE_CURSORS": seat["mode"] == "transaction",
        }  # fmt: skip
        bound = alias | {"OPTIONS": {"server_side_binding": True, "prepare_threshold": 0}}
        databases[seat["tenant"]] = alias | {"NAME": seat["tenant"]}
        databases[seat["other"]] = alias | {"NAME": seat["other"], "USER": seat["guest"], "TIME_ZONE": "Asia/Tokyo"}
        databases[seat["kind"] + "_prepared"] = bound | {"NAME": seat["crowded"]}
        databases[seat["kind"] + "_stranger"] = alias | {"NAME": seat["other"]}
    settings.configure(DATABASES=databases, USE_TZ=True, TIME_ZONE="Europe/Vienna", INSTALLED_APPS=[])
    django.setup()


def _models() -> tuple[Any, Any]:
    class Project(models.Model):  # type: ignore[misc]
        id = models.BigAutoField(primary_key=True)
        name = models.TextField()

        class Meta:
            app_label = "matrix"
            db_table = "projects"
            managed = False

    class Note(models.Model):  # type: ignore[misc]
        id = models.BigAutoField(primary_key=True)
        body = models.TextField()

        class Meta:
            app_label = "matrix"
            db_table = "notes"
            managed = False

    return Project, Note


class Checks:
    """Each takes a seat and asserts."""

    def __init__(self) -> None:
        self.project, self.note = _models()

    def own_rows(self, seat: Seat) -> None:
        for _ in range(5):
            for tenant, expected in ((seat["tenant"], seat["rows"]), (seat["other"], seat["other_rows"])):
                names = self.project.objects.using(tenant).order_by("name").values_list("name", flat=True)
                assert list(names) == expected, (tenant, list(names))

    def transactions(self, seat: Seat) -> None:
        mark, alias = secrets.token_hex(6), seat["tenant"]
        notes = self.note.objects.using(alias).filter(body=mark)
        done: list[str] = []
        try:
            with transaction.atomic(using=alias):
                self.note.objects.using(alias).create(body=mark)
                raise KeyError
        except KeyError:
            pass
        assert not notes.exists()
        with transaction.atomic(using=alias):
            transaction.on_commit(lambda: done.append("committed"), using=alias)
            first = self.note.objects.using(alias).create(body=mark)
            try:
                with transaction.atomic(using=alias):
                    self.note.objects.using(alias).create(body=mark)
                    raise KeyError
            except KeyError:
                pass
            locked = self.note.objects.using(alias).select_for_update().get(pk=first.pk)
            assert locked.body == mark
        assert done == ["committed"]
        assert notes.count() == 1
        self.note.objects.using(alias).bulk_create([self.note(body=mark) for _ in range(500)], batch_size=100)
        assert notes.count() == 501
        assert notes.delete()[0] == 501

    def prepared(self, seat: Seat) -> None:
        """Three threads, so three connections, with statements of the same names."""
        alias, failed = seat["kind"] + "_prepared", []

        def work(number: int) -> None:
            try:
                for turn in range(10):
                    with connections[alias].cursor() as cursor:
                        cursor.execute(f"SELECT %s::int + {number * 1000}", [turn])
                        assert cursor.fetchone() == (turn + number * 1000,)
                    found = self.project.objects.using(alias).get(name=f"{seat['crowded']} {number + 1}")
                    assert found.name == f"{seat['crowded']} {number + 1}"
                    with transaction.atomic(using=alias):
                        assert self.project.objects.using(alias).count() == 3
            except Exception:  # noqa: BLE001 - said by the main thread
                failed.append(traceback.format_exc())
            finally:
                connections.close_all()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed[0]

    def errors(self, seat: Seat) -> None:
        alias = seat["tenant"]
        for _ in range(2):
            with pytest.raises(IntegrityError) as caught:
                self.project.objects.using(alias).create(name=seat["rows"][0])
            assert getattr(caught.value.__cause__, "sqlstate", None) == "23505"
            assert self.project.objects.using(alias).count() == 3

    def copy(self, seat: Seat) -> None:
        mark, alias = secrets.token_hex(6), seat["tenant"]
        with connections[alias].cursor() as cursor:
            with cursor.copy(f"COPY {seat['copy_into']} (body) FROM STDIN") as copy:
                for number in range(2000):
                    copy.write_row((f"{mark} {number:04d}",))
            with cursor.copy(f"COPY (SELECT body FROM notes WHERE body LIKE '{mark}%') TO STDOUT") as copy:
                assert b"".join(map(bytes, copy)).count(b"\n") == 2000
        assert self.note.objects.using(alias).filter(body__startswith=mark).delete()[0] == 2000

    def settings(self, seat: Seat) -> None:
        """Django sets each connection's time zone once, and believes in it."""
        for _ in range(5):
            for alias, zone in ((seat["tenant"], "UTC"), (seat["other"], "Asia/Tokyo")):
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT current_setting('TimeZone')")
                    assert cursor.fetchone() == (zone,)

    def big_results(self, seat: Seat) -> None:
        with transaction.atomic(using=seat["tenant"]), connections[seat["tenant"]].chunked_cursor() as cursor:
            cursor.execute("SELECT repeat('x', 1048576) FROM generate_series(1, 50)")
            total = 0
            while rows := cursor.fetchmany(5):
                total += sum(len(row[0]) for row in rows)
            assert total == 50 * 1024 * 1024
        rows = self.project.objects.using(seat["tenant"]).order_by("name").iterator(chunk_size=2)
        assert [row.name for row in rows] == seat["rows"]

    def other_tenants(self, seat: Seat) -> None:
        with pytest.raises(OperationalError, match="password authentication failed"):
            self.project.objects.using(seat["kind"] + "_stranger").count()


CHECKS: Final = (
    "own_rows", "transactions", "prepared", "errors", "copy", "settings", "big_results", "other_tenants",
)  # fmt: skip


def main() -> None:
    """Run everything."""
    seats: list[Seat] = json.load(sys.stdin)["seats"]
    _configure(seats)
    checks = Checks()
    for seat in seats:
        for name in CHECKS:
            check: Callable[[Seat], None] = getattr(checks, name)
            error = ""
            try:
                check(seat)
            except Exception:  # noqa: BLE001 - said, and the next one run
                error = traceback.format_exc()
            print(json.dumps({"check": name, "kind": seat["kind"], "ok": not error, "error": error}), flush=True)
    connections.close_all()


if __name__ == "__main__":
    main()
