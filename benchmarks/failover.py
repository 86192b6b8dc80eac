"""What does a failover cost? Writers on the library and the port, while a primary ends and its standby is promoted.

Half of the rounds replicate synchronously: what was acknowledged must be there, once. In the others a primary may have
acknowledged what its standby never received: that is told from a loss by the position in the write-ahead log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import asyncpg

from benchmarks import failover_patroni
from benchmarks.failover_writers import (
    LIMIT_SECONDS,
    TABLE,
    WAIT_SECONDS,
    WRITERS,
    Kept,
    Writers,
    a_client,
    a_listener,
    branch_of,
    fails,
    kept_of,
    rows_of,
)
from benchmarks.table import Verdict, loud, render, verdicts
from tenantproxy import Router
from tenantproxy.model import Isolation
from tenantproxy.sidecar.pg import PgPort
from tests.support.database import Database
from tests.support.port_house import port_settings
from tests.support.standby import Replicated, a_replicated_world
from tests.support.world import SERVER, World

_PROBE_SECONDS: Final = 0.005

Ending = Literal["fast", "immediate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one failover. Seconds from the first write that the new primary took to the first of each side."""

    ending: Ending
    is_synchronous: bool
    acknowledged: int
    errors: int
    kept: Kept
    library_seconds: float
    port_seconds: float
    idle_errors: int  # of clients that asked nothing while there was no primary


def main(arguments: list[str]) -> int:
    """The exit status: 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--writes", type=int, default=100_000, help="acknowledged ones of all rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--patroni", action="store_true", help="a cluster of Patroni and etcd, also behind HAProxy")
    parser.add_argument("--only", default="", help="of those rounds: what their names hold, for example switchover")
    asked = parser.parse_args(arguments)
    if asked.patroni:
        return failover_patroni.run(asked.writes, asked.json, only=asked.only)
    rounds = asyncio.run(_rounds(asked.rounds, asked.writes // asked.rounds))
    found = _verdicts(rounds, asked.writes)
    rows = [
        (
            f"{one.ending}, {'synchronous' if one.is_synchronous else 'asynchronous'}",
            f"{one.acknowledged:,}", str(one.errors), f"{one.kept.lost} / {one.kept.doubled}",
            f"{one.kept.never_received} + {one.kept.at_the_edge}",
            f"{one.library_seconds:.3f} / {one.port_seconds:.3f}", str(one.idle_errors),
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
    acknowledged, bad = sum(one.acknowledged for one in rounds), sum(one.kept.lost + one.kept.doubled for one in rounds)
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
            await admin.execute(TABLE)
        if is_synchronous:
            await _set(world, "synchronous_standby_names", "*")
        settings = port_settings(
            world, servers={SERVER: replicated.hosts()}, pools={"acquire_timeout": WAIT_SECONDS, "max_size": 40}
        )
        async with Router(settings) as router, a_listener(router) as port:
            return await _fail_over(replicated, router, port, ending, is_synchronous=is_synchronous, writes=writes)


async def _fail_over(
    replicated: Replicated, router: Router, port: PgPort, ending: Ending, *, is_synchronous: bool, writes: int
) -> Round:
    world, standby = replicated.world, replicated.standby
    (tenant,) = world.of(Isolation.DATABASE)
    number = port.listener.address[1]
    writers = Writers(router, tenant.id, number)
    writers.wanted = writes
    idle = [await a_client(number, tenant.id) for _ in range(WRITERS)]
    for client in idle:
        await client.fetchval("SELECT 1")
    async with asyncio.TaskGroup() as group:
        writers.start(group)
        await writers.enough.wait()
        await asyncio.to_thread(world.server.stop, ending)
        promotion = group.create_task(asyncio.to_thread(standby.promote))
        await _accepts(replicated)
        writers.accepted()
        await promotion
        writers.ends_at = time.monotonic() + 0.5
    idle_errors = sum([await fails(client) for client in idle])
    async with Database(server=standby, name=tenant.placement.database).connect() as admin:
        kept = kept_of(
            writers.acknowledged, await rows_of(admin), await branch_of(admin), is_synchronous=is_synchronous
        )
    return Round(
        ending=ending,
        is_synchronous=is_synchronous,
        acknowledged=len(writers.acknowledged),
        errors=writers.errors,
        kept=kept,
        library_seconds=writers.first["library"] - writers.accepts_at,
        port_seconds=writers.first["port"] - writers.accepts_at,
        idle_errors=idle_errors,
    )


async def _set(world: World, name: str, value: str) -> None:
    """On the primary alone: its standby was copied before."""
    async with Database(server=world.server, name="postgres").connect() as admin:
        await admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await admin.execute("SELECT pg_reload_conf()")


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
