"""Is any answer wrong, or any connection lost, while everything goes wrong at once? Minutes of load under faults.

The port runs in a process of its own, on the data path that there is, with clients in a thread next to it, on a server
of its own: `python -m benchmarks.pg_faults --seconds 20` runs that process alone. Every answer names its tenant, by a
row, and its request, by a counter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Final

import asyncpg
import psutil  # type: ignore[import-untyped]

from benchmarks.part import Options, Part
from benchmarks.pg_world import PgWorld
from benchmarks.table import Verdict, at_most, figure, render
from tenantproxy._native import why_not
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import tenant_id
from tenantproxy.raw.exchange import query
from tenantproxy.wire.frames import BIND, DESCRIBE, EXECUTE, PARSE, SYNC, frame
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import Answer, Refused, WireClient, cancel
from tests.support.world import APP_ROLE, SERVER, World, a_world

__all__ = ["SECONDS", "run"]

SECONDS: Final = 300
CLIENTS_EACH: Final = 4
EACH: Final = 3  # tenants of each kind
LIMITS: Final[dict[str, Any]] = {
    "servers": {"primary": {"max_connections": 40}},
    "pools": {"max_pools": 4, "max_size": 4, "shared_size": 6, "acquire_timeout": 30.0},  # fewer pools than tenants
    "pg": {"max_clients": 500},
}
WARM: Final = 0.3  # of the time
CRASH_SECONDS: Final = 20.0  # between two, of which each ends every session of the server
GROWS_KB: Final = 20.0  # a second, from which on memory is taken to be lost
SQL: Final = "SELECT name, '{0}' FROM projects ORDER BY id LIMIT 1"
EXPECTED: Final = {
    "57014": "cancelled",
    "57P01": "its backend was ended, or an operator ended it",
    "57P02": "the server crashed",
    "57P03": "the server starts, or the tenant is paused",
    "08001": "no connection to the server",
    "08006": "the connection to the server was lost",
    "53300": "no connection in time",
    "28000": "the tenant is suspended",
    "22012": "a division by zero, which was asked for",
    "closed": "the connection ended without a word",
}


@dataclass(slots=True)
class Result:
    """What became of it. `lost`: what was not given back in the end."""

    seconds: float = 0.0
    answered: int = 0
    carried: int = 0
    evicted: int = 0
    path: str = ""
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)  # seconds, bytes


def plain(result: Result) -> dict[str, object]:
    """As JSON has it."""
    return {each.name: getattr(result, each.name) for each in fields(result)}


async def run(_: PgWorld, options: Options) -> Part:
    """Faults for `options.fault_seconds`, in a fresh process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.pg_faults",
        "--seconds",
        str(options.fault_seconds),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _none = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the port under faults ended with {process.returncode}")
    found = json.loads(said)
    found["errors"], found["faults"] = Counter(found["errors"]), Counter(found["faults"])
    return part_of(Result(**found))


def part_of(result: Result) -> Part:
    """What is told of it, and what is judged."""
    unexpected = {state: count for state, count in result.errors.items() if state not in EXPECTED}
    slope = slope_of(result.memory)
    rows = [(state, f"{count:,}", EXPECTED.get(state, "NOT EXPECTED")) for state, count in result.errors.most_common()]
    text = [
        f"{result.answered:,} answers in {result.seconds:.0f} s on the path {result.path};"
        f" {result.carried:,} transactions needed no Python, {result.evicted:,} pools were evicted.",
        "Faults: " + ", ".join(f"{name} {count:,}" for name, count in sorted(result.faults.items())),
        render(("SQLSTATE", "answers", "why"), rows),
        *(f"WRONG: {each}" for each in result.wrong[:10]),
        *(f"LOST: {each}" for each in result.lost[:10]),
    ]
    return Part(
        title=f"Faults for {result.seconds:.0f} s",
        text="\n\n".join(text),
        data=plain(result),
        verdicts=(
            _none("wrong answers", len(result.wrong)),
            _none("connections, waiters and places that were not given back", len(result.lost)),
            _none("errors that none of the faults explains", sum(unexpected.values())),
            at_most("growth of memory behind the first third", GROWS_KB, slope / 1024, "KB/s"),
        ),
    )


def _none(target: str, count: int) -> Verdict:
    return Verdict(target=target, wanted="0", measured=figure(count), met=not count)


def slope_of(memory: list[tuple[float, int]]) -> float:
    """Bytes a second, by least squares, behind the warm-up."""
    end = memory[-1][0] if memory else 0.0
    points = [(at, size) for at, size in memory if at >= WARM * end]
    if len(points) < 2:
        return 0.0
    middle = sum(at for at, _ in points) / len(points)
    mean = sum(size for _, size in points) / len(points)
    spread = sum((at - middle) ** 2 for at, _ in points)
    return sum((at - middle) * (size - mean) for at, size in points) / spread


# --- clients ---------------------------------------------------------------------------------------------------------
class Load(threading.Thread):
    """Clients in a thread of their own, until `stop`. They know which answers are their own."""

    def __init__(self, port: int, tenants: list[str], result: Result, seed: int) -> None:
        super().__init__(daemon=True)
        self.port, self.tenants, self.result, self.seed = port, tenants, result, seed
        self.is_over = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as exc:  # noqa: BLE001 - told to the loop of the port
            self.failure = exc

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, tenant in enumerate(self.tenants * CLIENTS_EACH):
                group.create_task(self._one(tenant, number))

    async def _one(self, tenant: str, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        client: WireClient | None = None
        step = 0
        while not self.is_over:
            if client is None:
                client = await self._come(tenant)
                continue
            step += 1
            answer = await self._step(client, rng, tenant, f"{tenant} {number} {step}")
            if answer is None or not answer.status:  # it left, or was ended
                client.abort()
                client = None
        if client is not None:
            await client.close()

    async def _come(self, tenant: str) -> WireClient | None:
        client = None
        try:
            client = await WireClient.connect(self.port, tenant)
            client.send(frame(PARSE, b"p\0SELECT name, $1::text FROM projects ORDER BY id LIMIT 1\0\0\0") + frame(SYNC))
            self._note(answer := await client.answer())
            if not answer.errors and answer.status:
                return client
        except Refused as exc:
            self.result.errors[exc.sqlstate] += 1
        except (OSError, asyncio.IncompleteReadError):
            self.result.errors["closed"] += 1
        if client is not None:
            client.abort()
        await asyncio.sleep(0.05)
        return None

    def _note(self, answer: Answer) -> None:
        for error in answer.errors:
            self.result.errors[error["C"]] += 1
        if not answer.status and not answer.errors:
            self.result.errors["closed"] += 1

    async def _step(self, client: WireClient, rng: random.Random, tenant: str, label: str) -> Answer | None:
        """What came; None: it left in the middle of a request."""
        kind, sql = rng.random(), SQL.format(label)
        if kind < 0.35:
            client.send(query(sql))
        elif kind < 0.55:
            client.send(_statement(b"", sql) + _run(b"", label, has_parameter=False))
        elif kind < 0.75:
            client.send(_run(b"p", label))
        elif kind < 0.85:
            return await self._block(client, rng, tenant, label)
        elif kind < 0.88:
            client.send(query(f"SELECT name, '{label}' || 1/0 FROM projects"))
        elif kind < 0.92:
            client.send(
                query(f"SELECT name, '{label}' FROM projects, pg_sleep({rng.random() / 30}) ORDER BY id LIMIT 1")
            )
        elif kind < 0.96:
            client.send(query(f"SELECT name, '{label}' FROM projects, pg_sleep(0.02) ORDER BY id LIMIT 1"))
            self.result.faults["cancelled by clients"] += 1
            with suppress(OSError):
                await cancel(self.port, client.pid, client.secret)
        else:
            client.send(
                rng.choice((query("SELECT pg_sleep(0.01)"), query(sql)[:9], query(sql) * 3, _statement(b"", sql)))
            )
            self.result.faults["left in a request"] += 1
            return None
        return self._heard(await client.answer(), tenant, label)

    async def _block(self, client: WireClient, rng: random.Random, tenant: str, label: str) -> Answer:
        answer = await client.query("BEGIN")
        self._note(answer)
        for sql in (SQL.format(label), rng.choice((SQL.format(label), "SELECT 1/0")), "COMMIT"):
            if not answer.status:
                break
            answer = await client.query(sql)
            if answer.sqlstate != "25P02":  # of a transaction that failed, as it was told
                self._heard(answer, tenant, label, has_row=sql == SQL.format(label))
        return answer

    def _heard(self, answer: Answer, tenant: str, label: str, *, has_row: bool = True) -> Answer:
        self._note(answer)
        expected = [[f"{tenant} 1", label]] if has_row else []
        is_right = answer.rows == expected or (not answer.rows and (answer.errors or not answer.status))
        if not is_right:
            self.result.wrong.append(f"{label}: {answer.rows[:3]} {answer.tags}")
        self.result.answered += 1
        return answer


def _statement(name: bytes, sql: str) -> bytes:
    return frame(PARSE, name + b"\0" + sql.encode() + b"\0\0\0")


def _run(name: bytes, label: str, *, has_parameter: bool = True) -> bytes:
    value = struct.pack("!HI", 1, len(label)) + label.encode() if has_parameter else b"\0\0"
    return (
        frame(BIND, b"\0" + name + b"\0\0\0" + value + b"\0\0") + frame(DESCRIBE, b"P\0")
        + frame(EXECUTE, b"\0\0\0\0\0") + frame(SYNC)
    )  # fmt: skip


# --- faults ----------------------------------------------------------------------------------------------------------
class Faults:
    """What goes wrong, one thing after the other."""

    def __init__(self, world: World, house: PortHouse, result: Result, seed: int) -> None:
        self.world, self.house, self.result = world, house, result
        self.rng = random.Random(seed)
        self.crash_at = time.monotonic() + CRASH_SECONDS / 4

    async def next(self) -> None:
        """One of them."""
        rng, names = self.rng, [tenant.id for tenant in self.world.tenants]
        if time.monotonic() >= self.crash_at:
            self.crash_at = time.monotonic() + CRASH_SECONDS
            await self._said("a backend was killed by SIGKILL", self._kill)
            return
        kind, tenant = rng.random(), rng.choice(names)
        if kind < 0.5:
            await self._said("a backend was terminated", self._terminate)
        elif kind < 0.6:
            await self._said("a tenant was suspended", lambda: self._suspend(tenant))
        elif kind < 0.75:
            await self.house.listener.pause(tenant_id(tenant))
            await asyncio.sleep(rng.random() / 10)
            self.house.listener.resume(tenant_id(tenant))
            self.result.faults["a tenant was paused"] += 1
        elif kind < 0.85:
            with suppress(AssertionError):  # it is not known just now
                self.house.pool(tenant).expire()
                self.result.faults["a pool's connections expired"] += 1
        else:
            client = next(self.house.listener.clients(tenant_id(tenant)), None)
            if client is not None:
                client.kill()
                self.result.faults["a client was ended by the operator"] += 1

    async def _said(self, name: str, do: Callable[[], Any]) -> None:
        try:
            await do()
            self.result.faults[name] += 1
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            pass  # the server is starting again

    async def _pid(self, admin: asyncpg.Connection) -> int | None:
        pids = await admin.fetch(
            "SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = 'client backend'", APP_ROLE
        )
        return int(self.rng.choice(pids)[0]) if pids else None

    async def _terminate(self) -> None:
        async with self.world.main.connect() as admin:
            await admin.execute("SELECT pg_terminate_backend($1)", await self._pid(admin))

    async def _kill(self) -> None:
        async with self.world.main.connect() as admin:
            pid = await self._pid(admin)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    async def _suspend(self, tenant: str) -> None:
        update = "UPDATE tenantproxy.tenants SET status = $2 WHERE id = $1"
        async with self.world.main.connect() as admin:
            await admin.execute(update, tenant, "suspended")
        await asyncio.sleep(self.rng.random() / 5)
        await self.resume_all()

    async def resume_all(self) -> None:
        """No tenant is suspended any more."""
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                async with self.world.main.connect() as admin:
                    await admin.execute("UPDATE tenantproxy.tenants SET status = 'active' WHERE status = 'suspended'")
                return
            await asyncio.sleep(0.1)


async def played(seconds: float, seed: int) -> Result:
    """All of it, on a server of its own. AssertionError where the port's audit finds something."""
    result = Result(seconds=seconds, path="in pure Python" if why_not() else "that is compiled")
    async with (
        EmbeddedPostgres(max_connections=60, durable=False) as server,
        a_world(server, rows=EACH, schemas=EACH, databases=EACH) as world,
        a_port(world, registry="postgres", **LIMITS) as house,
    ):
        load = Load(house.number, [tenant.id for tenant in world.tenants], result, seed)
        faults, process, began = Faults(world, house, result, seed), psutil.Process(), time.monotonic()
        load.start()
        while (passed := time.monotonic() - began) < seconds and load.failure is None:
            result.memory.append((passed, int(process.memory_info().rss)))
            await faults.next()
            house.router.events.clear()  # else they are what grows
            await asyncio.sleep(0.1 * faults.rng.random())
        await faults.resume_all()
        load.is_over = True
        await asyncio.to_thread(load.join)
        if load.failure is not None:
            raise load.failure
        await _audit(house, world, result)
    return result


async def _audit(house: PortHouse, world: World, result: Result) -> None:
    listener, pump = house.listener, getattr(asyncio.get_running_loop(), "pump", None)
    try:
        await house.audit({SERVER: world.server})
    except Exception as exc:  # noqa: BLE001 - told
        result.lost.append(f"{type(exc).__name__}: {exc}")
    pools = house.lending._pools
    admission = listener._admission
    left = {
        "connections in use": sum(pool.stats().used for pool in pools),
        "waiting": sum(pool.stats().waiting for pool in pools),
        "clients that count": admission._clients + admission._consoles,
        "tenants, users and addresses that count": sum(
            len(each) for each in (admission._tenants, admission._users, admission._addresses)
        ),
        "connections that lie parked": 0 if pump is None else pump.parked,
        "startup connections": len(listener._unauthenticated),
        "bytes of statements": listener._memory.used,
    }
    result.lost += [f"{name}: {count}" for name, count in left.items() if count]
    result.evicted = sum(house.router.stats().evicted.values())
    result.carried = 0 if pump is None else pump.carried


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if why_not() is None:
        from tenantproxy._native.loop import NativeLoop

        runner = asyncio.Runner(loop_factory=NativeLoop)
    else:
        runner = asyncio.Runner()
    with runner:
        print(json.dumps(plain(runner.run(played(asked.seconds, asked.seed)))))


if __name__ == "__main__":
    _main()
