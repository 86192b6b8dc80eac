"""Does `install` leave everything that login needs, and nothing that tenants could use?"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tenantproxy.cli.deploy import install_all
from tenantproxy.cli.install import Mode, Request, run_install
from tenantproxy.config import Settings
from tenantproxy.lifecycle.install import isolate_table
from tenantproxy.model import Isolation
from tenantproxy.router import Router
from tests.support.database import psql
from tests.support.logins import LOGIN_PASSWORD, PASSWORD, SHARED_USERS, add, login_settings
from tests.support.world import World


async def ready(world: World, **changes: Any) -> Settings:
    """A world whose row tenants have users, and nothing installed for login."""
    tenant = world.of(Isolation.ROW)[0]
    async with world.shared.connect() as admin:
        await admin.execute(SHARED_USERS)
        await isolate_table(admin, "users")
        await add(admin, tenant, "7", "ann@example.org")
    server = {"login": {"user": "installed_login", "password": LOGIN_PASSWORD}} | changes
    return login_settings(world, lookup=True, servers={"primary": server})


async def test_after_install_a_person_logs_in_and_again_is_the_upgrade(world: World) -> None:
    settings = await ready(world)
    await install_all(settings, [])
    done = await install_all(settings, [])
    installed = [row["installed"] for row in done]
    in_main = ["sessions and login directory", "budget of the fleet default"]
    assert installed == [*in_main, "signed context", "closed functions", "account lookup"]
    async with Router(settings) as router:
        (account,) = await router.login("ann@example.org", PASSWORD)
        assert (account.tenant, account.user) == ("row1", "7")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await router.tenant("row2").fetch("SELECT * FROM tenantproxy.login_candidates('ann@example.org')")


async def test_the_printed_sql_installs_all_that_login_needs(world: World) -> None:
    settings = await ready(world)
    for database in (world.main, world.shared):  # as if nothing of ours had been there
        async with database.connect() as admin:
            await admin.execute("DROP SCHEMA tenantproxy CASCADE")
    shown = await run_install(settings, Request(mode=Mode.SQL, with_keys=True))
    assert LOGIN_PASSWORD not in "".join(shown.sql)
    await psql(world.shared, "\n".join(shown.sql))
    async with world.shared.connect() as admin:
        await isolate_table(admin, "users")
    async with Router(settings) as router:
        (account,) = await router.login("ann@example.org", PASSWORD)
        assert (account.tenant, account.user) == ("row1", "7")


async def test_an_admin_who_is_no_superuser_is_told_that_the_lookup_is_left_out(world: World) -> None:
    settings = await ready(world)
    await install_all(settings, [])  # the keeper and what only a superuser may do
    async with world.shared.connect() as admin:
        await admin.execute(
            "DROP ROLE IF EXISTS plain_admin; CREATE ROLE plain_admin LOGIN CREATEROLE PASSWORD 'plain'"
        )
        await admin.execute(
            f'GRANT ALL ON DATABASE "{world.shared.name}" TO plain_admin;'
            "GRANT tenantproxy_keeper TO plain_admin WITH ADMIN OPTION;"
            "GRANT installed_login TO plain_admin WITH ADMIN OPTION"
        )
    try:
        plain = await ready_again(world, settings)
        done = await install_all(plain, [world.shared.name])
        assert "account lookup LEFT OUT: the admin user is no superuser" in [row["installed"] for row in done]
    finally:
        async with world.shared.connect() as admin:
            await admin.execute("DROP OWNED BY plain_admin; DROP ROLE plain_admin")


async def ready_again(world: World, settings: Settings) -> Settings:
    server = {
        "login": {"user": "installed_login", "password": LOGIN_PASSWORD},
        "admin": {"user": "plain_admin", "password": "plain"},
    }
    changed = login_settings(world, lookup=True, servers={"primary": server})
    # Only the database of the row tenants: the main one is the superuser's.
    login = changed.login.model_copy(update={"account_query": None})
    return changed.model_copy(update={"login": login})
