"""Can a router be used in one event loop after another, and is every other use refused?"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import pytest

from tenantproxy import PoolClosed, Router
from tests.support.leases import own_rows, rows_of
from tests.support.waiting import until
from tests.support.world import World

T = TypeVar("T")

# Scripts of their own: a loop that ends with open transports is what they are about, and each transport warns of that.
_SCRIPT: Final = """
import asyncio, sys
from tenantproxy import Router
router = Router.from_file(sys.argv[1])
async def script():
    await router.open()
    return [row["name"] for row in await router.tenant(sys.argv[2]).fetch("SELECT name FROM projects ORDER BY name")]
for _ in range(3):
    print(*asyncio.run(script()), router.is_open, sep="|")
    assert router.stats().servers[0].connections <= 5, router.stats()
asyncio.run(router.close())
print("closed", router.is_open)
async def look():
    async with router:
        for _ in range(1000):
            own = {pool.used + pool.idle for pool in router.stats().pools}
            there = await router.main().fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
            if there <= sum(own) + 2:
                return "no other backend"
            await asyncio.sleep(0.05)
        return there
print(asyncio.run(look()))
"""
_REQUESTS: Final = """
import asyncio, sys
from tenantproxy import Router
from tenantproxy.middleware.asgi import TenantMiddleware
router = Router.from_file(sys.argv[1])
async def answer(scope, receive, send):
    await router.tenant("row1").execute("SELECT 1")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
app = TenantMiddleware(answer, router=router)
async def request():
    sent = []
    async def send(message):
        sent.append(message)
    await app({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send)
    return sent[0]["status"]
print(asyncio.run(request()), asyncio.run(request()))
"""


async def _run(world: World, tmp_path: Path, script: str, *args: str) -> list[str]:
    config = tmp_path / "tenantproxy.toml"
    config.write_text(world.toml())
    command = [sys.executable, "-c", script, str(config), *args]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, cwd=Path.cwd())
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def in_a_loop_of_its_own(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` as a script does, by `asyncio.run` in a thread."""

    async def main() -> T:
        return await work()

    return await asyncio.to_thread(lambda: asyncio.run(main()))


@pytest.mark.parametrize("tenant", ["row1", "schema1", "database1"])
async def test_each_asyncio_run_opens_a_router_left_open_again(world: World, tenant: str, tmp_path: Path) -> None:
    said = await _run(world, tmp_path, _SCRIPT, tenant)
    assert said == ["|".join([*rows_of(tenant), "True"])] * 3 + ["closed False", "no other backend"]


async def test_requests_of_a_second_loop_open_the_router_again(world: World, tmp_path: Path) -> None:
    assert await _run(world, tmp_path, _REQUESTS) == ["200 200"]


async def test_a_router_closed_in_one_loop_listens_in_the_next(world: World) -> None:
    router = Router(world.settings(registry="postgres"))

    async def script() -> bool:
        async with router:
            await own_rows(router.tenant("row1"))
            await until(router.listener.listening.is_set, "it listens")
            return True

    for _ in range(2):
        assert await in_a_loop_of_its_own(script)


async def test_open_and_close_in_another_living_loop_are_refused(world: World) -> None:
    async with Router(world.settings()) as router:
        for call in (router.open, router.close, router.tenant("row1").connection().__aenter__):
            with pytest.raises(PoolClosed, match="another event loop"):
                await in_a_loop_of_its_own(call)
        assert await own_rows(router.tenant("row1")) == rows_of("row1")


async def test_a_forked_child_is_refused_and_harms_no_connection_of_its_parent(world: World) -> None:
    async with Router(world.settings()) as router:
        pid = await router.tenant("row1").fetchval("SELECT pg_backend_pid()")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _in_the_child(router, writer)
        os.close(writer)
        said = await asyncio.to_thread(_read_all, reader)
        await asyncio.to_thread(os.waitpid, child, 0)
        assert said.splitlines() == ["refused", "refused", *rows_of("row1"), "closed"]
        assert await router.tenant("row1").fetchval("SELECT pg_backend_pid()") == pid


def _read_all(descriptor: int) -> str:
    with os.fdopen(descriptor) as file:
        return file.read()


def _in_the_child(router: Router, writer: int) -> NoReturn:
    async def use_it() -> list[str]:
        said = []
        for call in (router.close, router.tenant("row1").connection().__aenter__):
            try:
                await call()
            except PoolClosed as exc:
                said.append("refused" if "another process" in str(exc) else str(exc))
        async with router:
            said += await own_rows(router.tenant("row1"))
        return [*said, "closed"]

    try:
        said = asyncio.run(use_it())
    except BaseException as exc:  # noqa: BLE001 - told to the parent
        said = [repr(exc)]
    try:
        os.write(writer, "\n".join(said).encode())
    finally:
        os._exit(0)  # nothing of the test's process may run its end here
