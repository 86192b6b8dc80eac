"""Does the login directory follow what applications write into users tables, in every kind of tenant, whatever dies?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.cli import login_sync
from tenantproxy.config import Settings
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.leader import Leadership
from tenantproxy.lifecycle.login_outbox import outbox_places, sync_place
from tests.support.lasting import lasting as kept
from tests.support.logins import HASH, PASSWORD, change, directory, login_settings, populate
from tests.support.mortal import Mortality
from tests.support.world import World, a_world

KINDS: Final = ("row1", "schema1", "database1")


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[World]:
    with kept(a_world(request.getfixturevalue("postgres"), rows=2, schemas=1, databases=1, furnish=users)) as world:
        yield world


async def users(world: World) -> None:
    await populate(world, {"row2": ("other@example.com",)})


def settings_of(world: World) -> Settings:
    admin = {"user": world.server.superuser, "password": world.server.password}
    watch = {"watch_table": "users", "watch_columns": ["email", "is_active"]}
    return login_settings(world, lookup=False, login=watch, servers={"primary": {"admin": admin}})


async def synced(settings: Settings) -> list[dict[str, Any]]:
    rows = await login_sync.sync(settings)
    assert not [row for row in rows if row["error"]], rows
    return rows


@pytest.mark.parametrize("tenant", KINDS)
async def test_the_directory_follows_each_way_in_which_users_change(house: World, tenant: str) -> None:
    settings = settings_of(house)
    assert not [row for row in await login_sync.watch(settings) if row["error"]]
    await login_sync.watch(settings)  # again is the upgrade
    column, value = ("tenant_id, ", f"'{tenant}', ") if tenant == "row1" else ("", "")

    async with Router(settings) as router:

        async def after(sql: str, *args: object) -> set[str]:
            """The application writes as the tenant; the users that the directory has of it then."""
            await router.tenant(tenant).execute(sql, *args)
            assert not [row for row in await login_sync.sync_with(router) if row["error"]]
            return {user for whose, user in await directory(house.main) if whose == tenant}

        await grant(house, tenant)
        insert = f"INSERT INTO users ({column}id, email, password_hash) VALUES ({value}$1, $2, $3)"
        assert await after(insert, "a", "Anna@example.com", HASH) == {"a"}
        assert await after(insert, "b", "ben@example.com", HASH) == {"a", "b"}
        (account,) = await router.login("anna@example.com", PASSWORD)
        assert account.user == "a"
        assert await after("UPDATE users SET email = 'anna@new.example' WHERE id = 'a'") == {"a", "b"}
        found = await router.logins.directory.look_up(router.logins.directory.key("anna@example.com"))
        assert found.entries == (), "the former address has no account there"
        assert await after("UPDATE users SET is_active = false WHERE id = 'a'") == {"b"}
        assert await after("UPDATE users SET is_active = true WHERE id = 'a'") == {"a", "b"}
        assert await after("DELETE FROM users WHERE id = 'b'") == {"a"}
        await change(house, tenant, "TRUNCATE users")
        assert await after("SELECT 1") == set()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await router.tenant(tenant).execute("DELETE FROM tenantproxy_login.changed")


async def grant(house: World, tenant: str) -> None:
    found = next(each for each in house.tenants if each.id == tenant)
    await change(house, tenant, f"GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {house.role_of(found)}")


async def test_a_change_that_is_rolled_back_is_none(house: World) -> None:
    settings = settings_of(house)
    await login_sync.watch(settings)
    await synced(settings)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await change(house, "schema1", "INSERT INTO users (id, email) VALUES ('x', 'x@example.com'); SELECT 1 / 0")
    assert {row["rows"] for row in await synced(settings)} == {0}


async def test_a_process_that_dies_behind_any_statement_leaves_all_to_the_next(house: World) -> None:
    settings = settings_of(house)
    await login_sync.watch(settings)
    place = next(each for each in outbox_places(house.tenants) if not each.shared)
    async with Router(settings) as router:
        for last in range(1, 20):
            await change(house, "database1", "DELETE FROM users")
            await synced(settings)
            values = f"('u{last}', 'anna@example.com', '{HASH}')"
            await change(house, "database1", f"INSERT INTO users (id, email, password_hash) VALUES {values}")
            dying = Mortality(house, last)
            try:
                await sync_place(router, place, dying.connect())
            except (OSError, asyncpg.InterfaceError):
                assert dying.is_dead
            await synced(settings)
            assert ("database1", f"u{last}") in await directory(house.main)
            if not dying.is_dead:
                break
        assert 2 < last < 19


async def test_a_tenant_that_cannot_be_asked_keeps_its_rows_and_holds_up_no_other(house: World) -> None:
    settings = settings_of(house)
    await login_sync.watch(settings)
    await synced(settings)
    await change(house, "schema1", "INSERT INTO users (id, email) VALUES ('s', 's@example.com')")
    await change(house, "row2", "INSERT INTO users (tenant_id, id, email) VALUES ('row2', 'r', 'r@example.com')")
    role = house.role_of(next(each for each in house.tenants if each.id == "schema1"))
    await change(house, "schema1", f"REVOKE SELECT ON users FROM {role}")
    rows = await login_sync.sync(settings)
    (shared,) = [row for row in rows if row["error"]]
    assert (shared["rows"], shared["left"]) == (1, 1)
    assert "42501" in shared["error"]
    await grant(house, "schema1")
    assert sum(row["rows"] for row in await synced(settings)) == 1
    assert {("schema1", "s"), ("row2", "r")} <= await directory(house.main)


async def test_no_cast_of_the_users_tables_owner_runs_with_the_outboxes_rights(house: World) -> None:
    settings = settings_of(house)
    await change(
        house, "schema1",
        "CREATE TYPE mood AS ENUM ('sad');"
        " CREATE FUNCTION ran(mood) RETURNS json LANGUAGE plpgsql AS $$BEGIN RAISE 'ran as %', current_user; END$$;"
        " CREATE CAST (mood AS json) WITH FUNCTION ran(mood);"
        " ALTER TABLE users ADD COLUMN mood mood DEFAULT 'sad'",
    )  # fmt: skip
    await login_sync.watch(settings)
    await synced(settings)
    await grant(house, "schema1")
    async with Router(settings) as router:
        await router.tenant("schema1").execute("INSERT INTO users (id, email) VALUES ('m', $1)", "m@example.com")
    assert sum(row["rows"] for row in await synced(settings)) == 1
    assert ("schema1", "m") in await directory(house.main)


async def test_an_address_that_can_be_none_takes_no_room_in_the_outbox(house: World) -> None:
    settings = settings_of(house)
    await login_sync.watch(settings)
    await synced(settings)
    await change(house, "row1", "INSERT INTO users (tenant_id, id, email) VALUES ('row1', 'l', repeat('x', 1000000))")
    async with house.shared.connect() as admin:
        assert await admin.fetchval("SELECT max(length(email)) FROM tenantproxy_login.changed") == 400
    assert sum(row["rows"] for row in await synced(settings)) == 1


async def test_an_outbox_that_another_role_has_made_is_neither_used_nor_emptied(house: World) -> None:
    settings = settings_of(house)
    role = house.role_of(next(each for each in house.tenants if each.id == "database1"))
    made = (
        f"DROP SCHEMA IF EXISTS tenantproxy_login CASCADE; CREATE SCHEMA tenantproxy_login AUTHORIZATION {role};"
        f" SET ROLE {role}; CREATE TABLE tenantproxy_login.changed (id bigint, place text, tenant text, email text);"
        " INSERT INTO tenantproxy_login.changed (id, place) VALUES (1, 'public');"
        " CREATE FUNCTION tenantproxy_login.ran() RETURNS trigger LANGUAGE plpgsql"
        " AS $$BEGIN RAISE 'ran as %', current_user; END$$;"
        " CREATE TRIGGER ran BEFORE DELETE ON tenantproxy_login.changed FOR EACH ROW"
        " EXECUTE FUNCTION tenantproxy_login.ran()"
    )
    await change(house, "database1", made)
    try:
        for rows in (await login_sync.watch(settings), await login_sync.sync(settings)):
            (refused,) = [row for row in rows if row["error"]]
            assert "another role" in refused["error"]
    finally:
        await change(house, "database1", "DROP SCHEMA tenantproxy_login CASCADE; DROP FUNCTION IF EXISTS ran")


async def test_of_all_processes_one_leads_until_it_resigns_or_is_silent(house: World) -> None:
    first, second = Leadership("a try", ttl=60.0), Leadership("a try", ttl=60.0)
    async with house.main.connect() as admin, house.main.connect() as other:
        for _ in range(2):
            assert await first.claim(admin)
            assert not await second.claim(other)
        await admin.execute("UPDATE tenantproxy.leaders SET seen_at = now() - interval '61 seconds'")
        assert await second.claim(other)
        assert not await first.claim(admin), "who was silent has to ask again"
        await first.resign(admin)
        assert not await first.claim(admin), "it was not its own to give up"
        await second.resign(other)
        assert await first.claim(admin)
        assert await Leadership("other work", ttl=60.0).claim(other)


async def test_an_outbox_is_read_by_one_process_at_a_time_and_is_written_meanwhile(house: World) -> None:
    settings = settings_of(house)
    await login_sync.watch(settings)
    await synced(settings)
    place = next(each for each in outbox_places(house.tenants) if not each.shared)
    async with Router(settings) as router, house.database(place.homes["public"]).connect() as reading:
        async with reading.transaction():
            await reading.execute("LOCK TABLE tenantproxy_login.changed IN SHARE UPDATE EXCLUSIVE MODE")
            await change(house, "database1", "INSERT INTO users (id, email) VALUES ('w', 'w@example.com')")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await sync_place(router, place, admin_connect(settings), lock_timeout=0.05)
            assert sum(row["left"] for row in await login_sync.sync(settings, dry_run=True)) == 1
        assert (await sync_place(router, place, admin_connect(settings))).rows == 1
    assert ("database1", "w") in await directory(house.main)
