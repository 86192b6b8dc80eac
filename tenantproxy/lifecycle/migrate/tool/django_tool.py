"""How does a Django project migrate one tenant's place? By its own command, with that place as the database default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.core.management import call_command
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from . import session  # noqa: TID252 - the project's Python may have no package tenantproxy

__all__ = ["describe", "run", "start"]


def start(settings: str) -> None:
    """Load the project, whose settings are the module `settings`."""
    os.environ["DJANGO_SETTINGS_MODULE"] = settings
    django.setup()


def describe() -> list[dict[str, Any]]:
    """All migrations in the order in which they run, as `app.name`, and what each stands for."""
    loader = MigrationLoader(None, ignore_no_migrations=True)
    found: dict[tuple[str, str], None] = {}
    for leaf in sorted(loader.graph.leaf_nodes()):
        found |= dict.fromkeys(loader.graph.forwards_plan(leaf))
    disk = loader.disk_migrations
    return [
        {"id": ".".join(key), "replaces": [".".join(each) for each in disk[key].replaces], "needs": []} for key in found
    ]


def run(place: dict[str, Any]) -> None:
    """Bring the place to the migration `to` (`app.name`, `app.zero`), or to the newest. Raises MigrationRefused too."""
    wanted = place["to"].split(".", 1) if place["to"] else []
    with _connected(place) as connection:
        if place["is_shared"]:
            _check_atomic(connection, wanted)
        call_command("migrate", *wanted, database="default", interactive=False, verbosity=0)


def _check_atomic(connection: Any, wanted: list[str]) -> None:
    executor = MigrationExecutor(connection)
    targets = (
        [(wanted[0], wanted[1] if wanted[1] != "zero" else None)] if wanted else executor.loader.graph.leaf_nodes()
    )
    loose = [f"{each.app_label}.{each.name}" for each, _ in executor.migration_plan(targets) if not each.atomic]
    if loose:
        raise session.MigrationRefused(f"{loose[0]} is not atomic, and row tenants share this database")


@contextmanager
def _connected(place: dict[str, Any]) -> Iterator[Any]:
    connection = connections["default"]
    connection.close()
    hosts, ports = zip(*place["hosts"], strict=True)
    given = {name: value for name, value in connection.settings_dict["OPTIONS"].items() if name not in _POOLED}
    if len(hosts) > 1:
        given["target_session_attrs"] = "read-write"
    connection.settings_dict.update(
        NAME=place["database"], USER=place["user"], PASSWORD=place["password"] or "", HOST=",".join(hosts),
        PORT=",".join(map(str, ports)), OPTIONS=given, CONN_MAX_AGE=0,
    )  # fmt: skip
    plain = connection.commit

    def entered(sender: Any, connection: Any, **_: Any) -> None:
        _rows(connection, session.NOTICING)
        session.check(_rows(connection, session.entering(place)))

    def committed() -> None:
        try:
            session.guard(place, lambda sql: _rows(connection, sql), lambda sql: _rows(connection, sql))
        except BaseException:  # of errors at a COMMIT Django rolls back for those of the database alone
            connection.rollback()
            raise
        plain()

    connection_created.connect(entered)
    connection.commit = committed
    try:
        yield connection
    finally:
        connection.commit = plain
        connection_created.disconnect(entered)
        connection.close()


_POOLED = ("pool", "options", "service", "passfile", "assume_role")


def _rows(connection: Any, sql: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description is not None else []
