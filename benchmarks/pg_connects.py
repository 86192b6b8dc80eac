"""How many clients can come in a second? Each connects (SCRAM-SHA-256 everywhere), runs one query, and goes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import CLIENTS, Bench
from benchmarks.pg_rounds import Subject, speed_at_least, stored, table, take_turns
from benchmarks.pg_targets import OURS, PGBOUNCER, open_targets
from benchmarks.pg_world import DATABASE, PgWorld

__all__ = ["run"]

_LIMIT: Final = 0.5


async def run(world: PgWorld, options: Options) -> Part:
    """All in each round. What the client itself takes for SCRAM is in the throughput, so CPU tells more."""
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        script = Path(folder) / "one.sql"
        script.write_text("SELECT 1;\n")
        bench = Bench(
            program=world.server.bin_dir / "pgbench",
            arguments=["--connect", f"--file={script}"],
            seconds=round(options.seconds),
            threads=min(CLIENTS, os.cpu_count() or 1),
        )
        async with open_targets(world) as targets:
            subjects = [
                Subject(name=target.name, target=target, database=DATABASE, bench=bench) for target in targets.all
            ]
            series = await take_turns(subjects, options.rounds)
    target = "new connections a second against PgBouncer, SCRAM at both"
    return Part(
        title=f"New connections, {CLIENTS} at a time (pgbench -C)",
        text=table(series, base=PGBOUNCER, unit="connection"),
        data=stored(series),
        verdicts=(speed_at_least(target, _LIMIT, series, OURS, PGBOUNCER),),
    )
