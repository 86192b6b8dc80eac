"""Which tenant does `current()` name where no request is served? In listeners and internal tasks: none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router, TenantScope, current, use
from tenantproxy.driver.guard import Guard
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import AccessDenied, TenantUnresolved
from tests.support.leases import one_connection, pid_of
from tests.support.waiting import until
from tests.support.world import World, a_world

COPY = "SELECT pg_catalog.repeat('x', 100) FROM pg_catalog.generate_series(1, 5000)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


class Ears:
    """Listeners of every sort, plain and async, that note whom `current()` names when they are called."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []

    def plain(self, kind: str) -> Callable[..., None]:
        return lambda *_: self._note(kind)

    def slow(self, kind: str) -> Callable[..., Awaitable[None]]:
        async def call(*_: object) -> None:
            await asyncio.sleep(0)
            self._note(kind)

        return call

    def _note(self, kind: str) -> None:
        try:
            self.heard.append((kind, current().id))
        except TenantUnresolved:
            self.heard.append((kind, None))

    async def listen(self, conn: Guard) -> None:
        calls: tuple[Callable[[str], Callable[..., Any]], ...] = (self.plain, self.slow)
        for call in calls:
            await conn.add_listener("news", call("notification"))
            conn.add_log_listener(call("log"))
            conn.add_termination_listener(call("termination"))

    async def hear(self, conn: Guard) -> None:
        """Let each of them be called."""
        await conn.execute("NOTIFY news; DO $$ BEGIN RAISE WARNING 'news'; END $$")
        await until(lambda: len(self.heard) >= 4, "notifications and notices come")
        await conn.close()
        await until(lambda: len(self.heard) >= 6, "the end is heard")


async def _open_as(scope: TenantScope) -> int:
    """Let the connection be opened, and its statements be run for the first time, by a request of this tenant."""
    with use(scope):
        return await pid_of(scope)


async def _copy_as(scope: TenantScope) -> int:
    """COPY stops and resumes reading, which moves the reader of the transport into the context of who resumes it."""
    size = 0

    async def sink(data: bytes) -> None:
        nonlocal size
        size += len(data)

    with use(scope):
        async with scope.connection() as conn:
            await conn.copy_from_query(COPY, output=sink)
            pid = conn.get_server_pid()
    assert size
    return pid


async def _time_out_as(scope: TenantScope) -> int:
    with use(scope):
        async with scope.connection() as conn:
            with pytest.raises(TimeoutError):
                await conn.execute("SELECT pg_catalog.pg_sleep(60)", timeout=0.01)
            return conn.get_server_pid()


@pytest.mark.parametrize("before", [_open_as, _copy_as, _time_out_as])
@pytest.mark.parametrize("asker", ["row1", None])
async def test_a_listener_never_sees_the_tenant_that_had_the_connection_before(
    one_world: World, before: Callable[[TenantScope], Awaitable[int]], asker: str | None
) -> None:
    ears = Ears()
    async with one_connection(one_world) as router:
        opened = await before(router.tenant("row2"))
        scope = router.tenant("row1")
        if asker is None:
            async with scope.connection() as conn:
                await ears.listen(conn)
                pid = conn.get_server_pid()
                await ears.hear(conn)
        else:
            with use(scope):
                async with scope.connection() as conn:
                    await ears.listen(conn)
                    pid = conn.get_server_pid()
                    await ears.hear(conn)
        assert pid == opened
    assert sorted(ears.heard, key=str) == sorted([(kind, None) for kind in ("log", "notification", "termination")] * 2)


async def test_a_listener_sees_nobody_while_its_own_tenant_copies(one_world: World) -> None:
    ears = Ears()
    async with one_connection(one_world) as router:
        scope = router.tenant("row1")

        async def sink(_: bytes) -> None:
            async with router.tenant("schema1").connection() as other:
                await other.execute("NOTIFY news")

        with use(scope):
            async with scope.connection() as conn:
                await conn.add_listener("news", ears.plain("notification"))
                await conn.copy_from_query(COPY, output=sink)
                await conn.fetchval("SELECT 1")
                await until(lambda: ears.heard, "the notification comes")
    assert set(ears.heard) == {("notification", None)}


def _tenant_in(context: Context) -> str | None:
    try:
        return context.copy().run(current).id
    except TenantUnresolved:
        return None


async def test_what_runs_for_the_router_runs_for_nobody(one_world: World) -> None:
    seen: list[str | None] = []

    async def init(_: asyncpg.Connection) -> None:
        seen.append(_tenant_in(copy_context()))

    def spy(loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None, **rest: Any) -> Any:
        seen.append(_tenant_in(context if context is not None else copy_context()))
        return asyncio.Task(coro, loop=loop, context=context, **rest)

    asyncio.get_running_loop().set_task_factory(spy)
    settings = one_world.settings(pools={"max_size": 1, "shared_size": 1})
    async with Router(settings, init=init) as router:
        for tenant in ("row1", "row2", "schema1", "database1"):
            scope = router.tenant(tenant)
            with use(scope):
                await pid_of(scope)  # a lookup, a connect, a reset
                await _leave_open(scope)
                await pid_of(scope)
                assert current() is scope
    assert len(seen) > 10
    assert set(seen) == {None}


async def _leave_open(scope: TenantScope) -> None:
    async with scope.connection() as conn:
        await conn.execute("BEGIN")


async def test_a_task_started_in_the_block_keeps_its_tenant_after_the_block(one_world: World) -> None:
    async with one_connection(one_world, pools={"max_size": 5, "shared_size": 5}) as router:

        async def names() -> tuple[str, list[str]]:
            await asyncio.sleep(0)
            scope = current()
            return scope.id, [row["name"] for row in await scope.fetch("SELECT name FROM projects ORDER BY name")]

        tasks = []
        for tenant in ("row1", "row2", "schema1", "database2"):
            with use(router.tenant(tenant)):
                tasks.append(asyncio.create_task(names()))
        with pytest.raises(TenantUnresolved, match="middleware"):
            current()
        for tenant, answer in zip(("row1", "row2", "schema1", "database2"), await asyncio.gather(*tasks), strict=True):
            assert answer == (tenant, [f"{tenant} {n}" for n in (1, 2, 3)])


async def test_blocks_of_different_tenants_do_not_nest_and_those_of_one_do(one_world: World) -> None:
    async with one_connection(one_world) as router:
        one, other = router.tenant("row1"), router.tenant("row2")
        with use(one):
            with use(router.tenant("row1")) as inner:
                assert current() is inner
            assert current() is one
            with pytest.raises(AccessDenied, match=r"row1.*row2.*leave the outer"), use(other):
                pytest.fail("it was let in")
            assert current() is one
        with use(other):
            assert current() is other
