"""How are numbered SQL files applied to one place? By its journal, each in a transaction of its own."""

from __future__ import annotations

from functools import partial

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.migrate.base import PlaceStanding, Version
from tenantproxy.lifecycle.migrate.files import Migration, read_folder
from tenantproxy.lifecycle.migrate.journal import Behind, apply_one, ensure_journal, read_journal, undo_one
from tenantproxy.lifecycle.migrate.plan import SchemaPlace, pending, to_undo
from tenantproxy.lifecycle.migrate.retries import again
from tenantproxy.lifecycle.migrate.rows import guard_rows
from tenantproxy.model import Isolation

__all__ = ["FileSource"]


class FileSource:
    """The files of one folder. See `base.MigrationSource`. Raises ConfigurationError with all that is wrong there."""

    def __init__(self, settings: Settings, folder: str) -> None:
        self._settings = settings
        self._rules = settings.migrations
        self._files = read_folder(folder)

    @property
    def content(self) -> str:
        """See `MigrationSource`."""
        return " ".join(f"{each.version}:{each.checksum}" for each in self._files)

    def checked(self, to: str) -> None:
        """See `MigrationSource`."""
        _number(to)

    async def standing(self, conn: asyncpg.Connection, place: SchemaPlace) -> PlaceStanding:
        """See `MigrationSource`."""
        done = await read_journal(conn, place.schema)
        left = pending(self._files, done)
        return PlaceStanding(version=done[-1].version if done else None, left=len(left))

    async def bring(
        self, conn: asyncpg.Connection, place: SchemaPlace, *, to: str | None, applied: list[Version]
    ) -> None:
        """See `MigrationSource`."""
        await ensure_journal(conn, is_own=place.isolation is Isolation.DATABASE)
        done = await read_journal(conn, place.schema)
        left = pending(self._files, done, to=None if to is None else _number(to))
        for migration in left:
            apply = partial(self._apply_one, conn, place, migration, is_last=migration is left[-1])
            is_new = await again(self._rules.retries, apply)
            applied += [migration.version] * is_new

    async def undo(self, conn: asyncpg.Connection, place: SchemaPlace, *, to: str, applied: list[Version]) -> None:
        """See `MigrationSource`."""
        done = await read_journal(conn, place.schema)
        for migration in to_undo(self._files, done, to=_number(to)):
            is_new = await again(self._rules.retries, partial(self._undo_one, conn, place, migration))
            applied += [migration.version] * is_new

    async def close(self) -> None:
        """See `MigrationSource`."""

    async def _apply_one(
        self, conn: asyncpg.Connection, place: SchemaPlace, migration: Migration, *, is_last: bool
    ) -> bool:
        behind: Behind | None = None
        if place.isolation is Isolation.ROW:
            behind = partial(
                guard_rows, settings=self._settings, role=place.role, own_schemas=place.others,
                changed_alone=not is_last,
            )  # fmt: skip
        return await apply_one(
            conn, place.schema, migration, lock_timeout=self._rules.lock_timeout,
            statement_timeout=self._rules.statement_timeout, behind=behind,
        )  # fmt: skip

    async def _undo_one(self, conn: asyncpg.Connection, place: SchemaPlace, migration: Migration) -> bool:
        rules = self._rules
        return await undo_one(
            conn, place.schema, migration, lock_timeout=rules.lock_timeout, statement_timeout=rules.statement_timeout
        )


def _number(to: str) -> int:
    if not to.isascii() or not to.isdigit():
        raise ConfigurationError(
            [Problem(key="--to", problem="is no number of a file", fix="write for example --to 3")]
        )
    return int(to)
