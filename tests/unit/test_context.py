"""Which tenant does code run for, when generators, tasks and threads come and go?"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import pickle
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any

import pytest

import tenantproxy
from tenantproxy import AccessDenied, TenantScope, TenantUnresolved
from tenantproxy.model import TenantId

ROUTER: Any = None  # no scope of these tests is asked for a connection
ACME, GLOBEX = (TenantScope(ROUTER, TenantId(name)) for name in ("acme", "globex"))


def who() -> str:
    try:
        return str(tenantproxy.current().id)
    except TenantUnresolved:
        return "none"


async def stream(scope: TenantScope) -> AsyncGenerator[str, None]:
    with tenantproxy.use(scope):
        yield who()
        yield who()


def sync_stream(scope: TenantScope) -> Generator[str, None, None]:
    with tenantproxy.use(scope):
        yield who()
        yield who()


async def test_a_suspended_async_generator_leaves_its_caller_as_it_was() -> None:
    rows = stream(ACME)
    assert await anext(rows) == "acme"
    assert who() == "none"
    with tenantproxy.use(GLOBEX):
        assert who() == "globex"
    assert await anext(rows) == "acme"
    assert who() == "none"
    await rows.aclose()
    assert who() == "none"


async def test_a_suspended_generator_leaves_its_caller_as_it_was() -> None:
    with tenantproxy.use(ACME):
        rows = sync_stream(ACME)
        assert [next(rows), who()] == ["acme", "acme"]
    assert who() == "none"
    assert next(rows) == "acme"
    rows.close()
    assert who() == "none"


@contextlib.contextmanager
def managed(scope: TenantScope) -> Generator[None, None, None]:
    with tenantproxy.use(scope):
        yield


@contextlib.asynccontextmanager
async def managed_by_await(scope: TenantScope) -> AsyncGenerator[None, None]:
    with managed(scope):
        yield


@pytest.mark.parametrize("how", ["manager", "awaited manager", "exit stack"])
async def test_a_context_manager_in_a_generator_leaves_the_caller_as_it_was(how: str) -> None:
    async def rows() -> AsyncGenerator[str, None]:
        async with contextlib.AsyncExitStack() as stack:
            if how == "manager":
                stack.enter_context(managed(ACME))
            elif how == "awaited manager":
                await stack.enter_async_context(managed_by_await(ACME))
            else:
                stack.enter_context(tenantproxy.use(ACME))
            yield who()
            yield who()

    some = rows()
    assert [await anext(some), who()] == ["acme", "none"]
    with tenantproxy.use(GLOBEX):
        assert who() == "globex"
    assert [await anext(some), who()] == ["acme", "none"]
    await some.aclose()
    assert who() == "none"


async def test_an_abandoned_generator_leaves_its_caller_as_it_was() -> None:
    async for name in stream(ACME):
        assert name == "acme"
        break
    assert who() == "none"
    gc.collect()  # the loop closes it in a task of its own
    for _ in range(5):
        await asyncio.sleep(0)
    assert who() == "none"
    with tenantproxy.use(GLOBEX):
        assert who() == "globex"
    assert who() == "none"


async def test_a_generator_resumed_in_a_later_block_of_its_caller_is_refused() -> None:
    rows = stream(ACME)
    await anext(rows)
    with tenantproxy.use(GLOBEX):
        with pytest.raises(AccessDenied, match="resumed"):
            await anext(rows)
        assert who() == "globex"
    assert who() == "none"


async def test_two_generators_of_two_tenants_can_be_read_in_turn() -> None:
    one, other = stream(ACME), stream(GLOBEX)
    assert await anext(one) == "acme"
    assert await anext(other) == "globex"
    assert who() == "none"
    for each in (one, other):
        await each.aclose()
    assert who() == "none"


async def test_a_generator_that_calls_code_of_the_same_tenant_may_nest() -> None:
    async def nested() -> AsyncIterator[str]:
        with tenantproxy.use(ACME):
            with tenantproxy.use(ACME):
                yield who()
            yield who()

    assert [name async for name in nested()] == ["acme", "acme"]
    assert who() == "none"


async def later() -> str:
    await asyncio.sleep(0)
    return who()


async def test_tasks_started_while_a_generator_is_suspended_have_no_tenant() -> None:
    rows = stream(ACME)
    assert await anext(rows) == "acme"
    assert await asyncio.create_task(later()) == "none"
    assert await asyncio.to_thread(who) == "none"
    await rows.aclose()


async def test_tasks_started_in_a_generators_block_enter_their_own() -> None:
    async def own() -> list[str]:
        with tenantproxy.use(ACME):
            return [await later(), await asyncio.create_task(later())]

    async def starting() -> AsyncIterator[list[asyncio.Task[Any]]]:
        with tenantproxy.use(ACME):
            yield [asyncio.create_task(later()), asyncio.create_task(own())]

    async for one, other in starting():
        assert await one == "none"
        assert await other == ["acme", "acme"]


async def test_a_task_of_a_generator_resumed_in_a_later_block_is_refused() -> None:
    async def starting() -> AsyncIterator[str]:
        with tenantproxy.use(ACME):
            yield who()
            yield await asyncio.create_task(later())

    rows = starting()
    await anext(rows)
    with tenantproxy.use(GLOBEX), pytest.raises(AccessDenied):
        await anext(rows)
    assert who() == "none"


async def test_a_context_manager_with_yield_sets_it_for_its_block() -> None:
    @contextlib.asynccontextmanager
    async def tenant_of_the_job() -> AsyncIterator[None]:
        with tenantproxy.use(ACME):
            yield

    async with tenant_of_the_job():
        assert who() == "acme"
    assert who() == "none"


async def test_a_block_that_ends_in_another_context_raises_nothing() -> None:
    dependency = sync_stream(ACME)
    assert contextvars.copy_context().run(next, dependency) == "acme"  # as a thread pool runs a sync dependency
    assert who() == "none"
    contextvars.copy_context().run(dependency.close)
    assert who() == "none"


async def test_a_block_left_in_another_task_ends_where_it_began_too() -> None:
    block = tenantproxy.use(ACME)
    block.__enter__()
    assert who() == "acme"
    await asyncio.create_task(_leave(block))
    assert who() == "none"


async def _leave(block: Any) -> None:
    block.__exit__(None, None, None)


def test_a_decorated_function_has_a_block_for_each_call() -> None:
    @tenantproxy.use(ACME)
    def job(depth: int) -> str:
        return job(depth - 1) if depth else who()

    assert [job(2), who(), job(0)] == ["acme", "none", "acme"]


def test_a_block_of_another_tenant_is_refused_inside() -> None:
    with tenantproxy.use(ACME):
        with pytest.raises(AccessDenied), tenantproxy.use(GLOBEX):
            pass
        assert who() == "acme"
    assert who() == "none"


def test_a_scope_that_is_pickled_says_what_to_pass_instead() -> None:
    with pytest.raises(TypeError, match=r"router\.tenant\(id\)"):
        pickle.dumps(ACME)
