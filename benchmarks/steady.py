"""How fast is it when everything is warm? All subjects open at once and measured in turns, round after round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Final

from benchmarks.measure import Latency, Pace, Spread, Subject, latency, throughput
from benchmarks.ours import database_subject, row_subject, schema_subject
from benchmarks.part import Options, Part
from benchmarks.peers import ByHand, PlainPool, PsycopgPool, RawConnections, TransactionPool
from benchmarks.placement import placed, placements
from benchmarks.table import Verdict, at_least, at_most, figure, ratio, render, spread, trust
from benchmarks.world import SIZE, World

__all__ = ["run"]

Maker = Callable[[World], Subject]

_POOL: Final = "pool"
_TRANSACTION: Final = "transaction"
_ONE_CORE: Final = "one core"
_SHORT: Final = {_POOL: "asyncpg.Pool", _TRANSACTION: "transaction"}
_PLACES: Final = {"apart": "on a processor each", "one core": "on one processor", "free": "where the scheduler likes"}
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
class Rounds:
    """What was measured of one subject in one placement."""

    pace: list[Pace] = field(default_factory=list)
    spare: list[Latency] = field(default_factory=list)  # with SIZE connections
    alone: list[Latency] = field(default_factory=list)  # with a single one


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One subject, opened with SIZE connections and with a single one."""

    name: str
    many: Subject
    single: Subject


Series = dict[str, Rounds]  # by the subject's key, of one placement


async def run(world: World, options: Options) -> Part:
    """Open all, measure all in each round and placement, alternating forwards and backwards, judge the medians."""
    where = placements()
    measured: dict[str, Series] = {place.name: {key: Rounds() for key in (*_OWN, *_SHARED)} for place in where}
    async with AsyncExitStack() as stack:
        entries = await _open(world, stack)
        for number in range(options.rounds):
            order = list(entries) if number % 2 == 0 else list(reversed(entries))
            for place in where:
                with placed(world, place):
                    for key in order:
                        await _round(entries[key], measured[place.name][key], options.seconds)
    names = {key: entry.name for key, entry in entries.items()}
    return Part(
        title=f"Warm: {SIZE} connections, 16 tasks for throughput, one task for latency",
        text="\n\n".join(_report(names, place, series) for place, series in measured.items()),
        data={
            place: {key: {"name": names[key], **asdict(rounds)} for key, rounds in series.items()}
            for place, series in measured.items()
        },
        verdicts=tuple(one for place, series in measured.items() for one in trust(_verdicts(place, series))),
    )


async def _open(world: World, stack: AsyncExitStack) -> dict[str, Entry]:
    entries = {}
    for key, make in {**_OWN, **_SHARED}.items():
        entry = Entry(name=make(world).name, many=make(world), single=make(world))
        for subject, size in ((entry.many, SIZE), (entry.single, 1)):
            stack.push_async_callback(subject.close)
            await subject.open(size)
        entries[key] = entry
    return entries


async def _round(entry: Entry, rounds: Rounds, seconds: float) -> None:
    rounds.pace.append(await throughput(entry.many, seconds=seconds))
    rounds.spare.append(await latency(entry.many, seconds=seconds / 2))
    rounds.alone.append(await latency(entry.single, seconds=seconds / 2))


def _report(names: dict[str, str], place: str, series: Series) -> str:
    own = _table(names, series, list(_OWN), _POOL)
    shared = _table(names, series, list(_SHARED), _TRANSACTION)
    head = f"### Client and server {_PLACES[place]}"
    lowest = f"The lowest p50 is {_fastest(series):.2f}x that of a bare connection."
    return f"{head}\n\nA database or schema of the tenant's own:\n\n{own}\n\nShared tables:\n\n{shared}\n\n{lowest}"


def _table(names: dict[str, str], series: Series, keys: Sequence[str], base: str) -> str:
    ours = f"x {_SHORT[base]}"
    head = ("subject", "calls/s", ours, "p50 us", "p99 us", "p50 us, one connection", "CPU us/call")
    rows = []
    for key in keys:
        one = series[key]
        rows.append(
            (
                names[key],
                spread(Spread.of(pace.per_second for pace in one.pace)),
                ratio(_faster(one, series[base])),
                figure(Spread.of(each.p50_us for each in one.spare).median),
                figure(Spread.of(each.p99_us for each in one.spare).median),
                figure(Spread.of(each.p50_us for each in one.alone).median),
                figure(Spread.of(pace.cpu_us for pace in one.pace).median),
            )
        )
    return render(head, rows)


def _faster(one: Rounds, base: Rounds) -> Spread:
    """Each round's own ratio: what slows the machine for a while slows both."""
    return Spread.of(a.per_second / b.per_second for a, b in zip(one.pace, base.pace, strict=True))


def _slower(one: Sequence[Latency], base: Sequence[Latency]) -> Spread:
    return Spread.of(a.p50_us / b.p50_us for a, b in zip(one, base, strict=True))


def _verdicts(place: str, series: Series) -> Iterator[Verdict]:
    pool, transaction = series[_POOL], series[_TRANSACTION]
    for kind in ("database", "schema"):
        always, kept = series[kind], series[f"{kind}, kept"]
        yield at_least(f"{place}: {kind}, reset always: throughput of asyncpg.Pool", 1.0, _faster(always, pool))
        yield at_least(f"{place}: {kind}, reset on_tenant_change: throughput", 1.6, _faster(kept, pool))
        slower = _slower(always.spare, pool.spare)
        yield at_most(
            f"{place}: {kind}, reset always: p50, one task, spare connection", 0.65, slower, "x", kind="ratio"
        )
    sticky, turns, at_random = (_faster(series[key], transaction) for key in ("sticky", "turns", "random"))
    yield at_least(f"{place}: row signed, one tenant: throughput of transaction + set_config", 1.7, sticky)
    yield at_least(f"{place}: row signed, 20 in turns: throughput", 0.9, turns)
    yield Verdict(
        target=f"{place}: row signed, 20 at random: between turns and one tenant",
        wanted=f"{turns.median:.2f}x..{sticky.median:.2f}x",
        measured=ratio(at_random),
        # 3 %: what two runs of one and the same subject differ by.
        met=turns.median * 0.97 <= at_random.median <= sticky.median * 1.03,
    )
    yield from _controls(place, series)


def _controls(place: str, series: Series) -> Iterator[Verdict]:
    """What must come out whatever the code is worth; when it does not, the other figures of the run mean nothing."""
    pool, by_hand = series[_POOL], series["by hand"]
    for what, value in (
        ("throughput", _faster(by_hand, pool)),
        ("p50", _slower(by_hand.spare, pool.spare)),
    ):
        yield Verdict(
            target=f"{place}: control: a dict of asyncpg pools is asyncpg.Pool, {what}",
            wanted="0.9x..1.1x",
            measured=ratio(value),
            met=0.9 <= value.median <= 1.1,
            control=True,
        )
    if place == _ONE_CORE:
        fastest = _fastest(series)
        yield Verdict(
            target=f"{place}: control: no p50 below that of a bare connection",
            wanted=">= 0.95x",
            measured=f"{fastest:.2f}x",
            met=fastest >= 0.95,
            control=True,
        )


def _fastest(series: Series) -> float:
    """The lowest p50 as a multiple of a bare connection's.

    A floor only on one processor, where all work is done one after the other. Apart, a call that follows a reset still
    under way was 4-8 % faster than a bare connection's, with processors that may idle and with ones kept awake; why is
    not known. So there it is shown and not judged.
    """
    return min(_slower(one.spare, series["raw"].spare).median for key, one in series.items() if key != "raw")
