"""Does the router hear through its own main connections what the registry's table says?"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.errors import TenantNotFound, TenantSuspended
from tenantproxy.lifecycle import install_registry
from tenantproxy.model import TenantStatus
from tenantproxy.notifications import LISTENS
from tests.support.database import Database, fresh_database
from tests.support.turns import counting_turns
from tests.support.waiting import until


@pytest.fixture
async def settings(database: Database) -> AsyncIterator[Settings]:
    app, password, server = f"app_{secrets.token_hex(4)}", secrets.token_hex(16), database.server
    async with database.connect() as conn:
        await conn.execute(f"create role {app} login password '{password}'")
        await install_registry(conn, app_role=app)
    yield Settings.from_mapping(
        {
            "main": {"server": "primary", "database": database.name},
            "servers": {
                "primary": {
                    "host": server.host,
                    "port": server.port,
                    "user": app,
                    "password": password,
                    "ssl": "disable",
                }
            },
            "registry": {"source": "postgres", "cache_ttl": 3600, "negative_ttl": 3600},
        }
    )
    async with database.connect() as conn:
        await conn.execute(f"drop owned by {app}; drop role {app}")


async def test_a_tenant_that_is_registered_and_suspended_is_served_and_refused_at_once(
    settings: Settings, database: Database
) -> None:
    async with fresh_database(database.server) as own, Router(settings) as router, database.connect() as admin:
        await until(lambda: _listeners(admin), "the router listens")
        acme = router.tenant("acme")
        with pytest.raises(TenantNotFound):
            await acme.fetchval("select 1")
        await admin.execute(
            "insert into tenantproxy.tenants (id, isolation, database) values ('acme', 'database', $1)", own.name
        )
        await until(lambda: _serves(router), "the new tenant is served")
        await admin.execute("update tenantproxy.tenants set status = 'suspended'")
        await until(lambda: _has_heard(router), "the suspension was heard")
        with pytest.raises(TenantSuspended):
            await acme.fetchval("select 1")


async def test_listening_goes_on_after_its_connection_was_terminated(settings: Settings, database: Database) -> None:
    async with fresh_database(database.server) as own, Router(settings) as router, database.connect() as admin:
        await until(lambda: _listeners(admin), "the router listens")
        (pid,) = await _listeners(admin)
        await admin.execute(
            "insert into tenantproxy.tenants (id, isolation, database) values ('acme', 'database', $1)", own.name
        )
        await until(lambda: _serves(router), "the tenant is served")
        await admin.execute("select pg_terminate_backend($1, 5000)", pid)

        async def another() -> bool:
            now = await _listeners(admin)
            return bool(now) and pid not in now

        await until(another, "it listens on another connection")
        await admin.execute("update tenantproxy.tenants set status = 'suspended'")
        await until(lambda: _has_heard(router), "the suspension was heard")
        with pytest.raises(TenantSuspended):
            await router.tenant("acme").fetchval("select 1")


async def _listeners(admin: asyncpg.Connection) -> list[int]:
    rows = await admin.fetch(
        "select pid from pg_stat_activity where datname = current_database() and query = $1", LISTENS
    )
    return [row["pid"] for row in rows]


def _has_heard(router: Router) -> bool:
    known = router.registry.peek("acme")  # with a pool open it is looked up again at once
    return known is None or known.status is TenantStatus.SUSPENDED


async def _serves(router: Router) -> bool:
    try:
        return bool(await router.tenant("acme").fetchval("select true"))
    except TenantNotFound:
        return False


async def test_thousands_of_announcements_at_once_are_all_heard_and_read_in_slices(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"name{number}" for number in range(3000)]
    heard: list[str | None] = []
    async with Router(settings) as router, database.connect() as admin:
        listener = router.listener
        listener.hear("news", heard.append)
        await until(lambda: heard == [None] and listener.listening.is_set(), "it listens")
        monkeypatch.setattr("tenantproxy.driver.reading.is_over", lambda _end: True)  # each step is a slice
        with counting_turns(lambda: len(heard) + len(listener._news)) as turns:
            await admin.execute("select pg_notify('news', name) from unnest($1::text[]) name", names)
            await until(lambda: len(heard) > len(names), "all were heard")
        assert heard == [None, *names]
        assert turns.most < 100


async def test_the_connection_of_a_listener_that_stopped_is_as_any_other(settings: Settings) -> None:
    async with Router(settings) as router:
        await router.listener.listening.wait()
        (listening,) = _connections(router)
        await router.listener.stop()
        data = bytearray()

        async def take(block: bytes) -> None:
            data.extend(block)
            await asyncio.sleep(0)

        async with router.main().connection() as conn:
            assert conn.get_server_pid() == listening.pid
            await conn.copy_from_query("select repeat('x', 1000) from generate_series(1, 2000)", output=take)
            assert await conn.fetchval("select 1") == 1
        assert len(data) == 2000 * 1001


def _connections(router: Router) -> list[Any]:
    return [conn for pool in router._parts.manager for conn in pool.connections()]
