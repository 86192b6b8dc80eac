"""What is still to be done in one place, and may it be? Pure: what is in the folder against what was applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.migrate.files import Migration
from tenantproxy.model import Isolation

__all__ = ["Applied", "MigrationsDiffer", "SchemaPlace", "pending", "to_undo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaPlace:
    """A place that has a version of its own: `schema` of a database, for one tenant or for all whose rows are there.

    `system`: which system's files; None: the tenant's own. `tenants`: whose it is; more than one where they share rows.
    `role`: what their SQL runs as; `others`: the schemas of schema tenants in this database.
    """

    tenants: tuple[str, ...]
    isolation: Isolation
    server: str
    database: str
    schema: str
    role: str
    system: str | None = None
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        whose = self.tenants[0] if len(self.tenants) == 1 else f"{self.server}/{self.database}"
        return whose if self.system is None else f"{whose} ({self.system})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One line of a place's journal."""

    version: int
    name: str
    checksum: str


class MigrationsDiffer(TenantProxyError):
    """What was applied is not what the folder says: nothing is done there until an operator has looked."""

    code = "migrations_differ"


def pending(
    migrations: Sequence[Migration], applied: Sequence[Applied], *, to: int | None = None
) -> tuple[Migration, ...]:
    """What is to be applied, in order, up to the version `to`.

    Raises MigrationsDiffer when a file was changed behind its application, is gone, or is older than one that was.
    """
    known = {each.version: each for each in migrations}
    done = {each.version: each for each in applied}
    _check(known, done)
    last = max(done, default=-1)
    left = [each for each in migrations if each.version not in done]
    if late := [each for each in left if each.version < last]:
        raise MigrationsDiffer(
            f"the file {late[0].version}_{late[0].name} comes before version {last}, which was applied already",
            hint="give it a number behind that",
        )
    return tuple(each for each in left if to is None or each.version <= to)


def to_undo(migrations: Sequence[Migration], applied: Sequence[Applied], *, to: int) -> tuple[Migration, ...]:
    """What is to be taken back until `to` is the version, the last first. Raises MigrationsDiffer also for no undo."""
    known = {each.version: each for each in migrations}
    done = {each.version: each for each in applied}
    _check(known, done)
    found = tuple(known[version] for version in sorted(done, reverse=True) if version > to)
    if stuck := [each for each in found if each.undo is None]:
        name = f"{stuck[0].version}_{stuck[0].name}"
        raise MigrationsDiffer(f"nothing takes {name} back", hint=f"write {name}.down.sql")
    return found


def _check(known: Mapping[int, Migration], done: Mapping[int, Applied]) -> None:
    for version, line in sorted(done.items()):
        if version not in known:
            raise MigrationsDiffer(
                f"version {version} ({line.name}) was applied, and there is no such file",
                hint="migrate with the release that has it, or a newer one",
            )
        if known[version].checksum != line.checksum:
            raise MigrationsDiffer(
                f"the file {version}_{known[version].name} was changed after it was applied",
                hint="put it back as it was, and write what is new into a file of its own",
            )
