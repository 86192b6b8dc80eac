"""What does a PgBouncer between us and the server cost, where each transaction is made its tenant's and checked?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.measure import Spread
from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import CLIENTS, Bench
from benchmarks.pg_rounds import AGAIN, Series, Subject, control, stored, table, take_turns, unmeasured
from benchmarks.pg_targets import OURS, PGBOUNCER, Target, open_targets, pgbouncer_version, running_pooler
from benchmarks.pg_world import DATABASE, ROW, PgWorld
from benchmarks.table import Verdict, figure, ratio, render, trust

__all__ = ["run"]

_THROUGH: Final = "ours, a pooler below"
_KINDS: Final = {"a database tenant": DATABASE, "a signed row tenant": ROW}
_MODES: Final = ("simple", "prepared")
# pgbench -S looks for its own tables first, to know how many rows there are.
_SCRIPT: Final = "\\set aid random(1, {accounts})\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"


async def run(world: PgWorld, options: Options) -> Part:
    """One client, for the microseconds of a transaction, and sixteen, for its CPU; each kind and mode by itself."""
    if pgbouncer_version() is None:
        missing = unmeasured("a transaction behind a pooler", "told")
        return Part(title=_TITLE, text="Not measured: no pgbouncer on PATH.", data={}, verdicts=(missing,))
    texts: list[str] = []
    data: dict[str, object] = {}
    found: list[Verdict] = []
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        async with (
            running_pooler(world, Path(folder)) as port,
            open_targets(world) as plain,
            open_targets(world, pooler=port) as pooled,
        ):
            script = Path(folder) / "select.sql"
            script.write_text(_SCRIPT.format(accounts=world.accounts))
            for kind, database in _KINDS.items():
                for mode in _MODES:
                    peer = plain.pgbouncer if database == DATABASE else None
                    peer = None if peer is None or (mode == "prepared" and not peer.prepares) else peer
                    for clients in (1, CLIENTS):
                        bench = _bench(world, options, mode, clients, script)
                        lines = list(_subjects(bench, database, plain.ours, pooled.ours, peer))
                        series = await take_turns(lines, options.rounds)
                        name = f"{kind}, {mode}, {clients} client{'s' if clients > 1 else ''}"
                        texts.append(f"### {name}\n\n{table(series, base=OURS, unit='transaction')}")
                        data[name] = stored(series)
                        found += trust(control(f"{name}: control", series, OURS))
                        if clients == 1:
                            rows.append(_row(f"{kind}, {mode}", series))
    head = ("one client, microseconds of a transaction", "direct", "a pooler below", "more", "x direct")
    return Part(title=_TITLE, text="\n\n".join([render(head, rows), *texts]), data=data, verdicts=tuple(found))


_TITLE: Final = 'A PgBouncer between ours and the server (`pooler = "pgbouncer"`): a select by pgbench'


def _bench(world: PgWorld, options: Options, mode: str, clients: int, script: Path) -> Bench:
    return Bench(
        program=world.server.bin_dir / "pgbench",
        arguments=(f"--protocol={mode}", f"--file={script}"),
        seconds=round(options.seconds),
        clients=clients,
    )


def _subjects(bench: Bench, database: str, plain: Target, pooled: Target, peer: Target | None) -> Iterator[Subject]:
    lines = {OURS: plain, _THROUGH: pooled, AGAIN: plain} | ({} if peer is None else {PGBOUNCER: peer})
    for name, target in lines.items():
        yield Subject(name=name, target=target, database=database, bench=bench)


def _row(name: str, series: Series) -> tuple[str, ...]:
    direct, below = (Spread.of(one.latency_ms * 1e3 for one in series[each]) for each in (OURS, _THROUGH))
    times = Spread.of(b.latency_ms / a.latency_ms for a, b in zip(series[OURS], series[_THROUGH], strict=True))
    return (name, figure(direct.median), figure(below.median), figure(below.median - direct.median), ratio(times))
