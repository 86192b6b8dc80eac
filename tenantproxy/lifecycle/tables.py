"""How are an operator's own tables isolated? Plans from the catalogue, and runs what is missing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from tenantproxy.errors import Problem
from tenantproxy.isolation.base import search_path
from tenantproxy.lifecycle.change import SEARCH_PATH, Change, ChangePlan, apply, merged
from tenantproxy.lifecycle.column_type import Comparison, ParentTable, describe_type, unusable_ids
from tenantproxy.lifecycle.install import alone
from tenantproxy.lifecycle.reference_check import reference_changes
from tenantproxy.lifecycle.table_facts import find_table, read_table, tables_with
from tenantproxy.lifecycle.table_plan import no_table, plan_table
from tenantproxy.model import quote_identifier

__all__ = ["TableRequest", "install_tables", "plan_tables", "plan_through", "plan_within"]

_HAS_COLUMN: Final = """
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped)
"""
_REFERS: Final = """
SELECT quote_ident(b.attname) FROM pg_constraint k
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] AND cardinality(k.conkey) = 1
JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[1]
WHERE k.contype = 'f' AND k.convalidated AND NOT k.condeferrable AND k.conrelid = to_regclass($1) AND a.attname = $2
  AND k.confrelid = $3::int8::oid LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRequest:
    """What is to be isolated in one database.

    `tables`: names as in SQL, each with its column. `all_with`: columns; every table that has one, outside of
    `own_schemas`, which are schema tenants'. `through`: for tables without `parent_column`, columns of theirs and the
    table with `parent_column` that they refer to. `roles`: what row tenants' SQL runs as; `creating`: of those, the
    ones that are about to be created. `tenants`: the ids of the row tenants that are registered here. `path`: where a
    name without a schema is looked for. `only`: of those with a column, these; None: all.
    """

    tables: tuple[tuple[str, str], ...] = ()
    all_with: tuple[str, ...] = ()
    through: tuple[tuple[str, str], ...] = ()
    parent_column: str = ""
    roles: tuple[str, ...]
    comparison: Comparison
    tenants: tuple[str, ...] = ()
    path: tuple[str, ...] = ("public",)
    own_schemas: tuple[str, ...] = ()
    creating: Collection[str] = ()
    only: frozenset[str] | None = None


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
        tables += [(table, column) for table in found if request.only is None or table in request.only]
    plans = [await _plan_one(conn, table, column, request) for table, column in dict.fromkeys(tables)]
    plans += [await plan_through(conn, request, *each, done={table for table, _ in tables}) for each in request.through]
    return merged([*plans, ChangePlan(notes=tuple(notes))])


async def plan_through(
    conn: asyncpg.Connection, request: TableRequest, column: str, parent: str, *, done: Collection[str]
) -> ChangePlan:
    """The plan of each table that has `column`, and says by it alone whose its rows are. `done`: those that say it."""
    others = [
        each for each in await tables_with(conn, column, outside=request.own_schemas)
        if each not in done and (request.only is None or each in request.only)
        and not await conn.fetchval(_HAS_COLUMN, each, request.parent_column)
    ]  # fmt: skip
    found = await find_table(conn, parent, request.parent_column, search_path(request.path)) if others else ""
    if isinstance(found, str) or not found["has_column"]:
        lacks = "is not there" if isinstance(found, str) else f"has no column {request.parent_column}"
        key, fix = f"migrations.through.{column}", f"name a table that has {request.parent_column}"
        return ChangePlan(problems=(Problem(key=key, problem=f"{parent} {lacks}", fix=fix),) if others else ())
    kind = await describe_type(conn, found["oid"], request.parent_column)
    plans = []
    for table in others:
        key = await conn.fetchval(_REFERS, table, column, found["oid"])
        if key is None:
            problem = (
                f"its column {column} does not refer to {parent}, which says whose a row is, at once and for all rows"
            )
            fix = f"ALTER TABLE {table} ADD FOREIGN KEY ({quote_identifier(column)}) REFERENCES {found['name']}"
            plans.append(ChangePlan(problems=(Problem(key=f"--table {table}", problem=problem, fix=fix),)))
            continue
        where = ParentTable(
            table=found["name"], key=key, column=quote_identifier(request.parent_column), cast=kind.cast or ""
        )
        one = replace(request, comparison=replace(request.comparison, parent=where), tenants=())
        looking: tuple[Change, ...] = ()
        if request.comparison.signed:  # else any tenant may say that it is another one
            looking = await reference_changes(conn, table, column, where.table, where.key)
        plans.append(await _plan_one(conn, table, column, one, also=looking))
    return merged(plans)


async def _plan_one(
    conn: asyncpg.Connection, table: str, column: str, request: TableRequest, *, also: tuple[Change, ...] = ()
) -> ChangePlan:
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
    return plan_table(facts, request.comparison, unusable=unusable, creating=request.creating, also=also)
