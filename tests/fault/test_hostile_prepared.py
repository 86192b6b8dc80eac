"""A tenant leaves prepared transactions behind: do they keep what it has, or hold up others?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tenantproxy import TenantProxyError
from tenantproxy.config import Settings
from tenantproxy.lifecycle.move import MoveOptions, Mover
from tenantproxy.lifecycle.provision import Provisioner, places, wanted
from tenantproxy.lifecycle.status import delete
from tenantproxy.lifecycle.status.saved import FolderBackups
from tenantproxy.model import Isolation
from tests.support.lasting import lasting as kept
from tests.support.owners import an_owner, own_world, settings_of
from tests.support.world import World


@pytest.fixture(scope="module")
def house() -> Iterator[World]:
    with kept(own_world()) as world:
        yield world


@pytest.fixture
def settings(house: World, tmp_path: Path) -> Settings:
    return settings_of(house, tmp_path)


async def prepared(conn: asyncpg.Connection, name: str, *statements: str) -> None:
    await conn.execute("BEGIN")
    for statement in statements:
        await conn.execute(statement)
    await conn.execute(f"PREPARE TRANSACTION '{name}'")


@pytest.mark.parametrize("kind", [Isolation.SCHEMA, Isolation.DATABASE])
async def test_a_tenant_is_saved_and_deleted_whatever_it_has_prepared(
    house: World, settings: Settings, kind: Isolation
) -> None:
    async with an_owner(house, settings, kind) as (want, _, conn):
        await conn.execute("CREATE TABLE things (n int)")
        await prepared(conn, "it''s", "LOCK TABLE things IN ACCESS EXCLUSIVE MODE")
        await prepared(conn, "owns", "CREATE TABLE later (n int)", "GRANT SELECT ON later TO PUBLIC")
        await delete(settings, want.id, grace_days=0, backups=FolderBackups(settings))
    async with house.shared.connect() as admin:
        assert await admin.fetchval("SELECT count(*) FROM pg_prepared_xacts") == 0
        assert await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", want.role) == 0


async def test_what_a_tenant_has_prepared_stops_no_other_ones_move(house: World, settings: Settings) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (_, _, conn):
        await prepared(conn, "mine", "CREATE TABLE later (n int)")
        async with Provisioner(settings).open() as making:
            await making.create(wanted(settings, "goes", isolation=Isolation.ROW))
        async with Mover(settings).open() as mover:
            await mover.move("goes", MoveOptions(isolation=Isolation.SCHEMA))
        await delete(settings, "goes", grace_days=0, no_backup=True)


async def test_who_holds_a_schema_that_is_to_go_is_named(
    house: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_PATIENCE", "300ms")
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        await conn.execute("CREATE TABLE things (n int)")
        async with house.shared.connect() as admin:
            await prepared(admin, "of another", f"LOCK TABLE {want.schema}.things IN ACCESS SHARE MODE")
            await admin.execute(f"BEGIN; LOCK TABLE {want.schema}.things IN ACCESS SHARE MODE")
            pid = await admin.fetchval("SELECT pg_backend_pid()")
            with pytest.raises(
                TenantProxyError, match=rf"'of another' of postgres, the session {pid} of postgres"
            ) as told:
                await delete(settings, want.id, grace_days=0, no_backup=True)
            assert "ROLLBACK PREPARED" in (told.value.hint or "")
            await admin.execute("ROLLBACK")
            await admin.execute("ROLLBACK PREPARED 'of another'")
