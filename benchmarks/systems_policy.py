"""What does a policy cost that finds the tenant through another table? Four ways to say it, with the index and without.

One signed session of one row tenant, asyncpg's prepared statements, one call after the other; microseconds of a call.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final

import asyncpg

from benchmarks.measure import Spread
from benchmarks.part import Part
from benchmarks.table import figure, render
from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install
from tenantproxy.lifecycle.migrate.rows import guard_rows
from tenantproxy.lifecycle.provisioner import ensure_database, ensure_role

__all__ = ["run"]

_KEY: Final = "k" * 40
_PER: Final = (5, 200)  # workspaces of an organization, rows of a workspace
_TABLES: Final = """
CREATE TABLE workspaces (id uuid PRIMARY KEY, organization_id uuid NOT NULL);
CREATE INDEX ON workspaces (organization_id);
CREATE TABLE own (id uuid PRIMARY KEY, organization_id uuid NOT NULL, workspace_id uuid NOT NULL, name text);
CREATE TABLE through (id uuid PRIMARY KEY, workspace_id uuid NOT NULL REFERENCES workspaces, name text);
INSERT INTO workspaces SELECT md5(o || '/' || w)::uuid, md5(o::text)::uuid
  FROM generate_series(1, {organizations}) o, generate_series(1, {workspaces}) w;
INSERT INTO through SELECT gen_random_uuid(), id, 'row ' || n FROM workspaces, generate_series(1, {rows}) n;
INSERT INTO own SELECT t.id, w.organization_id, w.id, t.name FROM through t JOIN workspaces w ON w.id = t.workspace_id;
CREATE INDEX ON own (organization_id);
CREATE INDEX ON own (workspace_id);
"""
_PARENT: Final = (
    "SELECT parent.id FROM workspaces parent WHERE parent.organization_id = (SELECT tenantproxy.bound_tenant())::uuid"
)
_FORMS: Final = {
    "= ANY (ARRAY(SELECT ...)), index": (f"workspace_id = ANY (ARRAY({_PARENT}))", True),
    "IN (SELECT ...), index": (f"workspace_id IN ({_PARENT})", True),
    "EXISTS (SELECT ...), index": (f"EXISTS ({_PARENT} AND parent.id = workspace_id)", True),
    "= ANY (ARRAY(SELECT ...)), no index": (f"workspace_id = ANY (ARRAY({_PARENT}))", False),
}
_CALLS: Final = {
    "by key": ("SELECT name FROM {table} WHERE id = $1", "id", 300),
    "a workspace's": ("SELECT name FROM {table} WHERE workspace_id = $1", "workspace", 60),
    "all of the tenant's": ("SELECT count(*) FROM {table}", "", 20),
}


async def run(*, organizations: int = 200, rounds: int = 5) -> Part:
    """Each way in its turn, `rounds` times; the medians."""
    found: dict[str, dict[str, list[float]]] = {}
    async with EmbeddedPostgres(durable=False) as server:
        settings = await _build(server, organizations)
        conn = await asyncpg.connect(**server.connect_args("policies"))
        try:
            async with Router(settings) as router:
                for _ in range(rounds):
                    await _round(conn, router, found)
        finally:
            await conn.close()
    rows = [
        (what, *(figure(Spread.of(values[call]).median) for call in _CALLS)) for what, values in found.items()
    ]  # fmt: skip
    count = organizations * _PER[0] * _PER[1]
    return Part(
        title=f"A policy through the workspace: us of a call, {count:,} rows of {organizations} organizations",
        text=render(("policy", *_CALLS), rows),
        data={what: {call: asdict(Spread.of(each)) for call, each in values.items()} for what, values in found.items()},
    )


async def _build(server: EmbeddedPostgres, organizations: int) -> Settings:
    tenant = {"isolation": "row", "database": "policies"}
    admin = {"user": server.superuser, "password": server.password}
    here = {"host": server.host, "port": server.port, "user": "app", "password": "app", "ssl": "disable"}
    maintenance = await asyncpg.connect(**server.connect_args("postgres"))
    try:
        await ensure_role(maintenance, "app", password="app")
        await ensure_database(maintenance, "policies")
        first = await maintenance.fetchval("SELECT md5('1')::uuid::text")
    finally:
        await maintenance.close()
    settings = Settings.from_mapping(
        {
            "main": {"server": "primary", "database": "postgres"},
            "servers": {"primary": here | {"admin": admin}},
            "registry": {"source": "file"},
            "row": {"key": _KEY},
            "tenants": {first: tenant},
            "migrations": {"column": "organization_id", "through": {"workspace_id": "workspaces"}},
        }
    )
    conn = await asyncpg.connect(**server.connect_args("policies"))
    try:
        key = derive_key(_KEY.encode(), server="primary", database="policies", kid=1)
        await install(conn, app_role="app", keys={1: key})
        async with conn.transaction():
            size = {"organizations": organizations, "workspaces": _PER[0], "rows": _PER[1]}
            await conn.execute(_TABLES.format(**size))
            await conn.execute("CREATE INDEX by_workspace ON through (workspace_id)")
            await guard_rows(conn, settings, role="app", own_schemas=())
        await conn.execute("VACUUM ANALYZE")
    finally:
        await conn.close()
    return settings


async def _round(conn: asyncpg.Connection, router: Router, found: dict[str, dict[str, list[float]]]) -> None:
    name = next(iter(router.settings.tenants))
    await _timed(router, name, "own", found.setdefault("a column of its own", {}))
    for what, (condition, is_indexed) in _FORMS.items():
        await conn.execute(f"ALTER POLICY tenantproxy ON through USING ({condition}) WITH CHECK ({condition})")
        if not is_indexed:
            await conn.execute("DROP INDEX by_workspace")
        await _timed(router, name, "through", found.setdefault(what, {}))
        if not is_indexed:
            await conn.execute("CREATE INDEX by_workspace ON through (workspace_id)")


async def _timed(router: Router, tenant: str, table: str, times: dict[str, list[float]]) -> None:
    async with router.tenant(tenant).connection() as conn:
        row = await conn.fetchrow(f"SELECT id, workspace_id AS workspace FROM {table} LIMIT 1")
        assert row is not None
        for call, (query, argument, count) in _CALLS.items():
            text = query.format(table=table)
            arguments: tuple[Any, ...] = (row[argument],) if argument else ()
            for _ in range(8):  # the plan is kept from the sixth on
                await conn.fetch(text, *arguments)
            begun = time.perf_counter()
            for _ in range(count):
                await conn.fetch(text, *arguments)
            times.setdefault(call, []).append((time.perf_counter() - begun) / count * 1e6)
