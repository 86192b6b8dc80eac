"""How are an operator's own tables isolated? Plans from the catalogue, and runs what is missing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import asyncpg

from tenantproxy.errors import Problem
from tenantproxy.isolation.base import search_path
from tenantproxy.lifecycle.change import SEARCH_PATH, ChangePlan, apply, merged
from tenantproxy.lifecycle.column_type import Comparison, unusable_ids
from tenantproxy.lifecycle.install import alone
from tenantproxy.lifecycle.table_facts import find_table, read_table, tables_with
from tenantproxy.lifecycle.table_plan import no_table, plan_table

__all__ = ["TableRequest", "install_tables", "plan_tables", "plan_within"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRequest:
    """What is to be isolated in one database.

    `tables`: names as in SQL, each with its column. `all_with`: columns; every table that has one, outside of
    `own_schemas`, which are schema tenants'. `roles`: what row tenants' SQL runs as; `creating`: of those, the ones
    that are about to be created. `tenants`: the ids of the row tenants that are registered here. `path`: where a name
    without a schema is looked for.
    """

    tables: tuple[tuple[str, str], ...] = ()
    all_with: tuple[str, ...] = ()
    roles: tuple[str, ...]
    comparison: Comparison
    tenants: tuple[str, ...] = ()
    path: tuple[str, ...] = ("public",)
    own_schemas: tuple[str, ...] = ()
    creating: Collection[str] = ()


async def plan_tables(conn: asyncpg.Connection, request: TableRequest) -> ChangePlan:
    """What is still to be done for `request` in the database of `conn`. Changes nothing and locks nothing."""
    async with conn.transaction(readonly=True):
        await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", SEARCH_PATH)
        return await plan_within(conn, request)


async def install_tables(
    conn: asyncpg.Connection, request: TableRequest, *, lock_timeout: float = 5.0, index_timeout: float = 60.0
) -> ChangePlan:
    """Do it, and return what was done; a plan with problems or missing rights is returned and nothing done.

    One transaction, then the indexes, each built without blocking writers. Waits for any one lock no longer than
    `lock_timeout` seconds; for the end of a transaction that could see a table without its new index, `index_timeout`.
    Then asyncpg.LockNotAvailableError: what is left undone, a broken index too, is for the next run.
    """
    async with alone(conn, lock_timeout):
        plan = await plan_within(conn, request)
        if plan.problems or plan.missing:
            return plan
        await apply(conn, (change for change in plan.changes if not change.concurrently))
    await conn.execute("SELECT pg_catalog.set_config('lock_timeout', $1, false)", str(round(index_timeout * 1000)))
    try:
        for change in plan.changes:
            if change.concurrently:
                await conn.execute(change.sql)
    finally:
        if not conn.is_closed():
            await conn.execute("RESET lock_timeout")
    return plan


async def plan_within(conn: asyncpg.Connection, request: TableRequest) -> ChangePlan:
    """As `plan_tables`, in the transaction that `conn` is in, whose search_path is `change.SEARCH_PATH`."""
    tables = list(request.tables)
    notes = []
    for column in request.all_with:
        found = await tables_with(conn, column, outside=request.own_schemas)
        if not found:
            notes.append(f"no table of this database has a column {column}")
        tables += [(table, column) for table in found]
    plans = [await _plan_one(conn, table, column, request) for table, column in dict.fromkeys(tables)]
    return merged([*plans, ChangePlan(notes=tuple(notes))])


async def _plan_one(conn: asyncpg.Connection, table: str, column: str, request: TableRequest) -> ChangePlan:
    found = await find_table(conn, table, column, search_path(request.path))
    if isinstance(found, str):
        fix = "create it first, or write its schema too: --table SCHEMA.TABLE"
        return ChangePlan(problems=(Problem(key=f"--table {table}", problem=found, fix=fix),))
    if found["kind"] not in ("r", "p"):
        return ChangePlan(problems=(no_table(found["kind"], found["name"]),))
    if not found["has_column"]:
        has = ", ".join(found["columns"]) or "none"
        problem = f"has no column {column}"
        return ChangePlan(
            problems=(Problem(key=f"--table {table}", problem=problem, fix=f"name one of its own: {has}"),)
        )
    facts = await read_table(conn, found["oid"], column, request.roles)
    unusable = await unusable_ids(conn, facts.kind, request.tenants)
    return plan_table(facts, request.comparison, unusable=unusable, creating=request.creating)
