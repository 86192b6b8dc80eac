"""Two workers against one, and what clients see of a rolling restart and of an upgrade in place. Real processes.

`scale`: `GET /auth/check` with a token, by wrk: no server is asked. `port`: pgbench on a real server. On two processors
the load, and the server, take their part of what a second worker would need. So each worker is given a part of a
processor that is small enough for all of them to fit in: then the workers alone are the limit, which is checked. Both
are measured without that too, and where the processors' time went. `rolling`: clients of the port, by TCP and by
WebSocket, and wrk, meanwhile SIGUSR1 and SIGUSR2.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

from benchmarks.pg_process import cpu_seconds
from benchmarks.program import machine
from benchmarks.quota import can_limit, limited
from benchmarks.table import Verdict, figure, loud, render, trust, verdicts
from tenantproxy.demo.people import tokens_of
from tenantproxy.demo.world import World, build_world
from tenantproxy.embedded import EmbeddedPostgres
from tests.support.traffic import traffic

__all__ = ["main"]

_SECONDS: Final = 5
_WANTED: Final = 1.7
_PORT_CLIENTS: Final = 200
_WEBSOCKETS: Final = 20
_PAUSE: Final = 0.3  # of a client after each transaction: together they ask for less than their own process can do
_FULL: Final = 0.9  # of what the processors, or a worker's part of one, allow
_SPARE: Final = 0.2  # processors that must be idle where workers are to be the only limit
_PARTS_OF_ONE: Final = {"HTTP": 0.4, "the port": 0.15}  # of a processor for each worker: all else fits in besides two
_OTHERS: Final = 0.2  # processors; with more of them nothing is shown
_ROOM: Final = {"TENANTPROXY_POOLS__MAX_SIZE": "20", "TENANTPROXY_POOLS__MAX_WAITING": "400",
                "TENANTPROXY_POOLS__ACQUIRE_TIMEOUT": "30"}  # fmt: skip
"""All clients of `rolling` are one tenant's and of one process, which may be slow: none is to be refused for that."""


@dataclass(slots=True)
class Served:
    """A sidecar, and the processes that have followed it."""

    process: subprocess.Popen[str]
    public: str
    pg: str
    config: Path

    def processes(self) -> list[psutil.Process]:
        """Those that serve: the mains and their workers."""
        mains = [each for each in psutil.process_iter(["cmdline"]) if str(self.config) in (each.info["cmdline"] or ())]
        return [each for main in mains for each in (main, *main.children())]

    def workers(self) -> list[int]:
        """Those that have clients: the process itself where it is alone."""
        found = [each.pid for each in psutil.Process(self.process.pid).children()]
        return found or [self.process.pid]

    def cpu(self) -> float:
        """Seconds that they have used."""
        found = 0.0
        for each in self.processes():
            with suppress(psutil.NoSuchProcess, OSError):
                found += cpu_seconds(each.pid)
        return found


@asynccontextmanager
async def _serving(world: World, workers: int) -> AsyncIterator[Served]:
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "tenantproxy", "serve", "--config", str(world.config), "--workers", str(workers),
         "--log-level", "ERROR"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **_ROOM, "TENANTPROXY_HTTP__DRAIN_DELAY": "0"},
    )  # fmt: skip
    assert process.stdout is not None
    where = json.loads(await asyncio.to_thread(process.stdout.readline))
    served = Served(process, where["public"], where["pg"], world.config)
    try:
        yield served
    finally:
        for each in served.processes():
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        while served.processes():
            process.poll()
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Wrk:
    """What wrk reports."""

    per_second: float
    requests: int
    errors: int


async def _wrk(url: str, *headers: str, seconds: int, connections: int = 32) -> Wrk:
    options = [option for header in headers for option in ("-H", header)]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", *options, url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    text = (await process.communicate())[0].decode()
    errors = sum(
        int(number) for line in re.findall(r"Socket errors: (.*)", text) for number in re.findall(r"\d+", line)
    )
    errors += sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    total = re.search(r"(\d+) requests in", text)
    pace = re.search(r"Requests/sec:\s+([\d.]+)", text)
    return Wrk(float(pace[1]) if pace else 0.0, int(total[1]) if total else 0, errors)


@dataclass(frozen=True, slots=True)
class Usage:
    """A run: its pace a second, and the processors' time a second of each party."""

    pace: float
    workers: float
    server: float
    load: float
    others: float

    @property
    def micros(self) -> float:
        """CPU time of the workers for one request."""
        return 1e6 * self.workers / max(1.0, self.pace)

    def most(self, workers: int, cores: int) -> float:
        """The pace that so many workers can reach on so many processors, of which each party needs its part."""
        return min(workers / max(1e-9, self.workers), cores / max(1e-9, self.total)) * self.pace

    @property
    def total(self) -> float:
        """Processors that all of them used."""
        return self.workers + self.server + self.load


async def _used(world: World, served: Served, load: Awaitable[float]) -> Usage:
    """Of `load`, which runs as processes that end with it; its answer is the pace."""
    server = world.server.postmaster_pid

    def now() -> tuple[float, float, float, float]:
        backends = psutil.Process(server).children()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = psutil.cpu_times()
        return (
            served.cpu(),
            sum(_cpu(each.pid) for each in backends),
            children.ru_utime + children.ru_stime,
            busy.user + busy.nice + busy.system,
        )

    before, began = now(), time.monotonic()
    pace = await load
    after, took = now(), time.monotonic() - began
    workers, of_server, of_load, busy = ((late - early) / took for late, early in zip(after, before, strict=True))
    return Usage(pace, workers, of_server, of_load, max(0.0, busy - workers - of_server - of_load))


def _cpu(pid: int) -> float:
    with suppress(psutil.NoSuchProcess, OSError):
        return cpu_seconds(pid)
    return 0.0


Runs = dict[tuple[int, bool], list[Usage]]
"""By the number of workers, and whether each had its part of a processor alone."""


def _judged(name: str, what: str, runs: Runs) -> tuple[list[Verdict], str]:
    """A table of the median runs, and what follows from it."""
    middle = {key: sorted(each, key=lambda run: run.pace)[len(each) // 2] for key, each in runs.items()}
    rows = [
        (f"{workers} worker{'s' if workers > 1 else ''}" + (f" of {_PARTS_OF_ONE[name]:g}" if has_part else ""),
         figure(run.pace), figure(run.micros), figure(run.workers), figure(run.server), figure(run.load),
         figure(run.total), figure(run.others))
        for (workers, has_part), run in middle.items()
    ]  # fmt: skip
    head = (what, "a second", "CPU µs of workers", "processors: workers", "server", "load", "all", "others")
    found = [*_shared(name, middle[1, False], middle[2, False])]
    if (2, True) in middle:
        found += trust(_apart(name, middle[1, True], middle[2, True]))
    else:
        what = "needs root and the controller cpu of cgroups"
        found.append(Verdict(target=_target(name), wanted=f">= {_WANTED}x", measured=what, met=False))
    return found, render(head, rows)


def _target(name: str) -> str:
    return f"two workers, {name}: pace to that of one, each with {_PARTS_OF_ONE[name]:g} of a processor"


def _apart(name: str, one: Usage, two: Usage) -> Iterator[Verdict]:
    """Where only the workers are short of processors."""
    ratio, part, cores = two.pace / max(1.0, one.pace), _PARTS_OF_ONE[name], os.cpu_count() or 1
    yield Verdict(target=_target(name), wanted=f">= {_WANTED}x", measured=f"{ratio:.2f}x", met=ratio >= _WANTED)
    used = min(one.workers / part, two.workers / (2 * part))
    yield Verdict(target=f"{name}: what the workers used of their parts", wanted=f">= {_FULL}", measured=f"{used:.2f}",
                  met=used >= _FULL, control=True)  # fmt: skip
    idle = cores - max(run.total + run.others for run in (one, two))
    yield Verdict(target=f"{name}: processors that were idle", wanted=f">= {_SPARE}", measured=f"{idle:.2f}",
                  met=idle >= _SPARE, control=True)  # fmt: skip


def _shared(name: str, one: Usage, two: Usage) -> tuple[Verdict, ...]:
    """Where load and server need the same processors."""
    ratio, alone = two.pace / max(1.0, one.pace), 2 * one.micros / max(1e-9, two.micros)
    cores = os.cpu_count() or 1
    ceiling = two.most(2, cores) / one.most(1, cores)
    others = max(one.others, two.others)
    return trust([
        Verdict(target=f"two workers, {name}: with a processor each, by CPU a request", wanted=f">= {_WANTED}x",
                measured=f"{alone:.2f}x", met=alone >= _WANTED),
        Verdict(target=f"two workers, {name}: of what {cores} processors allow, which is {ceiling:.2f}x",
                wanted=f">= {_FULL}", measured=f"{ratio / ceiling:.2f}", met=ratio >= _FULL * ceiling),
        Verdict(target=f"{name}: processors of other programs", wanted=f"<= {_OTHERS}", measured=f"{others:.2f}",
                met=others <= _OTHERS, control=True),
    ])  # fmt: skip


Load = Callable[[Served, int], Awaitable[float]]
"""Of so many seconds; its answer is the pace."""


async def _taken(world: World, rounds: int, name: str, load: Load) -> Runs:
    """One and two workers in turn, as they are and with a part of a processor each where that can be had."""
    runs: Runs = {}
    for _ in range(rounds):
        for workers in (1, 2):
            for has_part in (False, True) if can_limit() else (False,):
                async with _serving(world, workers) as served:
                    await load(served, 1)
                    with limited(served.workers() if has_part else (), _PARTS_OF_ONE[name]):
                        found = await _used(world, served, load(served, _SECONDS))
                    runs.setdefault((workers, has_part), []).append(found)
    return runs


async def _token(world: World, public: str) -> str:
    import aiohttp

    async with aiohttp.ClientSession() as http:
        return (await tokens_of(http, public, ["wayne"], world.people_password))["wayne"]


async def _scale(world: World, rounds: int) -> tuple[list[Verdict], str]:
    tokens: dict[str, str] = {}  # a login costs as much as hundreds of requests: it is none of them

    async def load(served: Served, seconds: int) -> float:
        if served.public not in tokens:
            tokens[served.public] = await _token(world, served.public)
        header = f"Authorization: Bearer {tokens[served.public]}"
        return (await _wrk(f"{served.public}/auth/check", header, seconds=seconds)).per_second

    runs = await _taken(world, rounds, "HTTP", load)
    return _judged("HTTP", "HTTP, a token verified", runs)


async def _pgbench(world: World, pg: str, seconds: int) -> float:
    host, _, port = pg.rpartition(":")
    script = world.config.parent / "select.sql"
    script.write_text("SELECT 1;\n")
    process = await asyncio.create_subprocess_exec(
        _pgbench_path(), "-n", "-c", "16", "-j", "1", "-T", str(seconds), "-f", str(script), "-h", host, "-p", port,
        "-U", "demo", "wayne", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PGPASSWORD": world.pg_password, "PGSSLMODE": "disable"},
    )  # fmt: skip
    pace = re.search(r"tps = ([\d.]+)", (await process.communicate())[0].decode())
    return float(pace[1]) if pace else 0.0


def _pgbench_path() -> str:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), reverse=True)
    return str(found[0]) if found else "pgbench"


async def _port(world: World, rounds: int) -> tuple[list[Verdict], str]:
    async def load(served: Served, seconds: int) -> float:
        return await _pgbench(world, served.pg, seconds)

    runs = await _taken(world, rounds, "the port", load)
    return _judged("the port", "PostgreSQL port, `SELECT 1`, 16 clients of pgbench", runs)


async def _rolling(world: World, _: int) -> tuple[list[Verdict], str]:
    rows, found = [], []
    for name, number in (("rolling restart", signal.SIGUSR1), ("upgrade in place", signal.SIGUSR2)):
        async with _serving(world, 2) as served:
            header = f"Authorization: Bearer {await _token(world, served.public)}"
            dsn = f"postgresql://demo:{world.pg_password}@{served.pg}/wayne?sslmode=disable"
            async with traffic(
                dsn, served.public, port_clients=_PORT_CLIENTS, websockets=_WEBSOCKETS, http_clients=0, pause=_PAUSE
            ) as seen:
                while seen.transactions < 5 * (_PORT_CLIENTS + _WEBSOCKETS):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                load = asyncio.ensure_future(_wrk(f"{served.public}/auth/check", header, seconds=20, connections=4))
                await asyncio.sleep(1.0)
                before = {each.pid for each in served.processes()}
                began = time.monotonic()
                served.process.send_signal(number)
                stays = {served.process.pid} if number == signal.SIGUSR1 else set()
                while ({each.pid for each in served.processes()} & before) - stays:
                    served.process.poll()
                    await asyncio.sleep(0.05)
                took = time.monotonic() - began
                http = await load
            most = max(seen.ended.values(), default=0)
            rows.append((name, f"{seen.transactions}", f"{len(seen.failed)}", f"{len(seen.ended)}", f"{most}",
                         f"{http.requests}", f"{http.errors}", figure(took, "s")))  # fmt: skip
            found += [
                Verdict(target=f"{name}: HTTP requests failed", wanted="0", measured=f"{http.errors}",
                        met=http.errors == 0 and http.requests > 0),
                Verdict(target=f"{name}: clients of the port failed or refused", wanted="0",
                        measured=f"{len(seen.failed)}", met=not seen.failed),
                Verdict(target=f"{name}: clean 57P01 of one client", wanted="<= 1", measured=f"{most}",
                        met=most <= 1),
            ]  # fmt: skip
            for each in sorted(set(seen.failed)):
                print(f"  {name}: {each}", flush=True)
    first = f"{_PORT_CLIENTS} port clients, {_WEBSOCKETS} WebSockets, wrk"
    head = (first, "transactions", "failed", "clients ended", "most for one", "requests", "failed", "took")
    return found, render(head, rows)


_PARTS: Final = {"scale": _scale, "port": _port, "rolling": _rolling}


async def _run(names: Sequence[str], rounds: int) -> tuple[list[Verdict], dict[str, str]]:
    found: list[Verdict] = []
    texts: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        async with EmbeddedPostgres(durable=False) as server:
            world = await build_world(
                server, Path(folder), listen="127.0.0.1:0", admin_listen="127.0.0.1:0", pg_listen="127.0.0.1:0"
            )
            for name in names:
                judged, texts[name] = await _PARTS[name](world, rounds)
                found += judged
                print(f"\n{texts[name]}", flush=True)
    return found, texts


def main(arguments: list[str]) -> int:
    """Measure; 0 also when a target is missed, which is printed loudly."""
    import argparse

    parser = argparse.ArgumentParser(prog="scripts/bench workers", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(_PARTS), metavar="PART,...", help=f"of {', '.join(_PARTS)}")
    asked = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        print("this needs wrk: apt install wrk", file=sys.stderr)
        return 2
    environment: dict[str, Any] = machine()
    print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
    found, texts = asyncio.run(_run(asked.only.split(","), asked.rounds))
    print(f"\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {"environment": environment, "texts": texts, "verdicts": [(one.target, one.measured) for one in found]}
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0
