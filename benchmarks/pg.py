"""What does the PostgreSQL port cost? Ours, PgBouncer in transaction mode and a direct connection, in one run."""

from __future__ import annotations

import asyncio
import platform
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Final

from benchmarks import (
    pg_connects,
    pg_drivers,
    pg_faults,
    pg_herd,
    pg_idle,
    pg_noisy,
    pg_pooler,
    pg_rows,
    pg_select,
    pg_tls,
    pg_transactions,
    pg_turns,
)
from benchmarks.part import Options, Part
from benchmarks.pg_process import allow_many_files
from benchmarks.pg_targets import pgbouncer_version
from benchmarks.pg_world import PgWorld, open_pg_world
from benchmarks.program import Done, in_turn, machine, parser_of, run
from tenantproxy.model import RowForm

__all__ = ["main"]

PARTS: Final[dict[str, Callable[[PgWorld, Options], Awaitable[Part]]]] = {
    "select": pg_select.run,
    "many": pg_select.run_many,
    "transactions": pg_transactions.run,
    "drivers": pg_drivers.run,
    "rows": pg_rows.run,
    "turns": pg_turns.run,
    "connects": pg_connects.run,
    "idle": pg_idle.run,
    "noisy": pg_noisy.run,
    "faults": pg_faults.run,
    "tls": pg_tls.run,
    "herd": pg_herd.run,
    "pooler": pg_pooler.run,
}
SCALE: Final = 5  # pgbench's: 100,000 rows each
POOL: Final = 20  # PgBouncer's own default


def main(arguments: Sequence[str]) -> int:
    """See `program.run`."""
    parser = parser_of("pg", __doc__, PARTS, rounds=5)
    seconds = f"of each turn, behind a second to warm up (default 2); of the faults (default {pg_faults.SECONDS})"
    parser.add_argument("--seconds", type=int, help=seconds)
    parser.add_argument("--scale", type=float, default=1.0, help="of rows and idle clients, for a quick look")
    parser.add_argument(
        "--pool", type=int, default=POOL, help=f"server connections of a proxy for one tenant (default {POOL})"
    )
    parser.add_argument("--form", choices=("bound", "trusted"), default="bound", help="of row tenants (default bound)")
    asked = parser.parse_args(arguments)
    options = Options(
        rounds=asked.rounds, seconds=asked.seconds or 2, fault_seconds=asked.seconds or pg_faults.SECONDS,
        scale=asked.scale,
    )  # fmt: skip
    stored = {**asdict(options), "pool": asked.pool, "form": asked.form}
    return run(asked, PARTS, partial(_run, options, asked.pool, asked.postgres, asked.form), stored)


async def _run(options: Options, pool: int, postgres: int, form: RowForm, names: Sequence[str]) -> Done:
    allow_many_files()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # what we started ends with us
    scale = max(1, round(SCALE * options.scale))
    async with open_pg_world(scale=scale, pool=pool, version=postgres, form=form) as world:
        environment = _environment(world)
        return environment, await in_turn(names, PARTS, world, options, environment)


def _environment(world: PgWorld) -> dict[str, object]:
    peer = pgbouncer_version()
    pgbench = [str(world.server.bin_dir / "pgbench"), "--version"]
    return {
        "PostgreSQL": world.server.version,
        "PgBouncer": "not on PATH" if peer is None else ".".join(map(str, peer)),
        "pgbench": subprocess.run(pgbench, capture_output=True, text=True, check=True, timeout=10).stdout.split()[-1],
        "Python": platform.python_version(),
        "uvloop": version("uvloop"),
        **machine(),
    }
