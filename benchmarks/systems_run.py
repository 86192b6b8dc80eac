"""Does a reference platform keep its tenants apart, and what it acknowledged, while everything goes wrong?"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.part import Part
from benchmarks.systems_faults import Faults
from benchmarks.systems_ledger import EXPLAINED, Ledger
from benchmarks.systems_load import worked
from benchmarks.systems_platforms import PLATFORMS, Kind, Platform
from benchmarks.table import Verdict, figure, render
from tenantproxy.demo.stage import Seen
from tenantproxy.demo.system_show import staged
from tenantproxy.demo.system_stage import SystemStage
from tenantproxy.demo.tour import walk

__all__ = ["OPERATIONS", "Load", "run", "verdicts_of"]

OPERATIONS: Final = 100_000
EACH: Final = 2  # callers of a tenant at once
_PLANT_AT: Final = 0.2  # of the answers
_HEAD: Final = (
    "platform", "tenants", "operations", "rows seen", "foreign", "missing or lost", "doubled, or undone and there",
    "explained errors", "unexplained", "seconds", "longest pause",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much, of which platforms, and whether what keeps tenants apart is taken away meanwhile.

    `tenants`: of each platform; 0: as many as the bench has for it.
    """

    operations: int = OPERATIONS
    platforms: Sequence[str] = tuple(PLATFORMS)
    tenants: int = 0
    seed: int = 1
    plant: bool = False


async def run(load: Load) -> Part:
    """One platform after the other, each on a server of its own."""
    ledgers: dict[str, Ledger] = {}
    tenants: dict[str, int] = {}
    for name in load.platforms:
        ledgers[name], tenants[name] = await _one(name, PLATFORMS[name], load)
        print(f"{name}: {_summary(ledgers[name])}", flush=True)
    return Part(
        title=f"Mixed operations under faults, {load.operations:,} of each platform",
        text="\n\n".join((
            render(_HEAD, [_row(name, tenants[name], each) for name, each in ledgers.items()]),
            render(("platform", "by door", "by kind", "faults", "errors"), [_told(n, e) for n, e in ledgers.items()]),
            "\n".join(f"{name}: {line}" for name, each in ledgers.items() for line in _examples(each)) or "no example",
        )),
        data={name: _data(each) for name, each in ledgers.items()},
        verdicts=tuple(one for name, each in ledgers.items() for one in verdicts_of(name, each, load)),
    )  # fmt: skip


async def _one(name: str, kind: Kind, load: Load) -> tuple[Ledger, int]:
    due = max(1, int(_PLANT_AT * load.operations))
    ledger = Ledger(is_open=kind.is_open, has_pooler=kind.has_pooler, due=due)
    lines: list[Seen] = []
    async with staged(name, size=load.tenants or kind.size) as stage:
        if not await walk(stage, lines.append, kind.steps):
            raise RuntimeError(f"{name} is not ready: {[line for line in lines if not line.ok]}")
        platform = await kind.ready(stage)
        began = time.monotonic()
        faults = asyncio.create_task(Faults(stage, ledger, load.operations, load.seed).inject())
        planting = asyncio.create_task(_planted(kind, stage, ledger, load))
        try:
            await worked(platform, ledger, operations=load.operations, each=EACH, seed=load.seed)
        finally:
            for task in (faults, planting):
                task.cancel()
            ended = await asyncio.gather(faults, planting, return_exceptions=True)
        if broken := [each for each in ended if isinstance(each, Exception)]:
            raise broken[0]
        ledger.seconds = time.monotonic() - began
        await _settled(stage, platform, ledger)
    return ledger, len(platform.tenants)


async def _planted(kind: Kind, stage: SystemStage, ledger: Ledger, load: Load) -> None:
    if load.plant:
        await ledger.is_due.wait()
        await kind.plant(stage)


async def _settled(stage: SystemStage, platform: Platform, ledger: Ledger) -> None:
    """As a superuser sees it, past everything that keeps tenants apart."""
    found: list[tuple[str, str, int]] = []
    for place, owner in platform.places.items():
        conn = await stage.world.connect(place)
        try:
            found += [(owner or row[0], row[1], row[2]) for row in await conn.fetch(platform.sql.found)]
        finally:
            await conn.close()
    ledger.settle(found)


def verdicts_of(name: str, ledger: Ledger, load: Load) -> tuple[Verdict, ...]:
    """What must hold; of a platform without what keeps it apart, that this was seen."""
    if load.plant:
        wanted = f"{name}, {PLATFORMS[name].planted}: foreign rows"
        return (Verdict(target=wanted, wanted="> 0", measured=f"{ledger.foreign:,}", met=ledger.foreign > 0),)
    held = {
        "rows of another tenant": ledger.foreign,
        "acknowledged rows that are missing": ledger.missing + ledger.lost,
        "rows there twice, or undone and there": ledger.doubled + ledger.revived,
        "errors that no fault explains": ledger.unexplained.total(),
    }
    return (
        *(Verdict(target=f"{name}: {what}", wanted="0", measured=f"{n:,}", met=n == 0) for what, n in held.items()),
        Verdict(
            target=f"{name}: operations answered", wanted=f">= {load.operations:,}", measured=f"{ledger.operations:,}",
            met=ledger.operations >= load.operations,
        ),
    )  # fmt: skip


def _row(name: str, tenants: int, each: Ledger) -> tuple[str, ...]:
    return (
        name, str(tenants), f"{each.operations:,}", f"{each.rows:,}", f"{each.foreign:,}",
        f"{each.missing + each.lost:,}", f"{each.doubled + each.revived:,}", f"{each.explained.total():,}",
        f"{each.unexplained.total():,}", figure(each.seconds), figure(each.longest_pause),
    )  # fmt: skip


def _told(name: str, each: Ledger) -> tuple[str, ...]:
    return name, *(_counts(one) for one in (each.doors, each.kinds, each.faults, each.explained))


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common()) or "-"


def _examples(each: Ledger) -> list[str]:
    unexplained = [f"unexplained, {count} times: {what}" for what, count in each.unexplained.most_common(10)]
    return each.examples + unexplained


def _summary(each: Ledger) -> str:
    """For the eye, as soon as a platform is through: the tables come when all are."""
    told = f"{each.operations:,} operations in {each.seconds:.0f} s, the longest pause {each.longest_pause:.1f} s"
    wrong = each.missing + each.lost + each.doubled + each.revived
    return f"{told}; {each.foreign:,} foreign rows, {wrong:,} lost, doubled or revived; {_counts(each.explained)}"


def _data(each: Ledger) -> dict[str, object]:
    counters = ("kinds", "doors", "faults", "explained", "unexplained")
    numbers = ("operations", "seconds", "longest_pause", "rows", "foreign", "missing", "lost", "doubled", "revived")
    return {
        **{name: getattr(each, name) for name in numbers}, **{name: dict(getattr(each, name)) for name in counters},
        "acknowledged": sum(map(len, each.acknowledged.values())), "codes": dict(EXPLAINED),
    }  # fmt: skip
