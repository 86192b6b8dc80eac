"""What happens when two thousand requests for five hundred tenants arrive at once and nothing is open?"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

from benchmarks.measure import percentile
from benchmarks.part import Options, Part
from benchmarks.table import Verdict, figure, render
from benchmarks.world import SELECT, World
from tenantproxy import Router

__all__ = ["Outcome", "run", "storm"]

DATABASES, SCHEMAS, ROWS, REQUESTS_EACH = 60, 220, 220, 4
BUDGET: Final = 40
PATIENCE_SECONDS: Final = 60.0  # who is not served by then is counted as an error
_ERROR: Final = re.compile(r"\b(ERROR|FATAL|PANIC):")

# Looks from inside the server, without pause to speak of, until it gets the lock that we hold meanwhile.
_WATCH: Final = """
create function pg_temp.watch(out most int, out looks int) language plpgsql as $$
declare seen int;
begin
  most := 0; looks := 0;
  while not pg_try_advisory_lock(40) loop
    perform pg_stat_clear_snapshot();
    select count(*) into seen from pg_stat_activity
    where backend_type = 'client backend' and usename is distinct from session_user;
    most := greatest(most, seen); looks := looks + 1;
    perform pg_sleep(0.001);
  end loop;
  perform pg_advisory_unlock(40);
end $$
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one storm. `most` backends at once by pg_stat_activity, in `looks` looks; seconds."""

    tenants: int
    requests: int
    served: int
    errors: dict[str, int]
    most: int
    looks: int
    server_errors: list[str]
    seconds: float
    p50: float
    p99: float


@dataclass(slots=True)
class Watch:
    """What the watcher saw; filled in when the block ends."""

    most: int = 0
    looks: int = 0
    server_errors: list[str] = field(default_factory=list)


async def run(world: World, options: Options) -> Part:
    """One storm on a server that the application has no connection to."""
    sizes = [max(1, round(size * options.scale)) for size in (DATABASES, SCHEMAS, ROWS)]
    outcome = await storm(world, databases=sizes[0], schemas=sizes[1], rows=sizes[2])
    rows = [
        ("requests served", f"{outcome.served} of {outcome.requests}"),
        ("most backends at once", f"{outcome.most} ({outcome.looks} looks), budget {BUDGET}"),
        ("errors of the server", str(len(outcome.server_errors))),
        ("all served after", figure(outcome.seconds, "s")),
        ("a request, p50 / p99", f"{figure(outcome.p50)} / {figure(outcome.p99, 's')}"),
    ]
    title = f"Storm: {outcome.requests} requests at once for {outcome.tenants} cold tenants"
    return Part(title=title, text=render(("", "measured"), rows), data=asdict(outcome), verdicts=_verdicts(outcome))


def _verdicts(outcome: Outcome) -> tuple[Verdict, ...]:
    worst = outcome.server_errors[:1] or [str(outcome.errors)] if outcome.errors else outcome.server_errors[:1]
    return (
        Verdict(
            target="storm: every request served, no error from the server",
            wanted=f"{outcome.requests} served, 0 errors",
            measured=f"{outcome.served} served, {len(outcome.server_errors)} errors {' '.join(worst)}".strip(),
            met=outcome.served == outcome.requests and not outcome.server_errors,
        ),
        Verdict(
            target="storm: backends in pg_stat_activity",
            wanted=f"<= {BUDGET}",
            measured=f"{outcome.most} ({outcome.looks} looks)",
            met=0 < outcome.most <= BUDGET,
        ),
    )


async def storm(world: World, *, databases: int, schemas: int, rows: int) -> Outcome:
    """REQUESTS_EACH requests for each of so many cold tenants, all at once, under BUDGET connections."""
    names = {
        "database": [f"storm_db_{number:03}" for number in range(databases)],
        "schema": [f"storm_schema_{number:03}" for number in range(schemas)],
        "row": [f"storm_row_{number:03}" for number in range(rows)],
    }
    await world.add_databases(names["database"])
    await world.add_schemas(names["schema"])
    await world.add_rows(names["row"])
    entries: dict[str, dict[str, object]] = {}
    entries |= {name: {"isolation": "database", "database": name} for name in names["database"]}
    entries |= {
        name: {"isolation": "schema", "database": "bench_schemas", "schema": name, "role": name}
        for name in names["schema"]
    }
    entries |= {name: {"isolation": "row", "database": "bench_signed"} for name in names["row"]}
    requests = list(entries) * REQUESTS_EACH
    random.Random(2000).shuffle(requests)
    settings = world.settings(entries, budget=BUDGET, acquire_timeout=PATIENCE_SECONDS, max_waiting=1000)
    taken: list[float] = []
    errors: Counter[str] = Counter()

    async def request(router: Router, tenant: str) -> None:
        start = time.perf_counter()
        try:
            row = await router.tenant(tenant).fetchrow(SELECT, 7)
        except Exception as error:  # noqa: BLE001  # every failure is a figure here
            errors[type(error).__name__] += 1
            return
        if row is None or row["id"] != 7:
            errors["wrong row"] += 1
            return
        taken.append(time.perf_counter() - start)

    start = time.perf_counter()
    async with watched(world) as watch, Router(settings) as router:
        start = time.perf_counter()
        await asyncio.gather(*(request(router, tenant) for tenant in requests))
        seconds = time.perf_counter() - start
    return Outcome(
        tenants=len(entries),
        requests=len(requests),
        served=len(taken),
        errors=dict(errors),
        most=watch.most,
        looks=watch.looks,
        server_errors=watch.server_errors,
        seconds=seconds,
        p50=percentile(taken, 50) if taken else 0.0,
        p99=percentile(taken, 99) if taken else 0.0,
    )


@asynccontextmanager
async def watched(world: World) -> AsyncIterator[Watch]:
    """Counts the backends of all users but the superuser, and reads the server's log, while the block runs."""
    watch = Watch()
    holder, watcher = await world.admin(), await world.admin()
    written = world.server.log_file.stat().st_size
    try:
        await holder.execute("select pg_advisory_lock(40)")
        await watcher.execute(_WATCH)
        looking = asyncio.create_task(watcher.fetchrow("select * from pg_temp.watch()"))
        try:
            yield watch
        finally:
            await holder.execute("select pg_advisory_unlock(40)")
            seen = await looking
        assert seen is not None
        watch.most, watch.looks = seen["most"], seen["looks"]
        with world.server.log_file.open(errors="replace") as log:
            log.seek(written)
            watch.server_errors = [line.strip() for line in log if _ERROR.search(line)]
    finally:
        await holder.close()
        await watcher.close()
