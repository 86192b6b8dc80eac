"""Does an operator get the trusted form who asks for it, hear why not, and go from one form to the other at work?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tenantproxy import Router
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import IsolationError
from tenantproxy.lifecycle import install
from tenantproxy.lifecycle.live_check import check_live
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.lifecycle.trusted import GRANT, PARAMETER
from tests.support.database import Database
from tests.support.leases import own_rows, rows_of
from tests.support.trusting import trust
from tests.support.world import APP_PASSWORD, APP_ROLE, World, a_world, row_key

OWNER = "mine_owner"


@pytest.fixture
async def world(each_own_postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """On a server of its own: who may set a parameter is a matter of the whole server."""
    async with a_world(each_own_postgres, schemas=0, databases=0) as made:
        yield made


async def test_who_is_no_superuser_installs_the_bound_form_and_the_trusted_one_once_it_is_granted(
    each_own_postgres: EmbeddedPostgres,
) -> None:
    async with Database(server=each_own_postgres, name="postgres").connect() as root:
        await root.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{APP_PASSWORD}'")
        await root.execute(f"CREATE DATABASE mine OWNER {OWNER}")
        mine = Database(server=each_own_postgres, name="mine")
        async with mine.connect(OWNER, APP_PASSWORD) as conn:
            await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
            keys = {1: row_key("mine")}
            assert await install(conn, app_role=APP_ROLE, keys=keys, trusted=True) == "bound"
            await root.execute(GRANT)
            assert await install(conn, app_role=APP_ROLE, keys=keys) == "bound", "no one asked for it"
            assert await install(conn, app_role=APP_ROLE, keys=keys, trusted=True) == "trusted"
            assert await install(conn, app_role=APP_ROLE, keys=keys) == "trusted", "what is there stays"


async def _wrong(world: World) -> str:
    findings = await check_live(world.settings(row={"form": "trusted"}))
    return " ".join(f"{one.what} {one.fix}" for one in findings if one.state == "wrong")


async def test_a_form_that_does_not_hold_serves_no_one_and_the_check_says_what_to_do(world: World) -> None:
    async with world.shared.connect() as admin:
        name = world.shared.name
        assert "is not installed" in await _wrong(world)
        async with Router(world.settings()) as router:
            assert await own_rows(router.tenant("row1")) == rows_of("row1")
        await trust(world)
        assert await _wrong(world) == ""
        await admin.execute(f"REVOKE SET ON PARAMETER {PARAMETER} FROM tenantproxy_keeper")
        assert f"may not set {PARAMETER}" in await _wrong(world)
        await admin.execute(GRANT)
        await admin.execute(f"CREATE ROLE someone; GRANT SET ON PARAMETER {PARAMETER} TO someone")
        assert "others than the keeper" in await _wrong(world)
        await admin.execute(f"REVOKE ALL ON PARAMETER {PARAMETER} FROM someone; {GRANT} WITH GRANT OPTION")
        assert "others than the keeper" in await _wrong(world)
        await admin.execute(f"REVOKE GRANT OPTION FOR SET ON PARAMETER {PARAMETER} FROM tenantproxy_keeper")
        await admin.execute(f"ALTER DATABASE {name} SET {PARAMETER} = '9999999999row2'")
        assert "begins as a tenant" in await _wrong(world)
        with pytest.raises(IsolationError, match="begins as a tenant"):
            async with Router(world.settings(row={"form": "trusted"})) as router:
                await own_rows(router.tenant("row1"))
        await admin.execute(f"ALTER DATABASE {name} RESET {PARAMETER}")
        assert await _wrong(world) == ""


async def test_processes_of_both_forms_serve_at_the_same_time_while_it_is_installed(world: World) -> None:
    """From one form to the other without a pause: install, then restart one process after the other; and back."""
    async with Router(world.settings()) as bound:

        async def ask(router: Router) -> None:
            for tenant in ("row1", "row2") * 20:
                assert await own_rows(router.tenant(tenant)) == rows_of(tenant)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask(bound))
            group.create_task(trust(world))
        async with Router(world.settings(row={"form": "trusted"})) as trusted:
            async with asyncio.TaskGroup() as group:
                for router in (bound, trusted):
                    group.create_task(ask(router))
                group.create_task(trust(world))
