"""Does the timeout of a COPY bound the other side of it too?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy.driver.guard import Guard
from tests.support.leases import one_connection, own_rows, rows_of
from tests.support.world import World

TIMEOUT: Final = 0.5
LONG: Final = 3600.0  # no test waits for it


async def slow_records() -> AsyncIterator[tuple[str]]:
    yield ("first",)
    await asyncio.sleep(LONG)
    yield ("never",)


async def slow_bytes() -> AsyncIterator[bytes]:
    yield b"first\n"
    await asyncio.sleep(LONG)
    yield b"never\n"


async def slow_sink(data: bytes) -> None:
    await asyncio.sleep(LONG)


Act = Callable[[Any], Any]
ACTS: Final[dict[str, Act]] = {
    "records": lambda on: on.copy_records_to_table(
        "projects", records=slow_records(), columns=["name"], timeout=TIMEOUT
    ),
    "bytes": lambda on: on.copy_to_table("projects", source=slow_bytes(), columns=["name"], timeout=TIMEOUT),
    "rows": lambda on: on.copy_from_query("SELECT repeat('x', 100000)", output=slow_sink, timeout=TIMEOUT),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("through", ["scope", "connection"])
async def test_a_slow_side_of_a_copy_meets_its_timeout(world: World, act: str, through: str) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("schema1")
        pid = await scope.fetchval("SELECT pg_backend_pid()")
        started = monotonic()
        with pytest.raises(TimeoutError):
            await _run(scope, ACTS[act], through)
        assert monotonic() - started < LONG / 100
        assert await own_rows(scope) == rows_of("schema1")  # nothing of it was written
        assert await scope.fetchval("SELECT pg_backend_pid()") != pid


async def _run(scope: Any, act: Act, through: str) -> None:
    if through == "scope":
        await act(scope)
        return
    async with scope.connection() as conn:
        try:
            await act(conn)
        finally:
            _assert_ended(conn)


def _assert_ended(conn: Guard) -> None:
    assert conn.is_closed()


async def test_a_copy_within_its_timeout_is_written(world: World) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("schema1")
        tag = await scope.copy_records_to_table("projects", records=[("zz",)], columns=["name"], timeout=60.0)
        assert tag == "COPY 1"
        assert await own_rows(scope) == [*rows_of("schema1"), "zz"]


async def test_copying_into_a_table_under_row_security_says_what_to_do(world: World) -> None:
    async with one_connection(world) as router:
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await router.tenant("row1").copy_records_to_table("projects", records=[("zz",)], columns=["name"])
