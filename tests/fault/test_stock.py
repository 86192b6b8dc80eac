"""Is a database of the stock whole, one tenant's alone, and gone without a trace when a process dies around it?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy import Router, TenantProxyError
from tenantproxy.config import Settings
from tenantproxy.lifecycle.provision import Provisioner, ProvisioningFailed, Saga, SagaState, wanted
from tests.fault.conftest import own_world
from tests.fault.test_provisioning import gone_for_long, settings_of
from tests.support.lasting import lasting as kept
from tests.support.made_tenants import everything, remove
from tests.support.mortal import Mortality
from tests.support.waiting import until
from tests.support.world import World

EVERY: Final = int(os.environ.get("TENANTPROXY_TEST_EVERY", "19"))  # behind which statements a process dies; 1: each


@pytest.fixture(scope="module")
def house() -> Iterator[World]:
    with kept(own_world()) as world:
        yield world


def making(world: World, settings: Settings, life: Mortality | None = None, *, refill: bool = False) -> Provisioner:
    return Provisioner(settings, (life or Mortality(world)).connect(), refill=refill)


def with_migration(world: World, folder: Path, **provision: Any) -> Settings:
    own = folder / "migrations"
    own.mkdir()
    (own / "1_due.sql").write_text("ALTER TABLE projects ADD due date")
    made = settings_of(world, folder, **provision)
    return made.model_copy(update={"migrations": made.migrations.model_copy(update={"folder": str(own)})})


async def emptied(world: World, settings: Settings) -> None:
    async with making(world, settings).open() as provisioner:
        await provisioner.fill_stock(most=0)


async def shelf(world: World) -> list[tuple[str, str]]:
    """What is written down, and that exactly these databases are there."""
    async with world.main.connect() as conn:
        rows = await conn.fetch("SELECT mark, state FROM tenantproxy.stock ORDER BY created_at")
        there = await conn.fetch("SELECT datname::text FROM pg_database WHERE datname LIKE 'tenantproxy\\_new\\_%'")
    assert {row[0] for row in there} == {f"tenantproxy_new_{row['mark']}" for row in rows}
    return [(row["mark"], row["state"]) for row in rows]


async def test_a_tenant_takes_a_whole_database_of_the_stock_and_others_cannot_look_into_it(
    house: World, tmp_path: Path
) -> None:
    settings = with_migration(house, tmp_path, stock=1)
    before = await everything(house)
    async with making(house, settings).open() as provisioner:
        assert await provisioner.fill_stock() == 1
        assert await provisioner.fill_stock() == 0
        ((mark, state),) = await shelf(house)
        assert state == "ready"
        async with house.main.connect() as conn:
            for role in ("app", "public"):
                query = "SELECT has_database_privilege($1, $2, 'CONNECT')"
                assert not await conn.fetchval(query, role, f"tenantproxy_new_{mark}")
            oid = await conn.fetchval("SELECT oid FROM pg_database WHERE datname = $1", f"tenantproxy_new_{mark}")
        saga = await provisioner.create(wanted(settings, "acme"))
        assert (saga.state, saga.database, saga.stocked) == (SagaState.ACTIVE, oid, mark)
        assert await shelf(house) == []
        from_nothing = await provisioner.create(wanted(settings, "globex"))
        assert from_nothing.stocked is None
    async with Router(settings) as router:
        for name in ("acme", "globex"):
            assert await router.tenant(name).fetchval("SELECT count(due) FROM projects WHERE name = 'the first'") == 0
    for each in (saga, from_nothing):
        await remove(house, each.wanted)
    assert await everything(house) == before


@pytest.mark.parametrize("ending", ["fill", "empty"])
async def test_a_process_that_dies_while_it_fills_the_stock_leaves_none_half_made(
    house: World, tmp_path: Path, ending: str
) -> None:
    settings = with_migration(house, tmp_path, stock=2, parallel=1)
    before = await everything(house)
    await emptied(house, settings)
    last = 0
    while True:
        last += EVERY
        dying = Mortality(house, last)
        try:
            async with making(house, settings, dying).open() as provisioner:
                await provisioner.fill_stock()
        except (TenantProxyError, OSError, asyncpg.InterfaceError):
            assert dying.is_dead
        await silent(house)
        async with making(house, settings).open() as provisioner:
            await provisioner.fill_stock(most=2 if ending == "fill" else 0)
        assert [state for _, state in await shelf(house)] == (["ready"] * 2 if ending == "fill" else [])
        await emptied(house, settings)
        if not dying.is_dead:
            break
    assert last > 2 * EVERY
    assert await everything(house) == before


async def silent(world: World) -> None:
    """Who filled the stock has been silent for longer than the others wait."""
    await gone_for_long(world)
    async with world.main.connect() as conn:
        await conn.execute("UPDATE tenantproxy.stock SET seen_at = now() - interval '5 minutes'")


async def test_a_process_that_dies_while_it_takes_one_loses_neither_it_nor_the_tenant(
    house: World, tmp_path: Path
) -> None:
    settings = settings_of(house, tmp_path, stock=1)
    before = await everything(house)
    last = 0
    while True:
        last += EVERY
        async with making(house, settings).open() as provisioner:
            await provisioner.fill_stock()
        dying, saga = Mortality(house, last), None
        try:
            async with making(house, settings, dying).open() as provisioner:
                saga = await provisioner.create(wanted(settings, "acme"), key=f"stock {last}")
        except (ProvisioningFailed, OSError, asyncpg.InterfaceError):
            assert dying.is_dead
        await silent(house)
        async with making(house, settings).open() as provisioner:
            for left in await provisioner.store.unfinished():
                saga = await provisioner.finish(left)
                assert saga.state is SagaState.ACTIVE
        await shelf(house)
        if saga is not None:
            await remove(house, saga.wanted)
        else:
            assert last <= EVERY, "it was dead before it had begun"
        if not dying.is_dead:
            break
    await emptied(house, settings)
    assert await everything(house) == before


async def test_two_that_fill_and_two_that_take_at_once_come_to_what_was_asked(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, stock=2)
    before = await everything(house)
    async with making(house, settings).open() as one, making(house, settings).open() as two:
        assert sum(await asyncio.gather(one.fill_stock(), two.fill_stock())) == 2
        sagas = await asyncio.gather(*(each.create(wanted(settings, f"t{n}")) for n, each in enumerate((one, two))))
        assert len({saga.stocked for saga in sagas} - {None}) == 2
        assert await shelf(house) == []
    for saga in sagas:
        await remove(house, saga.wanted)
    assert await everything(house) == before


async def test_what_was_stocked_for_other_files_is_removed_and_taken_by_none(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, stock=1)
    async with making(house, settings).open() as provisioner:
        await provisioner.fill_stock()
        ((former, _),) = await shelf(house)
    changed = settings_of(house, tmp_path, "CREATE TABLE projects (id int); CREATE TABLE more (id int)", stock=1)
    async with making(house, changed).open() as provisioner:
        saga = await provisioner.create(wanted(changed, "acme"))
        assert saga.stocked is None
        assert await provisioner.fill_stock() == 1
        ((now, _),) = await shelf(house)
        assert now != former
    await remove(house, saga.wanted)
    await emptied(house, changed)


async def test_one_that_was_dropped_by_hand_is_passed_over(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, stock=2, parallel=1)
    async with making(house, settings).open() as provisioner:
        await provisioner.fill_stock()
        (first, _), (second, _) = await shelf(house)
        async with house.main.connect() as conn:
            await conn.execute(f"DROP DATABASE tenantproxy_new_{first}")
        saga = await provisioner.create(wanted(settings, "acme"))
        assert saga.stocked == second
    await remove(house, saga.wanted)


async def test_the_stock_is_filled_again_in_the_background(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, stock=1)
    async with making(house, settings, refill=True).open() as provisioner:

        async def is_full() -> bool:
            return [each.ready for each in await provisioner.stocked()] == [1]

        await until(is_full, "the stock is full")
        sagas: list[Saga] = []
        for number in range(2):
            sagas.append(await provisioner.create(wanted(settings, f"t{number}")))
            await until(is_full, "the stock is full")
        assert all(saga.stocked is not None for saga in sagas)
    for saga in sagas:
        await remove(house, saga.wanted)
    await emptied(house, settings)
