"""How fast is it when everything is warm? All subjects open at once and measured in turns, round after round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Final

from benchmarks.measure import Latency, Pace, Spread, Subject, latency, throughput
from benchmarks.ours import database_subject, row_subject, schema_subject
from benchmarks.part import Options, Part
from benchmarks.peers import ByHand, PlainPool, PsycopgPool, RawConnections, TransactionPool
from benchmarks.table import Verdict, at_least, at_most, figure, ratio, render, spread
from benchmarks.world import SIZE, World

__all__ = ["run"]

Maker = Callable[[World], Subject]

_POOL: Final = "pool"
_TRANSACTION: Final = "transaction"
_OWN: Final[dict[str, Maker]] = {
    "raw": RawConnections,
    _POOL: PlainPool,
    "psycopg": PsycopgPool,
    "by hand": ByHand,
    "database": lambda world: database_subject(world, "always"),
    "database, kept": lambda world: database_subject(world, "on_tenant_change"),
    "schema": lambda world: schema_subject(world, "always"),
    "schema, kept": lambda world: schema_subject(world, "on_tenant_change"),
}
_SHARED: Final[dict[str, Maker]] = {
    _TRANSACTION: TransactionPool,
    "plain": lambda world: row_subject(world, "always", signed=False, order="one tenant"),
    "plain, turns": lambda world: row_subject(world, "always", signed=False, order="20 in turns"),
    "sticky": lambda world: row_subject(world, "always", signed=True, order="one tenant"),
    "random": lambda world: row_subject(world, "always", signed=True, order="20 at random"),
    "turns": lambda world: row_subject(world, "always", signed=True, order="20 in turns"),
    "sticky, kept": lambda world: row_subject(world, "on_tenant_change", signed=True, order="one tenant"),
    "turns, kept": lambda world: row_subject(world, "on_tenant_change", signed=True, order="20 in turns"),
}


@dataclass(slots=True)
class Series:
    """One subject's rounds: with SIZE connections, and with a single one."""

    name: str
    many: Subject
    single: Subject
    pace: list[Pace] = field(default_factory=list)
    spare: list[Latency] = field(default_factory=list)
    alone: list[Latency] = field(default_factory=list)


async def run(world: World, options: Options) -> Part:
    """Open all, measure all in each round, forwards and backwards by turns, judge the medians."""
    series: dict[str, Series] = {}
    async with AsyncExitStack() as stack:
        for key, make in {**_OWN, **_SHARED}.items():
            one = Series(name=make(world).name, many=make(world), single=make(world))
            series[key] = one
            for subject, size in ((one.many, SIZE), (one.single, 1)):
                stack.push_async_callback(subject.close)
                await subject.open(size)
        for number in range(options.rounds):
            order = list(series.values())
            for one in order if number % 2 == 0 else reversed(order):
                await _round(one, options.seconds)
    return Part(
        title=f"Warm: {SIZE} connections, 16 tasks for throughput, one task for latency",
        text=_report(series),
        data={key: _stored(one) for key, one in series.items()},
        verdicts=_verdicts(series),
    )


async def _round(one: Series, seconds: float) -> None:
    one.pace.append(await throughput(one.many, seconds=seconds))
    one.spare.append(await latency(one.many, seconds=seconds / 2))
    one.alone.append(await latency(one.single, seconds=seconds / 2))


def _report(series: dict[str, Series]) -> str:
    own = _table(series, list(_OWN), _POOL)
    shared = _table(series, list(_SHARED), _TRANSACTION)
    return f"A database or a schema of the tenant's own:\n\n{own}\n\nShared tables, row-level security:\n\n{shared}"


def _table(series: dict[str, Series], keys: Sequence[str], base: str) -> str:
    head = (
        "subject", "calls/s", f"x {_short(series[base])}", "p50 us", "p99 us", "p50 us, one connection", "CPU us/call"
    )  # fmt: skip
    rows = []
    for key in keys:
        one = series[key]
        rows.append(
            (
                one.name,
                spread(Spread.of(pace.per_second for pace in one.pace)),
                ratio(_faster(one, series[base])),
                figure(Spread.of(each.p50_us for each in one.spare).median),
                figure(Spread.of(each.p99_us for each in one.spare).median),
                figure(Spread.of(each.p50_us for each in one.alone).median),
                figure(Spread.of(pace.cpu_us for pace in one.pace).median),
            )
        )
    return render(head, rows)


def _short(one: Series) -> str:
    return one.name.removeprefix("asyncpg.").split(",")[0]


def _faster(one: Series, base: Series) -> Spread:
    """Each round's own ratio: what slows the machine for a while slows both."""
    return Spread.of(a.per_second / b.per_second for a, b in zip(one.pace, base.pace, strict=True))


def _slower(one: Sequence[Latency], base: Sequence[Latency]) -> Spread:
    return Spread.of(a.p50_us / b.p50_us for a, b in zip(one, base, strict=True))


def _stored(one: Series) -> dict[str, object]:
    return {
        "name": one.name,
        "throughput": [asdict(pace) for pace in one.pace],
        "latency": [asdict(each) for each in one.spare],
        "latency_one_connection": [asdict(each) for each in one.alone],
    }


def _verdicts(series: dict[str, Series]) -> tuple[Verdict, ...]:
    pool, transaction = series[_POOL], series[_TRANSACTION]
    found = []
    for kind in ("database", "schema"):
        always, kept = series[kind], series[f"{kind}, kept"]
        found += [
            at_least(f"{kind}, reset always: throughput of asyncpg.Pool", 1.0, _faster(always, pool)),
            at_least(f"{kind}, reset on_tenant_change: throughput of asyncpg.Pool", 1.6, _faster(kept, pool)),
            at_most(
                f"{kind}, reset always: p50 of asyncpg.Pool, one task, a spare connection",
                0.65,
                _slower(always.spare, pool.spare),
                "x",
                kind="ratio",
            ),
        ]
    sticky, turns, at_random = (_faster(series[key], transaction) for key in ("sticky", "turns", "random"))
    found += [
        at_least("row signed, reset always, one tenant: throughput of transaction + set_config", 1.7, sticky),
        at_least("row signed, reset always, 20 in turns: throughput of transaction + set_config", 0.9, turns),
        Verdict(
            target="row signed, 20 at random: between turns and one tenant",
            wanted=f"{turns.median:.2f}x..{sticky.median:.2f}x",
            measured=ratio(at_random),
            # 3 %: what two runs of one and the same subject differ by.
            met=turns.median * 0.97 <= at_random.median <= sticky.median * 1.03,
        ),
    ]
    return tuple(found)
