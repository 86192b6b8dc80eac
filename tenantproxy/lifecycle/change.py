"""What an installation is about to do, as data: the same changes are shown, printed as SQL, or run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.errors import Problem

__all__ = ["Change", "ChangePlan", "apply", "merged", "script"]

SEARCH_PATH: Final = "pg_catalog, pg_temp"
"""Built-in names first, ours and the operator's always with their schema: nothing in between can stand in for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One statement and what it is for. `concurrently`: it cannot run in a transaction (CREATE INDEX CONCURRENTLY)."""

    what: str
    sql: str
    concurrently: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """The changes that one database still needs, in order.

    `notes` are for the operator to judge. `problems` forbid the installation. `missing` are what the user of this
    connection may not do: they forbid running the changes, and nothing else, since another user may run the SQL.
    """

    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    missing: tuple[Problem, ...] = ()


def merged(plans: Iterable[ChangePlan]) -> ChangePlan:
    """One plan for all, in their order; what several say is said once."""
    plans = list(plans)
    return ChangePlan(
        changes=tuple(dict.fromkeys(change for plan in plans for change in plan.changes)),
        notes=tuple(dict.fromkeys(note for plan in plans for note in plan.notes)),
        problems=tuple(dict.fromkeys(problem for plan in plans for problem in plan.problems)),
        missing=tuple(dict.fromkeys(problem for plan in plans for problem in plan.missing)),
    )


async def apply(conn: asyncpg.Connection, changes: Iterable[Change]) -> None:
    """Run those that belong in the transaction that `conn` is in, in order."""
    for change in changes:
        await conn.execute(change.sql)


def script(changes: Iterable[Change]) -> str:
    """The changes as SQL for psql: one transaction, then what cannot run in one."""
    changes = list(changes)
    inside = [f"{change.sql};" for change in changes if not change.concurrently]
    after = [f"{change.sql};" for change in changes if change.concurrently]
    lines = ["BEGIN;", f"SET LOCAL search_path = {SEARCH_PATH};", *inside, "COMMIT;"] if inside else []
    return "".join(f"{line}\n" for line in [*lines, *after])
