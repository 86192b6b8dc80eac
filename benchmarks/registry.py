"""Does the registry hold when everything comes at once? Cold tenants, an UPDATE of thousands, a scrape of 500 pools."""

from __future__ import annotations

import asyncio
import platform
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from benchmarks.measure import percentile
from benchmarks.part import Options, Part
from benchmarks.program import Done, in_turn, machine, parser_of, run
from benchmarks.registry_world import COUNT, Holds, RegistryWorld, open_registry_world, row_name, schema_name
from benchmarks.table import at_most, figure, render
from tenantproxy import Router
from tenantproxy.metrics.exposition import exposition_in_slices, registry_of
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.model import TenantId
from tenantproxy.sidecar.pg.lending import RawLending

__all__ = ["main"]

TENANTS: Final = 10_000
POOLS: Final = 500
CLIENTS: Final = 400
CHANGED: Final = 4_800
SCRAPES: Final = 20
_HELD: Final = {"scrape": "a scrape", "sweep": "a sweep", "change": f"{CHANGED} changes"}


async def _outcomes(calls: Sequence[Coroutine[Any, Any, object]]) -> tuple[int, Counter[str], float]:
    """How many succeeded, the errors of the others, and the seconds until the last one."""
    started = time.perf_counter()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = Counter(str(answer) for answer in answers if isinstance(answer, BaseException))
    return len(answers) - errors.total(), errors, time.perf_counter() - started


async def herd(world: RegistryWorld, options: Options) -> Part:
    """All tenants at once, none of them known: looked up alone, with a query, and by the PostgreSQL port."""
    names = [TenantId(row_name(number)) for number in range(world.rows)]
    done: dict[str, tuple[int, Counter[str], float]] = {}
    async with Router(world.settings()) as router:
        done["looked up"] = await _outcomes([router.registry.get(name) for name in names])
    async with Router(world.settings()) as router:
        done["served a query"] = await _outcomes([router.tenant(name).fetchval(COUNT) for name in names])
    async with Router(world.settings()) as router:
        lending = RawLending(router)
        await lending.open()
        done["found by the port"] = await _outcomes([lending.find(name) for name in names])
        await lending.close()
    rows = [(what, str(served), str(errors.total()), figure(took)) for what, (served, errors, took) in done.items()]
    refused = sum(errors.total() for _, errors, _ in done.values())
    return Part(
        title=f"{len(names)} cold tenants at once",
        text=render(("", "served", "refused", "seconds"), rows),
        data={what: {"served": n, "errors": dict(e), "seconds": s} for what, (n, e, s) in done.items()},
        verdicts=(at_most("cold tenants refused", 0, float(refused), ""),),
    )


async def update(world: RegistryWorld, options: Options) -> Part:
    """Working clients, and one UPDATE that announces thousands of changes; all of them are seen."""
    names = [row_name(number) for number in range(CLIENTS)]
    errors: Counter[str] = Counter()
    calls, stop = 0, asyncio.Event()
    settings = world.settings(pools={"max_waiting": CLIENTS})
    async with Router(settings) as router, world.main() as admin:

        async def work(name: str) -> None:
            nonlocal calls
            while not stop.is_set():
                try:
                    await router.tenant(name).fetchval(COUNT)
                except Exception as exc:  # noqa: BLE001 - what is counted
                    errors[str(exc)] += 1
                    await asyncio.sleep(0.01)
                calls += 1

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(work(name))
            await _until(lambda: calls >= 2 * CLIENTS)
            before, quiet = calls, time.perf_counter()
            await asyncio.sleep(2.0)
            pace = (calls - before) / (time.perf_counter() - quiet)
            former = router.registry.peek(names[0])
            await admin.execute("update tenantproxy.tenants set tier = 'gold' where id <= $1", row_name(CHANGED - 1))
            before, started = calls, time.perf_counter()
            await _until(lambda: router.registry.peek(names[0]) not in (former, None) and calls > before + 2 * CLIENTS)
            after = (calls - before) / (time.perf_counter() - started)
            stop.set()
    rows = [(f"{CLIENTS} clients", str(calls), str(errors.total()), figure(pace), figure(after))]
    return Part(
        title=f"One UPDATE of {CHANGED} tenants under load",
        text=render(("", "calls", "errors", "calls/s before", "calls/s after"), rows),
        data={"calls": calls, "errors": dict(errors), "per_second": {"before": pace, "after": after}},
        verdicts=(at_most("errors of working clients", 0, float(errors.total()), ""),),
    )


async def scrape(world: RegistryWorld, options: Options) -> Part:
    """A scrape with hundreds of open pools, a sweep of them, thousands of announcements: how long, in which holds."""
    names = [schema_name(number) for number in range(world.schemas)]
    scraped: list[tuple[str, ...]] = []
    held: list[tuple[str, ...]] = []
    data: dict[str, dict[str, float]] = {}
    for most in (100, world.schemas):
        async with Router(world.settings(metrics={"max_tenants": most})) as router, world.main() as admin:
            await router.listener.listening.wait()
            for start in range(0, len(names), 50):
                await asyncio.gather(*(router.tenant(name).fetchval("select 1") for name in names[start : start + 50]))
            took, size, in_scrapes = await _scrapes(router)
            with Holds() as in_sweeps:
                await asyncio.sleep(3.0)  # several sweeps
            with Holds() as in_changes:
                before = router.registry.lookups["postgres", "found"]
                await admin.execute(
                    "update tenantproxy.tenants set tier = 'gold' where id <= $1 or isolation = 'schema'",
                    row_name(CHANGED - world.schemas - 1),
                )
                await _until(partial(_has_found, router, before + len(names)))
            data[str(most)] = {"scrape_ms": took, "collection_ms": in_changes.collection_ms}
            pools = str(len(router.stats().pools))
            scraped.append((str(most), pools, figure(size / 1e3), figure(took), figure(in_changes.collection_ms)))
            for what, holds in (("scrape", in_scrapes), ("sweep", in_sweeps), ("change", in_changes)):
                data[str(most)] |= {f"{what}_hold": holds.longest_ms, f"{what}_hold_wall": holds.longest_wall_ms}
                held.append((_HELD[what], str(most), figure(holds.longest_ms), figure(holds.longest_wall_ms)))
    return Part(
        title=f"{POOLS} open pools",
        text="\n\n".join(
            (
                render(("max_tenants", "pools", "kB", "scrape ms", "full collection ms"), scraped),
                render(("longest hold in", "max_tenants", "own processor time ms", "by the clock ms"), held),
            )
        ),
        data=data,
        verdicts=(
            *(at_most(f"a scrape, max_tenants {most}", 50, one["scrape_ms"], "ms") for most, one in data.items()),
            *(
                at_most(f"longest hold in {where}", 5, max(one[f"{what}_hold"] for one in data.values()), "ms")
                for what, where in _HELD.items()
            ),
        ),
    )


def _has_found(router: Router, count: int) -> bool:
    return router.registry.lookups["postgres", "found"] >= count


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - it is looked at from outside
        await asyncio.sleep(0.01)


async def _scrapes(router: Router) -> tuple[float, int, Holds]:
    """The median of some scrapes in milliseconds of processor time, the bytes of one, and the holds in all of them."""
    times: list[float] = []
    body = b""
    with Holds() as holds:
        for _ in range(SCRAPES):
            started = time.thread_time()
            stats = await router.scrape()
            body, _ = await exposition_in_slices(registry_of(RouterCollector(partial(_same, stats), version="1")), "")
            times.append((time.thread_time() - started) * 1e3)
    return percentile(times, 50), len(body), holds


def _same(stats: Any) -> Any:
    return stats


PARTS: Final[dict[str, Callable[[RegistryWorld, Options], Awaitable[Part]]]] = {
    "herd": herd,
    "update": update,
    "scrape": scrape,
}


def main(arguments: Sequence[str]) -> int:
    """See `program.run`."""
    parser = parser_of("registry", __doc__, PARTS, rounds=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of the tenants of the herd, for a quick look")
    asked = parser.parse_args(arguments)
    options = Options(rounds=asked.rounds, scale=asked.scale)
    return run(asked, PARTS, partial(_run, options, asked.postgres), {"scale": options.scale})


async def _run(options: Options, postgres: int, names: Sequence[str]) -> Done:
    rows = max(CHANGED, round(TENANTS * options.scale))
    async with open_registry_world(rows=rows, schemas=POOLS, version=postgres) as world:
        environment = {
            "PostgreSQL": world.server.version,
            "Python": platform.python_version(),
            **{name: version(name) for name in ("asyncpg", "uvloop", "prometheus-client")},
            **machine(),
        }
        return environment, await in_turn(names, PARTS, world, options, environment)
