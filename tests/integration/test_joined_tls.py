"""Do joined writes arrive whole and in order whatever carries them? TLS or not, asyncio's loop or uvloop's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.driver.behind import ResetBehind
from tests.support.tls import TlsProxy, certificate
from tests.support.world import SERVER, World


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"), host="127.0.0.1")


async def _work(settings: Settings) -> None:
    async with Router(settings) as router:
        pids = set()
        for tenant in ("database1", "schema1", "row1", "row2") * 3:
            scope = router.tenant(tenant)
            pids.add(await scope.fetchval("SELECT pg_backend_pid(), set_config('work_mem', '5MB', false)"))
            text = await scope.fetchval("SELECT $1::text, min(name) FROM projects", "x" * 100_000)
            assert len(text) == 100_000
            for _ in range(2):
                async with scope.transaction() as conn:
                    assert await conn.fetchval("SELECT min(name) FROM projects") == f"{tenant} 1"
            assert await scope.fetchval("SHOW work_mem") != "5MB"
        assert len(pids) == 3
        assert router.stats().resets["failed"] == 0


def _run_uvloop(work: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed: pip install uvloop")
    uvloop.run(work)


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-full"])
@pytest.mark.parametrize("run", [asyncio.run, _run_uvloop], ids=["asyncio", "uvloop"])
async def test_what_is_joined_arrives_as_one(
    world: World,
    pem: Path,
    mode: str,
    run: Callable[[Coroutine[Any, Any, None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sys.platform == "win32" and run is not asyncio.run:
        pytest.skip("uvloop does not run on Windows")
    begun: list[ResetBehind] = []
    begin = ResetBehind.begin

    def noting(behind: ResetBehind) -> None:
        begun.append(behind)
        begin(behind)

    monkeypatch.setattr(ResetBehind, "begin", noting)
    async with TlsProxy(world.server.host, world.server.port, pem) as proxy:
        keys = {"host": proxy.host, "port": proxy.port, "ssl": mode}
        if mode == "verify-full":
            keys["ssl_root_cert_file"] = str(pem)
        settings = world.settings(servers={SERVER: keys}, pools={"max_size": 1, "shared_size": 1})
        await asyncio.to_thread(run, _work(settings))  # the proxy works in the loop of the test
        assert bool(proxy.secured) == (mode != "disable")
    assert len(begun) > 20
    assert all(one.is_confirmed for one in begun)
