"""What can be asked of migrations, of whatever kind: numbered files, alembic, Django."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import asyncpg

from tenantproxy.lifecycle.migrate.plan import SchemaPlace

__all__ = ["MigrationSource", "PlaceStanding", "Version"]

Version: TypeAlias = int | str
"""The number of a file, the revision of alembic, or `app.name` of Django."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceStanding:
    """Where a place is: at which version, None: at none, and how many migrations it lacks."""

    version: Version | None
    left: int


class MigrationSource(Protocol):
    """The migrations of tenants, or of one system of theirs. `conn` is the admin user's, of the place's database."""

    @property
    def content(self) -> str:
        """Other migrations have another one."""
        ...

    def checked(self, to: str) -> None:
        """Raises ConfigurationError where `to` cannot be a version."""
        ...

    async def standing(self, conn: asyncpg.Connection, place: SchemaPlace) -> PlaceStanding:
        """Where it is. Changes nothing. Raises MigrationsDiffer where what was applied is not what there is."""
        ...

    async def bring(
        self, conn: asyncpg.Connection, place: SchemaPlace, *, to: str | None, applied: list[Version]
    ) -> None:
        """Apply what it lacks, up to `to`; `applied` is added to as they are. Raises what PostgreSQL and a tool say."""
        ...

    async def undo(self, conn: asyncpg.Connection, place: SchemaPlace, *, to: str, applied: list[Version]) -> None:
        """Take back what is behind `to`, the last first. Raises as `bring`."""
        ...

    async def close(self) -> None:
        """End what was started."""
        ...
