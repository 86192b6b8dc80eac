"""Two workers against one, and what clients see of a rolling restart and of an upgrade in place. Real processes.

`scale`: `GET /auth/check` with a token, by wrk: no server is asked, so the workers are the limit. On two processors wrk
takes its part of them too, which is told. `port`: pgbench on a real server, whose processes share the processors: not a
target, it says who uses them. `rolling`: 200 clients of the port and wrk, meanwhile SIGUSR1 and SIGUSR2.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
import psycopg

from benchmarks.pg_process import cpu_seconds
from benchmarks.program import machine
from benchmarks.table import Verdict, figure, loud, render, verdicts
from tenantproxy.demo.people import tokens_of
from tenantproxy.demo.world import World, build_world
from tenantproxy.embedded import EmbeddedPostgres

__all__ = ["main"]

_SECONDS: Final = 5
_WANTED: Final = 1.7
_PORT_CLIENTS: Final = 200
_PAUSE: Final = 0.02


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
        env={**os.environ, "TENANTPROXY_HTTP__DRAIN_DELAY": "0"},
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


async def _token(world: World, public: str) -> str:
    import aiohttp

    async with aiohttp.ClientSession() as http:
        return (await tokens_of(http, public, ["wayne"], world.people_password))["wayne"]


async def _scale(world: World, rounds: int) -> tuple[list[Verdict], str]:
    paces: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in (1, 2):
            async with _serving(world, workers) as served:
                header = f"Authorization: Bearer {await _token(world, served.public)}"
                await _wrk(f"{served.public}/auth/check", header, seconds=1)
                before, began = served.cpu(), time.monotonic()
                found = await _wrk(f"{served.public}/auth/check", header, seconds=_SECONDS)
                cores[workers].append((served.cpu() - before) / (time.monotonic() - began))
                paces[workers].append(found.per_second)
    one, two = (statistics.median(paces[workers]) for workers in (1, 2))
    rows = [
        (f"{workers} worker{'s' if workers > 1 else ''}", figure(statistics.median(paces[workers])),
         figure(statistics.median(cores[workers])), figure(1e6 * statistics.median(cores[workers]) / max(1.0, pace)))
        for workers, pace in ((1, one), (2, two))
    ]  # fmt: skip
    text = render(("HTTP, a token verified", "requests/s", "cores used", "CPU µs/request"), rows)
    ratio = two / max(1.0, one)
    verdict = Verdict(
        target="two workers, HTTP", wanted=f">= {_WANTED}x", measured=f"{ratio:.2f}x", met=ratio >= _WANTED
    )
    return [verdict], text


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
    rows = []
    for workers in (1, 2):
        paces, cores = [], []
        for _ in range(rounds):
            async with _serving(world, workers) as served:
                await _pgbench(world, served.pg, 1)
                before, began = served.cpu(), time.monotonic()
                paces.append(await _pgbench(world, served.pg, _SECONDS))
                cores.append((served.cpu() - before) / (time.monotonic() - began))
        pace, used = statistics.median(paces), statistics.median(cores)
        rows.append((f"{workers} worker{'s' if workers > 1 else ''}", figure(pace), figure(used)))
    text = render(("PostgreSQL port, `SELECT 1`, 16 clients of pgbench", "tps", "cores used of two"), rows)
    return [], f"{text}\n\nThe rest of the processors is the server's and pgbench's: they are the limit."


@dataclass(slots=True)
class _Seen:
    transactions: int = 0
    ended: dict[int, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


async def _client(number: int, dsn: str, seen: _Seen, stop: asyncio.Event) -> None:
    while not stop.is_set():
        conn, begun = None, False
        try:
            conn = await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)
            while not stop.is_set():
                for statement in ("BEGIN", "SELECT 1", "COMMIT"):
                    await conn.execute(statement)
                    begun = statement != "COMMIT"
                seen.transactions += 1
                await asyncio.sleep(_PAUSE)
        except psycopg.errors.AdminShutdown:
            seen.ended[number] = seen.ended.get(number, 0) + 1
            if begun:
                seen.failed.append("57P01 in a transaction")
        except psycopg.Error as exc:
            seen.failed.append(f"{type(exc).__name__}: {str(exc).splitlines()[0]}")
        finally:
            if conn is not None:
                with suppress(psycopg.Error):
                    await conn.close()


async def _rolling(world: World, _: int) -> tuple[list[Verdict], str]:
    rows, found = [], []
    for name, number in (("rolling restart", signal.SIGUSR1), ("upgrade in place", signal.SIGUSR2)):
        async with _serving(world, 2) as served:
            header = f"Authorization: Bearer {await _token(world, served.public)}"
            dsn = f"postgresql://demo:{world.pg_password}@{served.pg}/wayne?sslmode=disable"
            seen, stop = _Seen(), asyncio.Event()
            clients = [asyncio.ensure_future(_client(each, dsn, seen, stop)) for each in range(_PORT_CLIENTS)]
            while seen.transactions < 5 * _PORT_CLIENTS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            load = asyncio.ensure_future(_wrk(f"{served.public}/auth/check", header, seconds=20, connections=16))
            await asyncio.sleep(1.0)
            before = {each.pid for each in served.processes()}
            began = time.monotonic()
            served.process.send_signal(number)
            main = {served.process.pid}
            while ({each.pid for each in served.processes()} & before) - (main if number == signal.SIGUSR1 else set()):
                served.process.poll()
                await asyncio.sleep(0.05)
            took = time.monotonic() - began
            http = await load
            stop.set()
            await asyncio.gather(*clients)
            most = max(seen.ended.values(), default=0)
            rows.append((name, f"{seen.transactions}", f"{len(seen.failed)}", f"{len(seen.ended)}", f"{most}",
                         f"{http.requests}", f"{http.errors}", figure(took, "s")))  # fmt: skip
            allowed = 2 if number == signal.SIGUSR1 else 1
            found += [
                Verdict(target=f"{name}: HTTP requests failed", wanted="0", measured=f"{http.errors}",
                        met=http.errors == 0 and http.requests > 0),
                Verdict(target=f"{name}: port clients failed or refused", wanted="0", measured=f"{len(seen.failed)}",
                        met=not seen.failed),
                Verdict(target=f"{name}: clean 57P01 of one client", wanted=f"<= {allowed}", measured=f"{most}",
                        met=most <= allowed),
            ]  # fmt: skip
            for each in sorted(set(seen.failed)):
                print(f"  {name}: {each}", flush=True)
    head = ("200 port clients and wrk", "transactions", "failed", "clients ended", "most for one", "requests", "failed",
            "took")  # fmt: skip
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
