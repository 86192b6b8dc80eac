"""What does every check stand on? Two tenants of one kind, a door to them, and the rows that only one of them knows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from tenantproxy.model import Isolation, Tenant

__all__ = ["CanaryRows", "Door", "DoorClosed", "Pair", "Rows", "SqlRefused", "Talk", "Trial", "WallOpen", "quoted"]

Rows = list[list[str | None]]


class SqlRefused(Exception):
    """PostgreSQL, or the door, refused a statement; `text` is all that the error said."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(f"{sqlstate}: {text}")
        self.sqlstate = sqlstate
        self.text = text


class DoorClosed(Exception):
    """The door does not open, or closed again: what it would have shown is not known."""


class WallOpen(Exception):
    """The door refuses to serve a tenant because the wall behind it is open, or cannot be proven."""


class Talk(Protocol):
    """One session of a tenant."""

    async def ask(self, sql: str) -> Rows:
        """The rows of one statement, as text. Raises SqlRefused, DoorClosed."""
        ...


class Door(Protocol):
    """A way in."""

    @property
    def name(self) -> str:
        """As the table says it."""
        ...

    @property
    def turns_each_time(self) -> bool:
        """Whether a session has a backend for each transaction: it need not end for the next one to have it."""
        ...

    def session(self, tenant: Tenant) -> AbstractAsyncContextManager[Talk]:
        """A session of `tenant`, ended with the block. Raises WallOpen, DoorClosed, SqlRefused."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two registered tenants of one kind. `first` attacks, `second` is attacked. `role`: None, the server's user."""

    first: Tenant
    second: Tenant
    kind: str  # "row, bound"
    setting: str  # that names a row tenant

    @property
    def isolation(self) -> Isolation:
        """Of both."""
        return self.first.placement.isolation

    @property
    def shares_role(self) -> bool:
        """Whether their SQL runs as one role."""
        return self.first.placement.role == self.second.placement.role


class CanaryRows(Protocol):
    """A table with one row of each tenant, in which each knows a secret of its own."""

    @property
    def table(self) -> str:
        """Its quoted name, as a tenant finds it on its search_path."""
        ...

    def place(self, tenant: Tenant) -> str:
        """The qualified name of the tenant's."""
        ...

    def secret(self, tenant: Tenant) -> str:
        """What stands in the tenant's row, and nowhere else."""
        ...

    async def damage(self) -> str | None:
        """What is no longer as it was made, which is then put right; None: all is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a check is given. `clients`: how many sessions it may have at once. `canary`: None where none can be made.

    `may_call`: functions that promise nothing too. `unprotected`: relations that the configuration says are shared.
    `limited`: users of the port, by name, with a password and a tenant that they may not reach.
    """

    pair: Pair
    door: Door
    canary: CanaryRows | None
    clients: int
    may_call: bool = False
    unprotected: tuple[str, ...] = ()
    limited: Mapping[str, tuple[str, Tenant]] = field(default_factory=dict, repr=False)

    def is_unprotected(self, relation: str) -> bool:
        """Whether `[row] unprotected` names the relation, with its schema or, in public, without."""
        return relation in self.unprotected or relation.removeprefix("public.") in self.unprotected

    @property
    def rows(self) -> CanaryRows:
        """The canary. Raises DoorClosed without one: the check cannot be tried."""
        if self.canary is None:
            raise DoorClosed("it needs canary rows, and nothing may be created here")
        return self.canary


def quoted(text: str) -> str:
    """`text` as a literal of SQL, whatever `standard_conforming_strings` says. Raises ValueError for a backslash."""
    if "\\" in text:
        raise ValueError("a backslash cannot be written the same way in every session")
    return "'" + text.replace("'", "''") + "'"
