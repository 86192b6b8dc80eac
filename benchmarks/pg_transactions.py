"""What does a transaction of several statements cost through a proxy? BEGIN, a select, an update, COMMIT."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import CLIENTS, Bench
from benchmarks.pg_rounds import AGAIN, Subject, control, cpu_at_most, stored, table, take_turns
from benchmarks.pg_targets import DIRECT, OURS, PGBOUNCER, Targets, open_targets
from benchmarks.pg_world import DATABASE, ROW, PgWorld
from benchmarks.table import Verdict, trust

__all__ = ["run"]

_MODES: Final = ("simple", "prepared")
_DATABASE_TENANT, _ROW_TENANT = f"{OURS}, database", f"{OURS}, row, one tenant"
_LIMIT: Final = 1.1
_SCRIPT: Final = r"""\set aid random(1, {accounts})
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
COMMIT;
"""


async def run(world: PgWorld, options: Options) -> Part:
    """All in each round, each mode by itself."""
    texts: list[str] = []
    data: dict[str, object] = {}
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        script = Path(folder) / "transaction.sql"
        script.write_text(_SCRIPT.format(accounts=world.accounts))
        async with open_targets(world) as targets:
            for mode in _MODES:
                bench = Bench(
                    program=world.server.bin_dir / "pgbench",
                    arguments=[f"--protocol={mode}", f"--file={script}"],
                    seconds=round(options.seconds),
                )
                peer_can = targets.pgbouncer is not None and (mode != "prepared" or targets.pgbouncer.prepares)
                series = await take_turns(list(_subjects(targets, bench, peer_can=peer_can)), options.rounds)
                texts.append(f"### {mode}\n\n{table(series, base=PGBOUNCER, unit='transaction')}")
                data[mode] = stored(series)
                named = f"{mode}: CPU of BEGIN, select, update, COMMIT against PgBouncer"
                verdicts = [cpu_at_most(named, _LIMIT, series, _DATABASE_TENANT, PGBOUNCER)]
                verdicts += control(f"{mode} transaction: control", series, PGBOUNCER if peer_can else DIRECT)
                found += trust(verdicts)
    title = f"BEGIN, select, update, COMMIT, {CLIENTS} clients, {world.pool} server connections"
    return Part(title=title, text="\n\n".join(texts), data=data, verdicts=tuple(found))


def _subjects(targets: Targets, bench: Bench, *, peer_can: bool) -> Iterator[Subject]:
    peer = targets.pgbouncer if peer_can else None
    yield Subject(name=DIRECT, target=targets.direct, database=DATABASE, bench=bench)
    if peer is not None:
        yield Subject(name=PGBOUNCER, target=peer, database=DATABASE, bench=bench)
    yield Subject(name=_DATABASE_TENANT, target=targets.ours, database=DATABASE, bench=bench)
    yield Subject(name=_ROW_TENANT, target=targets.ours, database=ROW, bench=bench)
    yield Subject(name=AGAIN, target=peer or targets.direct, database=DATABASE, bench=bench)
