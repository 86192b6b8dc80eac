"""Does the chaos proxy do to a real connection what fault tests believe it does?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tests.support.chaos import ChaosProxy, Way


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(postgres.host, postgres.port) as proxy:
        yield proxy


async def connect(postgres: EmbeddedPostgres, proxy: ChaosProxy, timeout: float = 10) -> asyncpg.Connection:
    args = postgres.connect_args()
    args["port"] = proxy.port
    return await asyncpg.connect(**args, timeout=timeout)


async def test_a_query_comes_through_whole_in_one_byte_slices(postgres: EmbeddedPostgres, proxy: ChaosProxy) -> None:
    proxy.slice_size = 1
    conn = await connect(postgres, proxy)
    assert await conn.fetchval("SELECT repeat('x', 2000)") == "x" * 2000
    await conn.close()


async def test_a_delay_is_felt_by_each_message(postgres: EmbeddedPostgres, proxy: ChaosProxy) -> None:
    conn = await connect(postgres, proxy)
    proxy.delay = 0.05
    began = time.monotonic()
    await conn.execute("SELECT 1")
    assert time.monotonic() - began >= 0.1
    proxy.heal()
    await conn.close()


async def test_a_stall_is_silence_until_it_is_healed(postgres: EmbeddedPostgres, proxy: ChaosProxy) -> None:
    conn = await connect(postgres, proxy)
    proxy.stall(Way.TO_CLIENT)
    waiting = asyncio.ensure_future(conn.fetchval("SELECT 1"))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    proxy.heal()
    assert await waiting == 1
    await conn.close()


@pytest.mark.parametrize("way", list(Way))
async def test_a_reset_comes_after_exactly_so_many_bytes(
    postgres: EmbeddedPostgres, proxy: ChaosProxy, way: Way
) -> None:
    conn = await connect(postgres, proxy)
    (link,) = proxy.links
    before = link.passed[way]
    proxy.reset_after(7, way)
    with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)):
        await conn.fetchval("SELECT 1")
    assert link.passed[way] == before + 7
    conn.terminate()


async def test_a_cut_ends_the_connection_and_the_next_one_works(postgres: EmbeddedPostgres, proxy: ChaosProxy) -> None:
    conn = await connect(postgres, proxy)
    proxy.cut_all()
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
        await conn.fetchval("SELECT 1")
    conn.terminate()
    again = await connect(postgres, proxy)
    assert await again.fetchval("SELECT 1") == 1
    await again.close()


async def test_refused_and_deaf_connections_fail_each_in_its_way(postgres: EmbeddedPostgres, proxy: ChaosProxy) -> None:
    proxy.refusing = True
    with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
        await connect(postgres, proxy)
    proxy.heal()
    proxy.unresponsive = True
    with pytest.raises(TimeoutError):
        await connect(postgres, proxy, timeout=0.1)
    assert proxy.accepted == 2
