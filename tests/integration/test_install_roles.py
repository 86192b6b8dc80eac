"""Does `tenantproxy install --roles` give each tenant a role that reaches its own schema or database alone?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy.cli.install import Mode, Report, Request, run_install
from tenantproxy.config import Settings, role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConfigurationError
from tenantproxy.router import Router
from tests.support.database import Database

OWNER: Final = "app_owner"
KEY: Final = "the key that passwords of roles follow from"
PASSWORD: Final = "a password of the operator"
DENIED: Final = asyncpg.InsufficientPrivilegeError
TENANTS: Final[Mapping[str, Mapping[str, str]]] = {
    "initech": {"isolation": "schema", "database": "app", "schema": "initech", "role": "t_initech"},
    "hooli": {"isolation": "schema", "database": "app", "schema": "hooli", "role": "t_hooli"},
    "umbrella": {"isolation": "database", "database": "umbrella", "role": "t_umbrella"},
    "wayne": {"isolation": "database", "database": "wayne", "role": "t_wayne"},
}
ROLES: Final = Request(roles=True)


def settings(server: EmbeddedPostgres, tenants: Mapping[str, Any] = TENANTS, **more: Any) -> Settings:
    primary = {"host": server.host, "port": server.port, "user": "shared_app", "password": PASSWORD, "ssl": "disable"}
    primary |= {"max_connections": 20, "admin": {"user": OWNER, "password": PASSWORD}}
    mapping = {
        "main": {"server": "primary", "database": "app"},
        "servers": {"primary": primary},
        "registry": {"source": "file"},
        "tenant_roles": {"key": KEY},
        "tenants": tenants,
        "pools": {"acquire_timeout": 15.0},
    }
    return Settings.from_mapping(mapping | more)


async def build(server: EmbeddedPostgres) -> None:
    """Databases and schemas of an owner who is no superuser, each with a table."""
    async with Database(server=server, name="postgres").connect() as root:
        await root.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
        for name in ("app", "umbrella", "wayne"):
            await root.execute(f"CREATE DATABASE {name} OWNER {OWNER}")
    for name in ("umbrella", "wayne"):
        await run(
            server, name, f"CREATE TABLE projects (id serial, name text); INSERT INTO projects VALUES (0, '{name}')"
        )
    for name in ("initech", "hooli"):
        made = f"CREATE SCHEMA {name}; CREATE TABLE {name}.projects (id serial, name text)"
        await run(server, "app", f"{made}; INSERT INTO {name}.projects VALUES (0, '{name}')")


async def run(server: EmbeddedPostgres, database: str, sql: str) -> None:
    async with Database(server=server, name=database).connect(OWNER, PASSWORD) as conn:
        await conn.execute(sql)


def said(report: Report) -> list[str]:
    return [row["installed"] if "installed" in row else row["would_install"] for row in report.rows]


async def names(router: Router, tenant: str) -> list[str]:
    return [row["name"] for row in await router.tenant(tenant).fetch("SELECT name FROM projects ORDER BY name")]


def log_in(server: EmbeddedPostgres, database: str, role: str) -> Any:
    return Database(server=server, name=database).connect(role, role_password(KEY.encode(), "primary", role))


async def test_each_tenant_reaches_its_own_and_no_other(each_own_postgres: EmbeddedPostgres) -> None:
    server = each_own_postgres
    await build(server)
    await run(server, "app", "GRANT CONNECT ON DATABASE umbrella TO PUBLIC")
    configured = settings(server)
    await run_install(configured, ROLES)
    assert said(await run_install(configured, ROLES)) == []
    async with Router(configured) as router:
        for tenant in TENANTS:
            assert await names(router, tenant) == [tenant]
            await router.tenant(tenant).execute("INSERT INTO projects (name) VALUES ('new')")
        for thief, victim in (("initech", "hooli"), ("hooli", "initech"), ("umbrella", "hooli")):
            with pytest.raises((DENIED, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError)):
                await router.tenant(thief).fetch(f"SELECT * FROM {victim}.projects")
        await run(server, "app", "CREATE TABLE hooli.later (id serial, name text)")
        await router.tenant("hooli").execute("INSERT INTO later (name) VALUES ('x')")
    for role, database in (("t_umbrella", "wayne"), ("t_initech", "umbrella"), ("shared_app", "wayne")):
        secret = PASSWORD if role == "shared_app" else role_password(KEY.encode(), "primary", role)
        with pytest.raises(DENIED, match="permission denied for database"):
            await Database(server=server, name=database).open(role, secret)


async def test_what_was_open_to_other_tenants_is_closed(own_postgres: EmbeddedPostgres) -> None:
    await build(own_postgres)
    configured = settings(own_postgres)
    await run_install(configured, ROLES)
    await run(own_postgres, "app", "GRANT USAGE, CREATE ON SCHEMA hooli TO t_initech, shared_app, PUBLIC")
    await run(own_postgres, "wayne", "GRANT ALL ON DATABASE wayne TO t_umbrella, t_wayne")
    await run(own_postgres, "app", "GRANT SELECT ON hooli.projects TO t_initech")
    assert sorted(said(await run_install(configured, ROLES))) == [
        'database "wayne": "t_wayne" makes no schema and no temporary table',
        'database "wayne": closed to "t_umbrella"',
        'schema "hooli": closed to "shared_app"',
        'schema "hooli": closed to "t_initech"',
        'schema "hooli": closed to PUBLIC',
    ]
    async with log_in(own_postgres, "app", "t_initech") as conn:
        with pytest.raises(DENIED, match="permission denied for schema hooli"):
            await conn.fetch("SELECT * FROM hooli.projects")


async def test_a_changed_password_is_put_right_and_never_shown(own_postgres: EmbeddedPostgres) -> None:
    await build(own_postgres)
    configured = settings(own_postgres)
    await run_install(configured, ROLES)
    await run(own_postgres, "app", "ALTER ROLE t_hooli PASSWORD 'of the tenant'")
    shown = await run_install(configured, Request(roles=True, mode=Mode.SQL))
    printed = "".join(shown.sql)
    assert 'ALTER ROLE "t_hooli" PASSWORD \'SCRAM-SHA-256$' in printed
    assert role_password(KEY.encode(), "primary", "t_hooli") not in printed
    assert said(await run_install(configured, ROLES)) == ['role "t_hooli": password']
    async with log_in(own_postgres, "app", "t_hooli") as conn:
        assert await conn.fetchval("SELECT current_user") == "t_hooli"


async def test_a_dry_run_on_nothing_says_what_will_be_made(own_postgres: EmbeddedPostgres) -> None:
    await build(own_postgres)
    dry = await run_install(settings(own_postgres), Request(roles=True, mode=Mode.DRY))
    async with Database(server=own_postgres, name="app").connect() as root:
        assert await root.fetchval("SELECT count(*) FROM pg_roles WHERE rolname ~ '^t_|^shared'") == 0
    assert said(dry) == said(await run_install(settings(own_postgres), ROLES))


async def test_a_superuser_reads_the_verifier_and_leaves_a_good_password(own_postgres: EmbeddedPostgres) -> None:
    await build(own_postgres)
    server = settings(own_postgres).servers["primary"].model_dump(by_alias=True)
    server["admin"] = {"user": own_postgres.superuser, "password": own_postgres.password}
    server |= {"password": PASSWORD}
    configured = settings(own_postgres, servers={"primary": server})
    await run_install(configured, ROLES)
    assert said(await run_install(configured, ROLES)) == []


async def test_a_missing_schema_and_a_mighty_role_are_told_before_anything_is_done(
    own_postgres: EmbeddedPostgres,
) -> None:
    await build(own_postgres)
    await run(own_postgres, "app", "CREATE ROLE t_wayne CREATEROLE")
    late = {"isolation": "schema", "database": "app", "schema": "late", "role": "t_late"}
    soon = {"isolation": "database", "database": "soon", "role": "t_soon"}
    unfinished = {"isolation": "database", "database": "unfinished", "role": "t_unfinished", "status": "provisioning"}
    tenants = {**TENANTS, "late": late, "soon": soon, "unfinished": unfinished}
    with pytest.raises(ConfigurationError) as caught:
        await run_install(settings(own_postgres, tenants), ROLES)
    assert "schema late: does not exist in the database app" in str(caught.value)
    assert "tenant soon: its database soon does not exist" in str(caught.value)
    assert "unfinished" not in str(caught.value)
    assert "role t_wayne: is superuser, bypasses row security, or may create roles" in str(caught.value)
    async with Database(server=own_postgres, name="app").connect() as root:
        assert await root.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 't_hooli'") == 0


async def test_schema_tenants_that_share_a_role_are_told(own_postgres: EmbeddedPostgres) -> None:
    await build(own_postgres)
    sharing = {name: {k: v for k, v in TENANTS[name].items() if k != "role"} for name in ("initech", "hooli")}
    report = await run_install(settings(own_postgres, sharing), ROLES)
    (note,) = [note["note"] for note in report.notes if "in common" in note["note"]]
    assert note.startswith(("hooli, initech have the role shared_app in common", "initech, hooli"))


async def test_an_owner_without_createrole_is_told_the_grant(own_postgres: EmbeddedPostgres) -> None:
    await build(own_postgres)
    async with Database(server=own_postgres, name="app").connect() as root:
        await root.execute(f"ALTER ROLE {OWNER} NOCREATEROLE")
    with pytest.raises(ConfigurationError, match=f'may not create roles; ALTER ROLE "{OWNER}" CREATEROLE'):
        await run_install(settings(own_postgres), ROLES)
