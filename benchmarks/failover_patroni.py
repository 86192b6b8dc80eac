"""What does a failover by Patroni cost? Straight to the nodes (`hosts`), and by way of HAProxy's port of the primary.

Each round breaks the cluster in one way. What counts is the time from the moment at which a plain connection could
write again, at the new primary or through HAProxy, to the first write of tenantproxy's writers there. `HAProxy, host`
is for comparison: with `host` instead of `hosts` no server is watched, and callers are refused instead of waiting.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg

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
from benchmarks.patroni_cluster import Cluster, Node, a_cluster, missing
from benchmarks.table import Verdict, loud, render, verdicts
from tenantproxy import Router
from tenantproxy.model import Isolation
from tests.support.port_house import port_settings
from tests.support.world import SERVER, World, a_world

__all__ = ["Round", "Way", "run", "verdicts_of"]

Fault = Literal["switchover", "kill -9 postgres", "kill -9 both", "kill -9 Patroni"]
Way = Literal["hosts", "HAProxy, host", "HAProxy, hosts"]
_PROBE_SECONDS: Final = 0.005
_LOST: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
_ROUNDS: Final[tuple[tuple[bool, Way, Fault], ...]] = (
    (True, "hosts", "switchover"),
    (True, "hosts", "kill -9 postgres"),
    (True, "hosts", "kill -9 both"),
    (True, "hosts", "kill -9 Patroni"),
    (True, "HAProxy, hosts", "switchover"),
    (True, "HAProxy, hosts", "kill -9 postgres"),
    (True, "HAProxy, hosts", "kill -9 both"),
    (True, "HAProxy, hosts", "kill -9 Patroni"),
    (True, "HAProxy, host", "switchover"),
    (True, "HAProxy, host", "kill -9 both"),
    (False, "hosts", "kill -9 both"),
    (False, "hosts", "kill -9 Patroni"),
    (False, "HAProxy, hosts", "kill -9 both"),
    (False, "HAProxy, hosts", "kill -9 Patroni"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one fault. `down_seconds`: until a plain connection could write again where tenantproxy connects.

    `stale`: acknowledged by the former primary after the new one took writes, which no standby received.
    """

    fault: Fault
    way: Way
    is_synchronous: bool
    acknowledged: int
    errors: int
    kept: Kept
    stale: int
    down_seconds: float
    library_seconds: float
    port_seconds: float
    idle_errors: int


def run(writes: int, file: Path | None, *, only: str = "") -> int:
    """The exit status: 1 where a target is missed, 2 where something is to be installed first.

    `only`: rounds in whose names this is.
    """
    if command := missing():
        print(f"the cluster is made of Debian's packages: {command}", file=sys.stderr)
        return 2
    chosen = [each for each in _ROUNDS if only in _name(*each)]
    if not chosen:
        print(f"no round is called so; there are {'; '.join(_name(*each) for each in _ROUNDS)}", file=sys.stderr)
        return 2
    rounds = asyncio.run(_rounds(writes, chosen))
    rows = [
        (
            _name(one.is_synchronous, one.way, one.fault),
            f"{one.acknowledged:,}", str(one.errors), f"{one.kept.lost} / {one.kept.doubled}",
            f"{one.kept.never_received} + {one.kept.at_the_edge}", str(one.stale), f"{one.down_seconds:.1f}",
            f"{one.library_seconds:.3f} / {one.port_seconds:.3f}", str(one.idle_errors),
        )
        for one in rounds
    ]  # fmt: skip
    head = (
        "round", "acknowledged", "errors", "lost / doubled", "never received", "stale", "down (s)",
        "first write after, library / port (s)", "idle clients' errors",
    )  # fmt: skip
    found = verdicts_of(rounds, writes)
    print(render(head, rows), verdicts(found), loud(found), sep="\n\n")
    if file is not None:
        file.write_text(json.dumps([asdict(one) for one in rounds], indent=1))
    return int(not all(one.met for one in found))


def verdicts_of(rounds: list[Round], writes: int) -> tuple[Verdict, ...]:
    """What was wanted of all rounds together."""
    watched = [one for one in rounds if one.way != "HAProxy, host"]
    slowest = max(max(one.library_seconds, one.port_seconds) for one in watched)
    acknowledged, bad = sum(one.acknowledged for one in rounds), sum(one.kept.lost + one.kept.doubled for one in rounds)
    idle = sum(one.idle_errors for one in watched)
    return (
        Verdict(
            target="first write after a plain connection could write there",
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


def _name(is_synchronous: bool, way: Way, fault: Fault) -> str:
    return f"{fault}, {'synchronous' if is_synchronous else 'asynchronous'}, {way}"


async def _rounds(writes: int, chosen: Sequence[tuple[bool, Way, Fault]]) -> list[Round]:
    found: list[Round] = []
    async with a_cluster(_tell) as cluster, a_world(cluster.server, rows=0, schemas=0, databases=1) as world:
        for is_synchronous, way, fault in chosen:
            _tell(_name(is_synchronous, way, fault))
            primary = await cluster.set_synchronous(is_synchronous=is_synchronous)
            one = await _round(cluster, world, primary, fault, way, is_synchronous, -(-writes // len(chosen)))
            _tell(repr(one))
            found.append(one)
        await cluster.settled_any()
    return found


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _server(cluster: Cluster, way: Way) -> Mapping[str, Any]:
    haproxy = f"127.0.0.1:{cluster.primary_port}"
    if way == "hosts":
        return {"hosts": [node.address for node in cluster.nodes]}
    return {"hosts": [haproxy]} if way == "HAProxy, hosts" else {"port": cluster.primary_port}


async def _round(
    cluster: Cluster, world: World, primary: Node, fault: Fault, way: Way, is_synchronous: bool, writes: int
) -> Round:
    (tenant,) = world.of(Isolation.DATABASE)
    admin = await cluster.connect(primary, tenant.placement.database)
    await admin.execute(f"DROP TABLE IF EXISTS writes; {TABLE}; CREATE TABLE IF NOT EXISTS taken (n int)")
    await admin.close()
    settings = port_settings(
        world, servers={SERVER: _server(cluster, way)}, pools={"acquire_timeout": WAIT_SECONDS, "max_size": 40}
    )
    async with Router(settings) as router, a_listener(router) as port:
        number = port.listener.address[1]
        writers = Writers(router, tenant.id, number)
        writers.wanted = writes
        idle = [await a_client(number, tenant.id) for _ in range(WRITERS)]
        for client in idle:
            await client.fetchval("SELECT 1")
        async with asyncio.TaskGroup() as group:
            writers.start(group)
            await writers.enough.wait()
            began = time.monotonic()
            group.create_task(_break(cluster, primary, fault))
            await _accepts(cluster, primary, way, tenant.placement.database)
            writers.accepted()
            await writers.both.wait()
            writers.ends_at = time.monotonic() + 0.5
        idle_errors = sum([await fails(client) for client in idle])
    _repair(cluster, primary)
    conn = await cluster.connect(await cluster.settled(is_synchronous=is_synchronous), tenant.placement.database)
    kept = kept_of(writers.acknowledged, await rows_of(conn), await branch_of(conn), is_synchronous=is_synchronous)
    await conn.close()
    return Round(
        fault=fault,
        way=way,
        is_synchronous=is_synchronous,
        acknowledged=len(writers.acknowledged),
        errors=writers.errors,
        kept=kept,
        stale=writers.stale,
        down_seconds=writers.accepts_at - began,
        library_seconds=writers.first["library"] - writers.accepts_at,
        port_seconds=writers.first["port"] - writers.accepts_at,
        idle_errors=idle_errors,
    )


async def _break(cluster: Cluster, primary: Node, fault: Fault) -> None:
    if fault == "switchover":
        await cluster.switch_over(primary)
        return
    ends: dict[Fault, tuple[Callable[[], None], ...]] = {
        "kill -9 postgres": (primary.kill_postgres,),
        "kill -9 both": (primary.kill_patroni, primary.kill_postgres),
        "kill -9 Patroni": (primary.kill_patroni,),
    }
    for kill in ends[fault]:
        kill()


def _repair(cluster: Cluster, node: Node) -> None:
    """As an operator would: a primary whose Patroni has gone is ended before that is started again."""
    if node.process is None:
        if node.is_up():
            node.kill_postgres()
        cluster.start_patroni(node)


async def _accepts(cluster: Cluster, former: Node, way: Way, database: str) -> None:
    """Returns when a plain connection has written to another primary than the `former`."""
    places = [node for node in cluster.nodes if node is not former] if way == "hosts" else [None]
    probes = [asyncio.create_task(_written(cluster, former, node, database)) for node in places]
    try:
        await asyncio.wait(probes, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)


async def _written(cluster: Cluster, former: Node, node: Node | None, database: str) -> None:
    while True:
        with suppress(*_LOST):
            conn = await cluster.connect(node, database)
            try:
                while await conn.fetchval("SELECT inet_server_port()") != former.port:
                    with suppress(asyncpg.ReadOnlySQLTransactionError):
                        await conn.execute("INSERT INTO taken VALUES (1)")
                        return
                    await asyncio.sleep(_PROBE_SECONDS)
            finally:
                conn.terminate()
        await asyncio.sleep(_PROBE_SECONDS)
