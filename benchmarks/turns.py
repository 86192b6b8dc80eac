"""How much is done when tenants outnumber connections and the server is far away? Fixed turns and scaled ones.

Each tenant has a database to itself and a few callers in a closed loop; a proxy delays each message. A connect takes
several round trips, so each change of the tenant is dear.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.table import render
from tenantproxy import Router
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.pools import budget
from tests.support.chaos import ChaosProxy
from tests.support.world import SERVER, World, a_world

__all__ = ["main"]

_WAYS: Final = {"fixed, 0.1 s": 0.0, "scaled with the connect": budget.TURN_OPENS}
_SELECT: Final = "SELECT count(*) FROM projects"


def main(arguments: Sequence[str]) -> int:
    """Run both ways, one after the other, several times; 1 when a caller heard an error."""
    asked = _parser().parse_args(arguments)
    results = asyncio.run(_all(asked))
    rows = [_row(way, rounds) for way, rounds in results.items()]
    print(render(("turn", "transactions/s", "connects/transaction", "longest wait", "errors"), rows))
    if asked.json is not None:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(one["errors"] for rounds in results.values() for one in rounds) else 0


def _row(way: str, rounds: list[dict[str, float]]) -> tuple[str, ...]:
    middle = sorted(rounds, key=lambda one: one["per_second"])[len(rounds) // 2]
    pace, opens, slowest, errors = (middle[name] for name in ("per_second", "opens", "slowest", "errors"))
    return way, f"{pace:.1f}", f"{opens:.2f}", f"{slowest:.1f} s", f"{errors:.0f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench turns", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3, help="of each way; the median is shown")
    parser.add_argument("--tenants", type=int, default=16)
    parser.add_argument("--callers", type=int, default=2, help="of each tenant")
    parser.add_argument("--budget", type=int, default=10, help="connections to the server, two of them main's")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds to the server and back")
    return parser


async def _all(asked: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
    async with (
        EmbeddedPostgres(version=18, durable=False, max_connections=asked.budget + 30) as server,
        a_world(server, rows=0, schemas=0, databases=asked.tenants) as world,
    ):
        for _ in range(asked.rounds):
            for way, opens in _WAYS.items():
                budget.TURN_OPENS = opens  # type: ignore[misc]
                results[way].append(await _round(world, asked))
    return results


async def _round(world: World, asked: argparse.Namespace) -> dict[str, float]:
    async with ChaosProxy(world.server.host, world.server.port) as proxy:
        proxy.delay = asked.latency / 2
        settings = world.settings(
            servers={SERVER: {"port": proxy.port, "max_connections": asked.budget, "connect_timeout": 30.0}},
            pools={"acquire_timeout": 30.0},
        )
        async with Router(settings) as router:
            done, slowest, errors = 0, 0.0, 0
            until = time.monotonic() + asked.seconds

            async def caller(tenant: str) -> None:
                nonlocal done, slowest, errors
                while (began := time.monotonic()) < until:
                    try:
                        await router.tenant(tenant).fetchval(_SELECT)
                    except Exception:  # noqa: BLE001 - counted: which one it is does not matter here
                        errors += 1
                    done += 1
                    slowest = max(slowest, time.monotonic() - began)

            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for tenant in world.tenants * asked.callers:
                    group.create_task(caller(tenant.id))
            seconds = time.monotonic() - began
            opens = sum(router.stats().servers[0].open_seconds.counts)
        return {"per_second": done / seconds, "opens": opens / done, "slowest": slowest, "errors": errors}
