"""What does a tenant notice of another one in its pool that makes every reset as slow as it can?

Both are row tenants of one database, and so share the backends of one pool. The polite one asks by a few clients, with
a pause between two queries; the other one leaves in its sessions what its clients have time for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg

from benchmarks.pg_client import Client, connect
from benchmarks.pg_process import allow_many_files, free_port, running
from benchmarks.pg_targets import Target
from benchmarks.table import Verdict, figure, loud, render, verdicts
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.verifier import scram_verifier
from tenantproxy.wire.frames import FLUSH, QUERY, frame
from tests.support.world import APP_ROLE, World, a_world

__all__ = ["main"]

POLITE, RUDE = "row1", "row2"
POLITE_CLIENTS: Final = 4
THINK_SECONDS: Final = 0.01
PATIENCE: Final = 30.0  # of a polite client for one answer
MALFORMED: Final = 2500  # Flush messages with a body, which have none: 15 kB
LONGEST: Final = 1.0  # seconds of one wait; the rate also tells how much of the machine the other clients take
_USER: Final = "bench"
_PASSWORD: Final = "password-of-the-bench-clients"
_ASKED: Final = "SELECT count(*) FROM projects"


def _sql(text: str) -> bytes:
    return frame(QUERY, text.encode() + b"\0")


WAYS: Final[dict[str, bytes]] = {
    "queries alone": _sql(_ASKED),
    "malformed Flushes": _sql(_ASKED) + frame(FLUSH, b"x") * MALFORMED,
    "a setting": _sql("SET work_mem = '5MB'"),
    "3000 advisory locks": _sql("SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 3000) n"),
    "40 temporary tables": _sql(";".join(f"CREATE TEMP TABLE IF NOT EXISTS t{n} AS SELECT 1 one" for n in range(40))),
    "a cursor WITH HOLD": _sql(
        "CLOSE ALL; DECLARE c CURSOR WITH HOLD FOR SELECT repeat('x', 99) FROM generate_series(1, 30000)"
    ),
    "what no reset can end": _sql("CREATE TEMP TABLE IF NOT EXISTS stuck AS SELECT 1 one"),
}


def main(arguments: Sequence[str]) -> int:
    """Each way in turn, alone and during it; 0 also when a target is missed, which is printed loudly."""
    asked = _parser().parse_args(arguments)
    unknown = set(asked.only) - set(WAYS)
    if unknown:
        print(f"no way {', '.join(unknown)}; there are {', '.join(WAYS)}", file=sys.stderr)
        return 2
    allow_many_files()
    results = asyncio.run(_all(asked))
    head = ("next to one who leaves", "alone, queries/s", "then, queries/s", "ratio", "longest wait", "errors", "left")
    print(render(head, [_row(way, found) for way, found in results.items()]))
    found = [_judged(way, one) for way, one in results.items()]
    print(f"\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench resets", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round (default 5)")
    parser.add_argument("--clients", type=int, default=52, help="of the tenant that leaves something (default 52)")
    parser.add_argument("--code", type=_folder, metavar="DIR", help="run the sidecar of another checkout")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(WAYS), metavar="WAY,...")
    return parser


def _folder(text: str) -> Path:
    return Path(text).resolve()


def _row(way: str, found: dict[str, float]) -> tuple[str, ...]:
    names = ("alone", "during", "ratio")
    return (way, *(figure(found[name]) for name in names), f"{found['longest']:.2f} s", f"{found['errors']:.0f}",
            f"{found['left']:,.0f}")  # fmt: skip


def _judged(way: str, found: dict[str, float]) -> Verdict:
    return Verdict(
        target=f"waits of a tenant next to one who leaves {way}",
        wanted=f"<= {LONGEST:g} s, no errors",
        measured=f"{found['longest']:.2f} s, {found['errors']:.0f} errors",
        met=found["longest"] <= LONGEST and not found["errors"],
    )


async def _all(asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    async with (
        EmbeddedPostgres(version=18, durable=False, max_connections=60) as server,
        a_world(server, rows=2, schemas=0, databases=0) as world,
    ):
        async with world.shared.connect() as admin:
            await admin.execute(f'GRANT TEMP ON DATABASE "{world.shared.name}" TO {APP_ROLE}')
        return {way: await _way(world, WAYS[way], asked) for way in asked.only}


async def _way(world: World, message: bytes, asked: argparse.Namespace) -> dict[str, float]:
    """A sidecar of its own for each way: none begins with what another one left."""
    async with _sidecar(world, asked.code) as target:
        alone, _, errors = await _polite(target, asked.seconds)
        left = 0
        over = asyncio.Event()

        def count() -> None:
            nonlocal left
            left += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(_lock(world, over))
            for _ in range(asked.clients):
                group.create_task(_rude(target, message, over, count))
            await asyncio.sleep(0.5)
            during, longest, more = await _polite(target, asked.seconds)
            over.set()
    return {"alone": alone, "during": during, "ratio": during / alone, "longest": longest, "errors": errors + more,
            "left": left}  # fmt: skip


async def _polite(target: Target, seconds: float) -> tuple[float, float, int]:
    """Queries a second of all polite clients, the longest wait, and how many failed."""
    done, longest, errors = 0, 0.0, 0
    began = time.monotonic()

    async def ask() -> None:
        nonlocal done, longest, errors
        client: Client | None = None
        while (before := time.monotonic()) < began + seconds:
            try:
                async with asyncio.timeout(PATIENCE):
                    client = client or await connect(target, POLITE)
                    await client.run(_ASKED)
                done += 1
            except (RuntimeError, OSError, TimeoutError):
                errors += 1
                if client is not None:
                    client.close()
                client = None
            longest = max(longest, time.monotonic() - before)
            await asyncio.sleep(THINK_SECONDS)
        if client is not None:
            client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(POLITE_CLIENTS):
            group.create_task(ask())
    return done / (time.monotonic() - began), longest, errors


async def _rude(target: Target, message: bytes, over: asyncio.Event, count: Callable[[], None]) -> None:
    """Leaves something again and again, by a new connection where the last one was ended or is not answered."""
    client: Client | None = None
    while not over.is_set():
        try:
            if client is None:
                client = await connect(target, RUDE)
            async with asyncio.timeout(0.1):
                await client.send(message)
            count()
        except (RuntimeError, OSError, TimeoutError):
            if client is not None:
                client.close()
            client = None
    if client is not None:
        client.close()


async def _lock(world: World, over: asyncio.Event) -> None:
    """Hold a lock on each temporary table called `stuck`: a reset of its session waits for it."""
    async with world.shared.connect() as admin, admin.transaction():
        while not over.is_set():
            for (table,) in await admin.fetch("SELECT oid::regclass::text FROM pg_class WHERE relname = 'stuck'"):
                with suppress(asyncpg.PostgresError):  # its session has ended since
                    async with admin.transaction():
                        await admin.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _sidecar(world: World, code: Path | None) -> AsyncIterator[Target]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        path = Path(folder) / "tenantproxy.toml"
        path.touch(mode=0o600)
        path.write_text(_toml(world, port))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TENANTPROXY_")}
        if code is not None:
            environment["PYTHONPATH"] = str(code)
        command = [sys.executable, "-m", "tenantproxy", "serve", "--config", str(path), "--log-level", "ERROR"]
        command += ["--drain-timeout", "0.1"]
        async with running(command, port=port, log=Path(folder) / "sidecar.log", environment=environment) as pid:
            target = Target(name="ours", port=port, user=_USER, password=_PASSWORD, pid=pid)
            with suppress(ConnectionError):
                (await connect(target, POLITE)).close()
            yield target


def _toml(world: World, port: int) -> str:
    return (
        world.toml().replace("max_connections = 20", "max_connections = 40")
        + f"""
[http]
listen = ""
[admin]
listen = ""
[pg]
listen = "127.0.0.1:{port}"
[pg.users.{_USER}]
verifier = "{scram_verifier(_PASSWORD)}"
tenants = "*"
"""
    )
