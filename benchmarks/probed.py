"""A sidecar as `tenantproxy serve` runs it, which says what its event loop and its memory do.

`python -m benchmarks.probed CONFIG` serves until SIGTERM. What it says is at `/probe/...` of its public listener, and
costs nothing until it is asked. A process of its own: what asks it would hold the loop, and weigh, as well.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil  # type: ignore[import-untyped]
from aiohttp import web

from benchmarks.registry_world import Holds
from tenantproxy.config import gather, settled
from tenantproxy.demo.routes import demo_routes
from tenantproxy.metrics.logging import LogObserver
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar, run
from tenantproxy.sidecar.logs import configure_logging
from tenantproxy.sidecar.process import Process

__all__ = ["Probed", "probed", "toml_text"]

_READY_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0
_MOST_TYPES: Final = 4000
_ROOT: Final = Path(__file__).parents[1]


# --- in the process --------------------------------------------------------------------------------------------------
class _Collections:
    """How long the garbage collector took at most, in milliseconds of this thread's own time."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self.count = 0
        self._since = 0.0

    def __call__(self, phase: str, _: Mapping[str, int]) -> None:
        """For `gc.callbacks`."""
        if phase == "start":
            self._since = time.thread_time()
        else:
            self.count += 1
            self.longest_ms = max(self.longest_ms, (time.thread_time() - self._since) * 1e3)


def _probes() -> list[web.AbstractRouteDef]:
    holds: list[tuple[Holds, _Collections]] = []

    async def begin(request: web.Request) -> web.Response:
        collections = _Collections()
        holds.append((Holds(collects=True).__enter__(), collections))
        gc.callbacks.append(collections)
        return web.json_response({})

    async def end(request: web.Request) -> web.Response:
        seen, collections = holds.pop()
        gc.callbacks.remove(collections)
        seen.__exit__()
        return web.json_response(
            {
                "own_ms": seen.longest_ms, "wall_ms": seen.longest_wall_ms, "full_collection_ms": seen.collection_ms,
                "collection_ms": collections.longest_ms, "collections": collections.count,
            }
        )  # fmt: skip

    async def counts(request: web.Request) -> web.Response:
        descriptors = psutil.Process().num_fds()
        return web.json_response({"tasks": len(asyncio.all_tasks()), "descriptors": descriptors})

    async def types(request: web.Request) -> web.Response:
        """How many objects of each type there are, of those that the collector knows: which of them grow?"""
        gc.collect()
        found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
        return web.json_response(dict(found.most_common(_MOST_TYPES)))

    return [
        web.post("/probe/holds", begin),
        web.delete("/probe/holds", end),
        web.get("/probe/counts", counts),
        web.get("/probe/types", types),
    ]


async def _serve(config: Path) -> None:
    def read() -> Any:
        return settled(gather(config), source=str(config))

    settings = read()
    process = Process()
    router = Router(settings, observer=LogObserver())
    service: Sidecar
    routes = [*_probes(), *(demo_routes(router, lambda: service.auth.tokens) if settings.auth.keys() else ())]
    service = Sidecar(router, routes=routes, reread=read, controls=process, drain_timeout=5.0)

    def say() -> None:
        where = {"public": service.public_url, "admin": service.admin_url, "pg": service.pg_address}
        print(json.dumps(where), flush=True)

    await process.run(service, say)


# --- from outside ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One that runs. `http` asks it; `pid` is its process."""

    pid: int
    public: str
    admin: str
    pg_port: int
    http: aiohttp.ClientSession
    is_running: Callable[[], bool]

    async def ask(self, what: str, method: str = "GET") -> Any:
        """What `/probe/{what}` says."""
        async with self.http.request(method, f"{self.public}/probe/{what}") as response:
            response.raise_for_status()
            return await response.json()

    @asynccontextmanager
    async def held(self, found: dict[str, float]) -> AsyncIterator[None]:
        """`found` is how long its loop was held at most during the block: see `Holds`, in milliseconds."""
        await self.ask("holds", "POST")
        try:
            yield
        finally:
            found.update(await self.ask("holds", "DELETE"))


@asynccontextmanager
async def probed(config: Path, log: Path) -> AsyncIterator[Probed]:
    """Run it until the block ends; its standard error goes to `log`. Raises RuntimeError where it does not come up."""
    environment = {name: value for name, value in os.environ.items() if name == "TENANTPROXY_NATIVE" or not (
        name.startswith("TENANTPROXY_"))}  # fmt: skip
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "benchmarks.probed", str(config)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=_ROOT, env=environment,
            start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_READY_SECONDS):
            line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise RuntimeError(f"the sidecar did not come up: {_end_of(log)}")
        where = json.loads(line)
        pg_port = int(where["pg"].rpartition(":")[2])
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
            yield Probed(
                pid=process.pid, public=where["public"], admin=where["admin"], pg_port=pg_port, http=http,
                is_running=lambda: process.poll() is None,
            )  # fmt: skip
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, _END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def toml_text(mapping: Mapping[str, Any], name: str = "") -> str:
    """A configuration as a file has it. JSON's strings, numbers and lists are TOML's, as long as all is ASCII."""
    plain = {key: value for key, value in mapping.items() if not isinstance(value, Mapping)}
    lines = [f"[{name}]"] if name and (plain or not mapping) else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    parts = ["\n".join([*lines, ""])] if lines else []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            parts.append(toml_text(value, f"{name}.{key}" if name else key))
    return "\n".join(parts)


def _main() -> None:
    configure_logging(level="WARNING")
    run(_serve(Path(sys.argv[1])))


if __name__ == "__main__":
    _main()
