"""What does TLS cost through a proxy? Queries inside, and handshakes of clients that come again; TLS 1.3 at both."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import CLIENTS, Bench, Figures
from benchmarks.pg_process import cpu_seconds
from benchmarks.pg_rounds import AGAIN, Series, Subject, control, speed_at_least, stored, table, take_turns
from benchmarks.pg_targets import OURS, PGBOUNCER, Target, Targets, open_targets
from benchmarks.pg_world import DATABASE, PgWorld
from benchmarks.table import Verdict, trust

__all__ = ["run", "system_pgbench"]

_MODES: Final = ("simple", "extended", "prepared")
_CLEAR: Final = f"{OURS}, without TLS"
_CONNECTIONS: Final = 8  # handshakes at a time
_SECONDS: Final = 60.0


async def run(world: PgWorld, options: Options) -> Part:
    """All in each round, each mode by itself; then handshakes that resume a session, and full ones."""
    texts: list[str] = []
    data: dict[str, object] = {}
    found: list[Verdict] = []
    async with open_targets(world, tls=True) as targets, open_targets(world) as clear:
        for mode in _MODES:
            series = await take_turns(list(_subjects(targets, clear.ours, options, mode)), options.rounds)
            texts.append(f"### {mode}\n\n{table(series, base=PGBOUNCER, unit='transaction')}")
            data[mode] = stored(series)
            found += trust(_verdicts(mode, series))
        for kind in ("resumed", "full"):
            bench = Handshakes(resumes=kind == "resumed", seconds=options.seconds)
            subjects = [
                Subject(name=each.name, target=each, database=DATABASE, bench=bench) for each in targets.proxies
            ]
            series = await take_turns(subjects, options.rounds)
            texts.append(f"### handshakes, {kind}\n\n{table(series, base=PGBOUNCER, unit='handshake')}")
            if bench.resumes:
                texts.append(
                    "Resumed: " + ", ".join(f"{name} {part:.0%}" for name, part in bench.resumed.items()) + "."
                )
            data[f"handshakes, {kind}"] = stored(series)
            found.append(speed_at_least(f"{kind} handshakes a second against PgBouncer", 1.0, series, OURS, PGBOUNCER))
    title = f"TLS 1.3, P-256: pgbench -S with {CLIENTS} clients, then handshakes, {_CONNECTIONS} at a time"
    return Part(title=title, text="\n\n".join(texts), data=data, verdicts=tuple(found))


def _subjects(targets: Targets, clear: Target, options: Options, mode: str) -> Iterator[Subject]:
    bench = Bench(
        program=system_pgbench(),
        arguments=(f"--protocol={mode}", "--select-only"),
        seconds=round(options.seconds),
    )
    for target in targets.proxies:
        yield Subject(name=target.name, target=target, database=DATABASE, bench=bench)
    yield Subject(name=_CLEAR, target=clear, database=DATABASE, bench=bench)
    yield Subject(name=AGAIN, target=targets.proxies[0], database=DATABASE, bench=bench)


def system_pgbench() -> Path:
    """One whose libpq speaks TLS: that of the system."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), reverse=True), shutil.which("pgbench")]
    program = next((each for each in found if each is not None), None)
    if program is None:
        raise RuntimeError("needs a pgbench that speaks TLS: apt install postgresql-contrib")
    return Path(program)


def _verdicts(mode: str, series: Series) -> Iterator[Verdict]:
    yield from control(f"{mode}: control", series, PGBOUNCER if PGBOUNCER in series else OURS)
    yield speed_at_least(f"{mode}: throughput inside TLS against PgBouncer", 1.0, series, OURS, PGBOUNCER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshakes:
    """Connections that ask for TLS, shake hands and go. `resumes`: by the session of the last one."""

    resumes: bool
    seconds: float
    resumed: dict[str, float] = field(default_factory=dict)  # the part that did, by target

    async def run(self, target: Target, database: str) -> Figures:
        """From a process of its own: half of the work is the client's. Raises RuntimeError where one fails."""
        given = json.dumps({"port": target.port, "resumes": self.resumes, "seconds": self.seconds, "at": _CONNECTIONS})
        before = 0.0 if target.pid is None else cpu_seconds(target.pid)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.pg_tls_client", given,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(self.seconds + _SECONDS):
            out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"a handshake failed at {target.name}: {err.decode(errors='replace')[-1000:]}")
        said = json.loads(out)
        self.resumed[target.name] = said["resumed"] / said["done"]
        cpu = 0.0 if target.pid is None else cpu_seconds(target.pid) - before
        latency = said["seconds"] / said["done"] * _CONNECTIONS * 1000
        return Figures(per_second=said["done"] / said["seconds"], cpu_us=cpu / said["done"] * 1e6, latency_ms=latency)
