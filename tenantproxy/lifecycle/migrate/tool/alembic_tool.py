"""How does an alembic project migrate one tenant's place? By alembic's own commands, with that place as its URL."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url

from . import session  # noqa: TID252 - the project's Python may have no package tenantproxy

__all__ = ["describe", "run", "start"]

_INI = "alembic.ini"


def start(settings: str) -> None:
    """Nothing has to be prepared."""


def describe() -> list[dict[str, Any]]:
    """All revisions, those that others need first: their ids, and what each needs."""
    script = ScriptDirectory.from_config(Config(_INI))
    found = []
    for revision in reversed(list(script.walk_revisions())):
        down = revision.down_revision or ()
        needs = [down] if isinstance(down, str) else list(down)
        others = revision.dependencies or ()
        for name in [others] if isinstance(others, str) else others:
            needs += [one.revision for one in script.get_revisions(name)]
        found.append({"id": revision.revision, "needs": needs})
    return found


def run(place: dict[str, Any]) -> None:
    """Bring the place up to the revision `to`, or down to it. Raises what alembic raises, and MigrationRefused."""
    config = Config(_INI)
    url = _url(config, place).render_as_string(hide_password=False)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    with _listening(place):
        if place["is_undo"]:
            command.downgrade(config, place["to"])
        else:
            command.upgrade(config, place["to"] or "heads")


def _url(config: Config, place: dict[str, Any]) -> URL:
    query: dict[str, Any] = {}
    if len(place["hosts"]) > 1:
        query["host"] = tuple(f"{host}:{port}" for host, port in place["hosts"])
        query["target_session_attrs"] = "primary"
    (host, port) = place["hosts"][0] if not query else (None, None)
    return URL.create(
        _driver(config), username=place["user"], password=place["password"], host=host, port=port,
        database=place["database"], query=query,
    )  # fmt: skip


def _driver(config: Config) -> str:
    """That of the project's own URL; else one that is installed."""
    try:
        found = make_url(config.get_main_option("sqlalchemy.url") or "").drivername
    except Exception:  # noqa: BLE001 - whatever stands there, and however it is filled in, is no URL
        found = ""
    if found.partition("+")[0] == "postgresql":
        return found
    drivers = [name for name in ("psycopg", "psycopg2", "asyncpg") if importlib.util.find_spec(name) is not None]
    return f"postgresql+{drivers[0]}" if drivers else "postgresql"


@contextmanager
def _listening(place: dict[str, Any]) -> Iterator[None]:
    """Each connection of any engine is at the place, and each COMMIT is looked at."""

    def entered(dbapi: Any, _: Any) -> None:
        cursor = dbapi.cursor()
        try:
            cursor.execute(session.NOTICING)
            cursor.execute(session.entering(place))
            session.check(cursor.fetchall())
        finally:
            cursor.close()
        dbapi.commit()

    def committed(conn: Connection) -> None:
        session.guard(place, lambda sql: conn.exec_driver_sql(sql).fetchall(), conn.exec_driver_sql)

    def optioned(conn: Connection, options: dict[str, Any]) -> None:
        if place["is_shared"] and options.get("isolation_level") == "AUTOCOMMIT":
            raise session.MigrationRefused("a migration leaves its transaction, and row tenants share this database")

    hooks = (("connect", entered), ("commit", committed), ("set_connection_execution_options", optioned))
    for name, hook in hooks:
        event.listen(Engine, name, hook)
    try:
        yield
    finally:
        for name, hook in hooks:
            event.remove(Engine, name, hook)
