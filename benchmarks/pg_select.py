"""What does a short query cost through a proxy? `pgbench -S`: simple, extended and prepared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import CLIENTS, Bench
from benchmarks.pg_rounds import (
    AGAIN,
    Series,
    Subject,
    control,
    cpu_at_most,
    faster,
    speed_at_least,
    stored,
    table,
    take_turns,
)
from benchmarks.pg_targets import DIRECT, OURS, PGBOUNCER, Targets, open_targets
from benchmarks.pg_world import DATABASE, POLICY_TABLE, ROW, ROW_TABLE, SCHEMA, PgWorld
from benchmarks.table import Verdict, at_least, trust
from tenantproxy.model import RowForm

__all__ = ["MODES", "run", "run_many", "verdicts"]

MODES: Final = ("simple", "extended", "prepared")
DATABASE_TENANT, SCHEMA_TENANT, ROW_TENANT = f"{OURS}, database", f"{OURS}, schema", f"{OURS}, row, one tenant"
PLAIN_ROWS, PLAIN_POLICY = f"{OURS}, database, the rows' table", f"{OURS}, database, with a plain policy"

_CPU_LIMIT: Final = {"simple": 1.0, "extended": 1.0, "prepared": 0.85}
_SPEED_LIMIT: Final = {"simple": 1.0, "extended": 1.0, "prepared": 1.2}
_ROW_LIMIT: Final = {"bound": 0.85, "trusted": 0.95}
_MANY: Final = 64  # clients, more than there are server connections
# What -S runs; it counts the branches to know the scale, and the shared table has none.
_SCRIPT: Final = r"""\set aid random(1, {accounts})
SELECT abalance FROM {table} WHERE {key}aid = :aid;
"""
# What each reads. The last two are a database tenant's, and show what of it PostgreSQL itself costs: the same table and
# index without a policy, and with one on a plain setting, which proves nothing.
_SCRIPTS: Final = {
    ROW_TENANT: ("pgbench_accounts", ""),
    PLAIN_ROWS: (ROW_TABLE, f"tenant_id = '{ROW}' AND "),
    PLAIN_POLICY: (POLICY_TABLE, ""),
}


async def run(world: PgWorld, options: Options, *, clients: int = CLIENTS) -> Part:
    """All in each round, each mode by itself."""
    texts: list[str] = []
    data: dict[str, object] = {}
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        scripts: dict[str, Path] = {}
        for number, (name, (table_name, key)) in enumerate(_SCRIPTS.items()):
            scripts[name] = Path(folder) / f"select{number}.sql"
            scripts[name].write_text(_SCRIPT.format(accounts=world.accounts, table=table_name, key=key))
        async with open_targets(world) as targets:
            for mode in MODES:
                subjects = list(_subjects(world, targets, options, mode, scripts, clients))
                series = await take_turns(subjects, options.rounds)
                texts.append(f"### {mode}\n\n{table(series, base=PGBOUNCER, unit='transaction')}")
                data[mode] = stored(series)
                peer_can = targets.pgbouncer is None or mode != "prepared" or targets.pgbouncer.prepares
                found += trust(verdicts(mode, series, peer_can=peer_can, form=world.form))
                if not peer_can:
                    texts.append("This PgBouncer cannot prepare in transaction mode (1.21 and later can).")
    title = f"pgbench -S, {clients} clients, {world.pool} server connections, {world.accounts:,} rows, {world.form}"
    return Part(title=title, text="\n\n".join(texts), data=data, verdicts=tuple(found))


async def run_many(world: PgWorld, options: Options) -> Part:
    """The same with more clients than server connections: most of them wait."""
    return await run(world, options, clients=_MANY)


def _subjects(
    world: PgWorld, targets: Targets, options: Options, mode: str, scripts: Mapping[str, Path], clients: int
) -> Iterator[Subject]:
    def bench(*arguments: str) -> Bench:
        given, seconds = (f"--protocol={mode}", *arguments), round(options.seconds)
        return Bench(program=world.server.bin_dir / "pgbench", arguments=given, seconds=seconds, clients=clients)

    select = bench("--select-only")
    if clients <= world.pool:  # a server takes no more
        yield Subject(name=DIRECT, target=targets.direct, database=DATABASE, bench=select)
    peer = targets.pgbouncer
    if peer is not None and mode == "prepared" and not peer.prepares:
        peer = None
    if peer is not None:
        yield Subject(name=PGBOUNCER, target=peer, database=DATABASE, bench=select)
    yield Subject(name=DATABASE_TENANT, target=targets.ours, database=DATABASE, bench=select)
    for name, script in scripts.items():
        database = ROW if name == ROW_TENANT else DATABASE
        yield Subject(name=name, target=targets.ours, database=database, bench=bench(f"--file={script}"))
    if mode == MODES[0]:
        yield Subject(name=SCHEMA_TENANT, target=targets.ours, database=SCHEMA, bench=select)
    yield Subject(name=AGAIN, target=peer or targets.direct, database=DATABASE, bench=select)


def verdicts(mode: str, series: Series, *, peer_can: bool, form: RowForm = "bound") -> Iterator[Verdict]:
    """Compared with PgBouncer where it can do the same, and a row tenant with a database tenant.

    The control is the subject that was measured again: PgBouncer, or the direct connection where that cannot.
    """
    yield from control(f"{mode}: control", series, PGBOUNCER if PGBOUNCER in series else DIRECT)
    if peer_can:
        cpu = f"{mode}: CPU of a transaction, database tenant against PgBouncer"
        yield cpu_at_most(cpu, _CPU_LIMIT[mode], series, DATABASE_TENANT, PGBOUNCER)
        speed = f"{mode}: throughput, database tenant against PgBouncer"
        yield speed_at_least(speed, _SPEED_LIMIT[mode], series, DATABASE_TENANT, PGBOUNCER)
    kind = "signed" if form == "bound" else form
    row = f"{mode}: throughput, {kind} row tenant against"
    yield at_least(f"{row} a database tenant", _ROW_LIMIT[form], faster(series[ROW_TENANT], series[DATABASE_TENANT]))
    for name, what in {PLAIN_ROWS: "that table without a policy", PLAIN_POLICY: "a policy on a plain setting"}.items():
        yield at_least(f"{row} {what}", _ROW_LIMIT[form], faster(series[ROW_TENANT], series[name]))
