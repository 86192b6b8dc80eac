"""How long do processes serve a tenant that was suspended? Two that use it all the time, for each kind of place."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import percentile
from benchmarks.part import Options, Part
from benchmarks.table import at_most, figure, render
from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.provision import Provisioner, wanted
from tenantproxy.lifecycle.provisioner import provision_shared
from tenantproxy.lifecycle.status import resume, suspend
from tenantproxy.model import Isolation

if TYPE_CHECKING:
    from benchmarks.lifecycle import LifeWorld

__all__ = ["Callers", "callers", "stopping", "times"]

PROCESSES: Final = 2
ROUNDS: Final = 20
SECONDS: Final = 1.0
_SHARED: Final = "status_shared"
_ROOT: Final = Path(__file__).parents[1]
_PAUSE: Final = 0.001
_APP: Final = "bench_app"
_CALL: Final = "SELECT count(*) FROM projects"
_RUN: Final = "import asyncio; from benchmarks.lifecycle_status import call_all; asyncio.run(call_all())"


async def call_all() -> None:
    """What each process does: call as each tenant, and say when that begins to be served, or refused.

    The first line of standard input has the configuration and the tenants, for it holds passwords.
    """
    given = json.loads(sys.stdin.readline())
    async with Router(Settings.from_mapping(given["mapping"])) as router:
        await router.listener.listening.wait()
        async with asyncio.TaskGroup() as tasks:
            for tenant in given["tenants"]:
                tasks.create_task(_call(router, tenant))


async def _call(router: Router, tenant: str) -> None:
    was_served: bool | None = None
    while True:
        try:
            await router.tenant(tenant).fetchval(_CALL)
            is_served = True
        except Exception:  # noqa: BLE001 - what is measured: whatever it is, the tenant is not served
            is_served = False
        if is_served is not was_served:  # CLOCK_MONOTONIC is the machine's: the processes' figures can be compared
            said = {"tenant": tenant, "is_served": is_served, "at": time.monotonic()}
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
            was_served = is_served
        await asyncio.sleep(_PAUSE)


class Callers:
    """The processes. State: since when each of them serves each tenant, or refuses it."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes
        self._said: dict[tuple[int, str], tuple[bool, float]] = {}
        self._news = asyncio.Condition()

    async def read(self, number: int) -> None:
        """Take what process `number` says, until it ends."""
        stream = self._processes[number].stdout
        assert stream is not None
        while line := await stream.readline():
            said = json.loads(line)
            async with self._news:
                self._said[number, said["tenant"]] = (said["is_served"], said["at"])
                self._news.notify_all()

    async def all_say(self, tenant: str, is_served: bool, *, timeout: float = 60.0) -> float:
        """Wait until all of them say so of the tenant; when the last of them began to. Raises TimeoutError."""
        each = [(number, tenant) for number in range(len(self._processes))]
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: all(self._said.get(key, (None,))[0] is is_served for key in each))
            return max(self._said[key][1] for key in each)


@asynccontextmanager
async def callers(mapping: Mapping[str, Any], tenants: Sequence[str]) -> AsyncIterator[Callers]:
    """Processes that serve `tenants` by the configuration `mapping`; all of them are served when the block begins."""
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RUN, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=_ROOT
        )
        for _ in range(PROCESSES)
    ]
    found = Callers(started)
    reading = [asyncio.ensure_future(found.read(number)) for number in range(PROCESSES)]
    try:
        for process in started:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"mapping": mapping, "tenants": list(tenants)}).encode() + b"\n")
        for tenant in tenants:
            await found.all_say(tenant, True)
        yield found
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.gather(*reading)


async def times(settings: Settings, found: Callers, tenant: str) -> tuple[float, float]:
    """Suspend and resume a tenant: seconds from each call until the last process refuses it, and serves it again."""
    begun = time.monotonic()
    await suspend(settings, tenant)
    refused = await found.all_say(tenant, False) - begun
    begun = time.monotonic()
    await resume(settings, tenant)
    return refused, await found.all_say(tenant, True) - begun


async def stopping(world: LifeWorld, options: Options) -> Part:
    """A tenant of each kind, suspended and resumed while two processes call as it all the time."""
    path = world.folder / "status.sql"
    path.write_text("CREATE TABLE projects (id int)")
    provision = {"sql_files": [str(path)], "shared_database": _SHARED}
    mapping = world.mapping(provision=provision, registry={"source": "postgres"})
    settings = Settings.from_mapping(mapping)
    await provision_shared(
        world.admin, database=_SHARED, role=_APP, tables=["projects"],
        keys={1: derive_key(b"k" * 32, server="primary", database=_SHARED, kid=1)},
        statements=["CREATE TABLE projects (tenant_id text NOT NULL, id int)"],
    )  # fmt: skip
    kinds = {f"status_{kind.value}": kind for kind in Isolation}
    async with Provisioner(settings).open() as making:
        for tenant, kind in kinds.items():
            await making.create(wanted(settings, tenant, isolation=kind))
    rows, data, worst = [], {}, 0.0
    async with callers(mapping, list(kinds)) as found:
        for tenant, kind in kinds.items():
            taken = [await times(settings, found, tenant) for _ in range(max(1, round(ROUNDS * options.scale)))]
            refused, served = ([each[number] * 1000 for each in taken] for number in (0, 1))
            shown = (percentile(refused, 50), max(refused), percentile(served, 50), max(served))
            rows.append((kind.value, *map(figure, shown)))
            data[kind.value] = {"refused_ms": refused, "served_ms": served}
            worst = max(worst, max(refused) / 1000, max(served) / 1000)
    heads = ("", "refused, ms, median", "most", "served again, ms, median", "most")
    return Part(
        title=f"A tenant suspended and resumed, used by {PROCESSES} processes",
        text=render(heads, rows), data=data,
        verdicts=(at_most("the last of two processes has heard", SECONDS, worst, "s"),),
    )  # fmt: skip
