"""How fast do large answers pass? Five thousand rows for each query."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import CLIENTS, Bench
from benchmarks.pg_rounds import AGAIN, Subject, control, speed_at_least, stored, table, take_turns
from benchmarks.pg_targets import DIRECT, OURS, PGBOUNCER, Targets, open_targets
from benchmarks.pg_world import DATABASE, ROW, PgWorld
from benchmarks.table import trust

__all__ = ["ROWS", "run"]

ROWS: Final = 5000
_DATABASE_TENANT, _ROW_TENANT = f"{OURS}, database", f"{OURS}, row, one tenant"
_LIMIT: Final = 0.9
# Three narrow columns: the more rows in a byte, the more there is to do for who looks at each.
_SCRIPT: Final = r"""\set first random(1, {last})
SELECT aid, bid, abalance FROM pgbench_accounts WHERE aid BETWEEN :first AND :first + {more};
"""


async def run(world: PgWorld, options: Options) -> Part:
    """All in each round."""
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        script = Path(folder) / "rows.sql"
        script.write_text(_SCRIPT.format(last=world.accounts - ROWS, more=ROWS - 1))
        program = world.server.bin_dir / "pgbench"
        bench = Bench(program=program, arguments=[f"--file={script}"], seconds=round(options.seconds))
        async with open_targets(world) as targets:
            series = await take_turns(list(_subjects(targets, bench)), options.rounds)
    found = [
        speed_at_least(
            f"{ROWS:,} rows for each query: throughput against PgBouncer", _LIMIT, series, _DATABASE_TENANT, PGBOUNCER
        ),
        *control("rows: control", series, PGBOUNCER if PGBOUNCER in series else DIRECT),
    ]
    return Part(
        title=f"{ROWS:,} rows for each query, {CLIENTS} clients",
        text=table(series, base=PGBOUNCER, unit="query"),
        data=stored(series),
        verdicts=trust(found),
    )


def _subjects(targets: Targets, bench: Bench) -> Iterator[Subject]:
    yield Subject(name=DIRECT, target=targets.direct, database=DATABASE, bench=bench)
    if targets.pgbouncer is not None:
        yield Subject(name=PGBOUNCER, target=targets.pgbouncer, database=DATABASE, bench=bench)
    yield Subject(name=_DATABASE_TENANT, target=targets.ours, database=DATABASE, bench=bench)
    yield Subject(name=_ROW_TENANT, target=targets.ours, database=ROW, bench=bench)
    yield Subject(name=AGAIN, target=targets.pgbouncer or targets.direct, database=DATABASE, bench=bench)
