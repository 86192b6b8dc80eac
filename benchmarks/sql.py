"""SQL over HTTP: one select a request, next to a handler that answers a constant and to one by hand with asyncpg.Pool.

Each is a process of its own on one event loop; wrk asks over 16 connections. All take turns within each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import aiohttp
import psutil  # type: ignore[import-untyped]

from benchmarks import sql_peers
from benchmarks.measure import Spread, percentile
from benchmarks.pg_process import cpu_seconds, free_port, running
from benchmarks.program import machine
from benchmarks.sql_load import Paced, at_pace
from benchmarks.table import Verdict, at_least, at_most, figure, loud, render, trust, verdicts
from tenantproxy.demo.world import PG_USER, World, build_world
from tenantproxy.embedded import EmbeddedPostgres

__all__ = ["main"]

_CONNECTIONS: Final = 16
_OURS, _ROW, _CONSTANT, _BY_HAND = "tenantproxy", "tenantproxy, a row tenant", "constant answer", "asyncpg.Pool by hand"
_ROOM: Final = {
    "TENANTPROXY_POOLS__MAX_SIZE": "10", "TENANTPROXY_POOLS__MAX_WAITING": "400",
    "TENANTPROXY_POOLS__ACQUIRE_TIMEOUT": "30", "TENANTPROXY_HTTP__DRAIN_DELAY": "0",
}  # fmt: skip
_QUERY: Final = {"query": "select id, name, budget from projects where id = $1", "params": [1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    name: str
    url: str
    pid: int
    headers: Mapping[str, str]


class _Turn(NamedTuple):
    """Requests a second, and CPU microseconds for each: of the subject, and of the server."""

    pace: float
    cpu: float
    server_cpu: float


def _server_seconds(postmaster: int) -> float:
    """CPU time of PostgreSQL so far: of the processes that it has now."""
    found = 0.0
    for process in [psutil.Process(postmaster), *psutil.Process(postmaster).children()]:
        with suppress(psutil.Error, OSError):
            found += cpu_seconds(process.pid)
    return found


async def _wrk(subject: _Subject, folder: Path, seconds: float, postmaster: int) -> _Turn:
    script = folder / "post.lua"
    named = subject.headers.items()
    headers = "".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}\n" for name, value in named)
    script.write_text(f'wrk.method = "POST"\nwrk.body = {json.dumps(json.dumps(_QUERY))}\n{headers}')
    before, server = cpu_seconds(subject.pid), _server_seconds(postmaster)
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script), subject.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    text = (await process.communicate())[0].decode()
    if re.search(r"Socket errors|Non-2xx", text):
        raise RuntimeError(f"{subject.name}: {text}")
    total, pace = re.search(r"(\d+) requests in", text), re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert total is not None
    assert pace is not None
    each = 1e6 / int(total[1])
    return _Turn(
        float(pace[1]), each * (cpu_seconds(subject.pid) - before), each * (_server_seconds(postmaster) - server)
    )


@asynccontextmanager
async def _peer(kind: str, folder: Path, **needs: str) -> AsyncIterator[tuple[str, int]]:
    port = free_port()
    environment = {**os.environ, **needs, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "benchmarks.sql_peers", kind, str(port)]
    async with running(command, port=port, log=folder / f"{kind}.log", environment=environment) as pid:
        yield f"http://127.0.0.1:{port}/sql", pid


@asynccontextmanager
async def _serving(world: World) -> AsyncIterator[tuple[str, int]]:
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "tenantproxy", "serve", "--config", str(world.config), "--log-level", "ERROR"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, **_ROOM},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        where = json.loads(await asyncio.to_thread(process.stdout.readline))
        yield f"{where['public']}/sql", process.pid
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


@asynccontextmanager
async def _subjects(world: World, folder: Path) -> AsyncIterator[list[_Subject]]:
    tenant = next(each for each in world.tenants if each.id == "wayne")
    modes = {"Neon-Raw-Text-Output": "true", "Neon-Array-Mode": "true"}

    def headers(name: str) -> dict[str, str]:
        return {"Neon-Connection-String": f"postgresql://{PG_USER}:{world.pg_password}@any.host/{name}", **modes}

    assert tenant.role is not None
    password = world.password(tenant.role)
    dsn = (
        f"postgresql://{quote(tenant.role)}:{quote(password)}@{world.server.host}:{world.server.port}/{tenant.database}"
    )
    own = headers(tenant.id)
    async with _serving(world) as (url, pid), aiohttp.ClientSession() as http:
        async with http.post(url, data=json.dumps(_QUERY), headers=own) as response:
            answer = await response.text()
            assert response.status == 200, answer
        needs = {sql_peers.DSN: dsn, sql_peers.CALLER: own["Neon-Connection-String"], sql_peers.ANSWER: answer}
        async with _peer("constant", folder, **needs) as constant, _peer("asyncpg", folder, **needs) as by_hand:
            yield [
                _Subject(name=_OURS, url=url, pid=pid, headers=own),
                _Subject(name=_ROW, url=url, pid=pid, headers=headers("acme")),
                _Subject(name=_CONSTANT, url=constant[0], pid=constant[1], headers=own),
                _Subject(name=_BY_HAND, url=by_hand[0], pid=by_hand[1], headers=own),
            ]


async def _half_load(subject: _Subject, pace: float, seconds: float) -> Paced:
    body = json.dumps(_QUERY).encode()
    host, port = subject.url.split("/")[2].split(":")
    lines = [f"{name}: {value}" for name, value in subject.headers.items()]
    head = "\r\n".join(["POST /sql HTTP/1.1", "Host: any.host", *lines, f"Content-Length: {len(body)}", "", ""])
    load = partial(at_pace, per_second=pace / 2, seconds=seconds, connections=_CONNECTIONS)
    return await asyncio.to_thread(load, host, int(port), head.encode() + body)


async def _run(rounds: int, seconds: float) -> tuple[list[Verdict], str, dict[str, object]]:
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as place:
        folder = Path(place)
        async with EmbeddedPostgres(durable=False) as server:
            world = await build_world(server, folder, listen="127.0.0.1:0", admin_listen="127.0.0.1:0")
            async with _subjects(world, folder) as subjects:
                found: dict[str, list[_Turn]] = {each.name: [] for each in subjects}
                postmaster = server.postmaster_pid
                for each in subjects:
                    await _wrk(each, folder, 1, postmaster)
                for number in range(rounds):
                    turn = number % len(subjects)
                    for each in subjects[turn:] + subjects[:turn]:
                        found[each.name].append(await _wrk(each, folder, seconds, postmaster))
                half = {}
                for each in subjects:
                    pace = Spread.of(turn.pace for turn in found[each.name]).median
                    half[each.name] = await _half_load(each, pace, 3 * seconds)
    return _judged(found, half)


def _judged(
    found: Mapping[str, Sequence[_Turn]], half: Mapping[str, Paced]
) -> tuple[list[Verdict], str, dict[str, object]]:
    def ratio(name: str) -> Spread:
        return Spread.of(ours.pace / peer.pace for ours, peer in zip(found[_OURS], found[name], strict=True))

    rows = []
    for name, runs in found.items():
        medians = [figure(Spread.of(values).median) for values in zip(*runs, strict=True)]
        took, late = half[name]
        waits = [figure(1e3 * each) for each in (percentile(took, 50), percentile(took, 99), percentile(late, 99))]
        rows.append((name, *medians, *waits))
    head = (
        "one select a request", "a second", "CPU µs of its process", "of the server", "at half load: p50 ms", "p99 ms",
        "p99 ms by which the load itself was late",
    )  # fmt: skip
    judged = [
        at_least("requests a second to those of a constant answer", 0.5, ratio(_CONSTANT)),
        at_least("requests a second to asyncpg.Pool by hand", 1.0, ratio(_BY_HAND)),
        at_most("p99 at half load", 10.0, 1e3 * percentile(half[_OURS].took, 99), "ms"),
    ]
    return (
        judged,
        render(head, rows),
        {"runs": found, "half_load_seconds": {name: each._asdict() for name, each in half.items()}},
    )


def main(arguments: Sequence[str]) -> int:
    """Run it, print the table and the verdicts; 0 also when a target is missed, which is printed loudly."""
    parser = argparse.ArgumentParser(prog="scripts/bench sql", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--rounds", type=int, default=7, help="of each subject (default 7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn (default 3)")
    asked = parser.parse_args(arguments)
    if sys.platform == "win32" or shutil.which("wrk") is None:
        print("needs wrk, on Linux or macOS", file=sys.stderr)
        return 2
    import uvloop

    print(machine(), flush=True)
    judged, table, data = uvloop.run(_run(asked.rounds, asked.seconds))
    found = trust(judged)
    print(f"\n{table}\n\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {**data, "verdicts": [asdict(one) | {"verdict": one.word} for one in found]}
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0
