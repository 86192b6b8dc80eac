"""What does a failover cost? Writers on the library and the port, while a primary ends and its standby is promoted.

Half of the rounds replicate synchronously: what was acknowledged must be there, once. In the others a primary may have
acknowledged what its standby never received: that is told from a loss by the position in the write-ahead log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import asyncpg

from benchmarks.table import Verdict, loud, render, verdicts
from tenantproxy import Router
from tenantproxy.model import Isolation
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.pg import PgPort
from tests.support.database import Database
from tests.support.port_house import port_settings
from tests.support.standby import Replicated, a_replicated_world
from tests.support.wire_client import PASSWORD
from tests.support.world import SERVER, World

WRITERS: Final = 8  # on each side
WAIT_SECONDS: Final = 60.0
LIMIT_SECONDS: Final = 2.0
_PROBE_SECONDS: Final = 0.005
_WRITE: Final = "INSERT INTO writes VALUES ($1, $2) RETURNING (pg_current_wal_insert_lsn() - '0/0')::bigint"

Ending = Literal["fast", "immediate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one failover. Seconds from the first write that the new primary took to the first of each side."""

    ending: Ending
    is_synchronous: bool
    acknowledged: int
    errors: int
    lost: int
    never_received: int
    at_the_edge: int  # begun before the last position that the standby had, perhaps committed behind it
    doubled: int
    library_seconds: float
    port_seconds: float
    idle_errors: int  # of clients that asked nothing while there was no primary


def main(arguments: list[str]) -> int:
    """The exit status: 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--writes", type=int, default=100_000, help="acknowledged ones of all rounds")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    rounds = asyncio.run(_rounds(asked.rounds, asked.writes // asked.rounds))
    found = _verdicts(rounds, asked.writes)
    rows = [
        (
            f"{one.ending}, {'synchronous' if one.is_synchronous else 'asynchronous'}",
            f"{one.acknowledged:,}", str(one.errors), f"{one.lost} / {one.doubled}",
            f"{one.never_received} + {one.at_the_edge}", f"{one.library_seconds:.3f} / {one.port_seconds:.3f}",
            str(one.idle_errors),
        )
        for one in rounds
    ]  # fmt: skip
    head = (
        "round", "acknowledged", "errors", "lost / doubled", "never received", "first write after, library / port (s)",
        "idle clients' errors",
    )  # fmt: skip
    print(render(head, rows), verdicts(found), loud(found), sep="\n\n")
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(one) for one in rounds], indent=1))
    return int(not all(one.met for one in found))


def _verdicts(rounds: list[Round], writes: int) -> tuple[Verdict, ...]:
    slowest = max(max(one.library_seconds, one.port_seconds) for one in rounds)
    acknowledged, bad = sum(one.acknowledged for one in rounds), sum(one.lost + one.doubled for one in rounds)
    idle = sum(one.idle_errors for one in rounds)
    return (
        Verdict(
            target="first write after the new primary takes writes",
            wanted=f"<= {LIMIT_SECONDS:g} s",
            measured=f"{slowest:.3f} s",
            met=slowest <= LIMIT_SECONDS,
        ),
        Verdict(
            target="acknowledged writes lost or doubled",
            wanted=f"0 of {writes:,}",
            measured=f"{bad} of {acknowledged:,}",
            met=bad == 0 and acknowledged >= writes,
        ),
        Verdict(target="errors of idle clients", wanted="0", measured=str(idle), met=idle == 0),
    )


async def _rounds(count: int, writes: int) -> list[Round]:
    return [await _round("fast" if number % 3 else "immediate", number % 2 == 0, writes) for number in range(count)]


async def _round(ending: Ending, is_synchronous: bool, writes: int) -> Round:
    async with a_replicated_world(rows=0, schemas=0, databases=1) as replicated:
        world = replicated.world
        (tenant,) = world.of(Isolation.DATABASE)
        async with world.database(tenant).connect() as admin:
            await admin.execute("CREATE TABLE writes (writer int, number int)")
            await admin.execute("GRANT ALL ON writes TO PUBLIC")
        if is_synchronous:
            await _set(world, "synchronous_standby_names", "*")
        settings = port_settings(
            world, servers={SERVER: replicated.hosts()}, pools={"acquire_timeout": WAIT_SECONDS, "max_size": 40}
        )
        async with Router(settings) as router, _port(router) as port:
            return await _fail_over(replicated, router, port, ending, is_synchronous=is_synchronous, writes=writes)


class _Writers:
    """Write rows that no other writes, one after the other, until they are told to end; never one again."""

    def __init__(self, router: Router, tenant: str, port: int) -> None:
        self.acknowledged: dict[tuple[int, int], int] = {}  # where the log ended before its commit
        self.first: dict[str, float] = {}  # of each side, since `accepts_at`
        self.accepts_at = 0.0
        self.ends_at = float("inf")
        self.errors = 0
        self.enough = asyncio.Event()  # as many as `wanted` are acknowledged
        self.wanted = 0
        self._router = router
        self._tenant = tenant
        self._port = port

    async def by_library(self, name: int) -> None:
        """One on the library."""
        scope = self._router.tenant(self._tenant)
        await self._write(name, "library", lambda each: scope.fetchval(_WRITE, name, each, timeout=WAIT_SECONDS))

    async def by_port(self, name: int) -> None:
        """One on the port; a client that was closed connects again."""
        client = await _client(self._port, self._tenant)

        async def write(each: int) -> int:
            nonlocal client
            if client.is_closed():
                client = await _client(self._port, self._tenant)
            lsn: int = await client.fetchval(_WRITE, name, each, timeout=WAIT_SECONDS)
            return lsn

        await self._write(name, "port", write)
        client.terminate()

    async def _write(self, name: int, side: str, write: Callable[[int], Awaitable[int]]) -> None:
        each = 0
        while time.monotonic() < self.ends_at or side not in self.first:
            each += 1
            try:
                lsn = await write(each)
            except Exception:  # noqa: BLE001 - counted; whether it took effect is not known, so it is not repeated
                self.errors += 1
                continue
            self.acknowledged[name, each] = lsn
            if len(self.acknowledged) >= self.wanted:
                self.enough.set()
            if self.accepts_at:
                self.first.setdefault(side, time.monotonic())


async def _fail_over(
    replicated: Replicated, router: Router, port: PgPort, ending: Ending, *, is_synchronous: bool, writes: int
) -> Round:
    world, standby = replicated.world, replicated.standby
    (tenant,) = world.of(Isolation.DATABASE)
    number = port.listener.address[1]
    writers = _Writers(router, tenant.id, number)
    writers.wanted = writes
    idle = [await _client(number, tenant.id) for _ in range(WRITERS)]
    for client in idle:
        await client.fetchval("SELECT 1")
    async with asyncio.TaskGroup() as group:
        for name in range(WRITERS):
            group.create_task(writers.by_library(name))
            group.create_task(writers.by_port(WRITERS + name))
        await writers.enough.wait()
        await asyncio.to_thread(world.server.stop, ending)
        received = await _position(replicated)
        promotion = group.create_task(asyncio.to_thread(standby.promote))
        await _accepts(replicated)
        writers.accepts_at = time.monotonic()
        await promotion
        writers.ends_at = time.monotonic() + 0.5
    idle_errors = sum([await _fails(client) for client in idle])
    async with Database(server=standby, name=tenant.placement.database).connect() as admin:
        rows = Counter((row[0], row[1]) for row in await admin.fetch("SELECT writer, number FROM writes"))
    missing = [lsn for key, lsn in writers.acknowledged.items() if not rows[key]]
    behind = 0 if is_synchronous else sum(lsn >= received for lsn in missing)
    edge = 0 if is_synchronous else min(len(missing) - behind, 2 * WRITERS)
    return Round(
        ending=ending,
        is_synchronous=is_synchronous,
        acknowledged=len(writers.acknowledged),
        errors=writers.errors,
        lost=len(missing) - behind - edge,
        never_received=behind,
        at_the_edge=edge,
        doubled=sum(count > 1 for count in rows.values()),
        library_seconds=writers.first["library"] - writers.accepts_at,
        port_seconds=writers.first["port"] - writers.accepts_at,
        idle_errors=idle_errors,
    )


async def _set(world: World, name: str, value: str) -> None:
    """On the primary alone: its standby was copied before."""
    async with Database(server=world.server, name="postgres").connect() as admin:
        await admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await admin.execute("SELECT pg_reload_conf()")


async def _position(replicated: Replicated) -> int:
    """How far the standby's log goes, whose primary has ended."""
    async with Database(server=replicated.standby, name="postgres").connect() as admin:
        query = "SELECT (coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint"
        found: int = await admin.fetchval(query)
        return found


async def _accepts(replicated: Replicated) -> None:
    """Returns when the new primary has taken a write, without tenantproxy."""
    async with Database(server=replicated.standby, name="postgres").connect() as admin:
        while True:
            try:
                await admin.execute("CREATE TABLE IF NOT EXISTS taken ()")
            except asyncpg.ReadOnlySQLTransactionError:
                await asyncio.sleep(_PROBE_SECONDS)
            else:
                return


async def _fails(client: asyncpg.Connection) -> int:
    """Whether a client that had asked nothing meanwhile gets an error now."""
    try:
        await client.fetchval("SELECT 1", timeout=WAIT_SECONDS)
    except Exception:  # noqa: BLE001 - a figure
        return 1
    finally:
        client.terminate()
    return 0


async def _client(port: int, tenant: str) -> asyncpg.Connection:
    client: asyncpg.Connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user="all", password=PASSWORD, database=tenant, ssl=False, timeout=WAIT_SECONDS
    )
    return client


@asynccontextmanager
async def _port(router: Router) -> AsyncIterator[PgPort]:
    port = PgPort(router, AuthDesk(router), drain_timeout=1.0, version="of the benchmark")
    await port.open()
    try:
        yield port
    finally:
        await port.close()
