"""What does an engine that follows the tenant cost compared with SQLAlchemy's own? A select and a commit, in one run.

Both hold as many connections. SQLAlchemy's pool rolls back on return, which after a commit asks the server for nothing:
three round trips a session. Ours has two: BEGIN goes with the select, and with "reset always" the reset with COMMIT.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import URL, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.measure import Pace, Spread, Subject, throughput
from benchmarks.placement import placed, placements
from benchmarks.table import Verdict, at_least, figure, loud, ratio, render, spread, trust, verdicts
from benchmarks.world import SIZE, TASKS, World, item, open_world
from tenantproxy import Router, use
from tenantproxy.sqlalchemy import create_async_engine as create_tenants_engine

__all__ = ["main"]

Reset = Literal["always", "on_tenant_change"]
Rounds = dict[str, list[Pace]]

_WANTED: Final = {"ours, database, reset always": 0.95, "ours, database, reset on_tenant_change": 1.0}
_THEIRS: Final = "SQLAlchemy's own pool"
_DATABASE: Final = {"t": {"isolation": "database", "server": "primary", "database": "bench_database"}}
_SCHEMA: Final = {"s": {"isolation": "schema", "server": "primary", "database": "bench_schemas", "schema": "first"}}
_ROW: Final = {"row00": {"isolation": "row", "server": "primary", "database": "bench_signed"}}


class Base(DeclarativeBase):
    """Of the one model."""


class Item(Base):
    """A row of the world's items."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


async def _select_and_commit(sessions: async_sessionmaker[AsyncSession], number: int) -> object:
    async with sessions() as session:
        found = (await session.scalars(select(Item).where(Item.id == item(number)))).one()
        await session.commit()
        return found


class Theirs:
    """One engine for one database, with SQLAlchemy's pool: a rollback on return and no other reset."""

    name = _THEIRS
    tasks = TASKS

    def __init__(self, world: World) -> None:
        args = world.app("bench_database")
        self._url = URL.create(
            "postgresql+asyncpg",
            username=args["user"], password=args["password"], host=args["host"], port=args["port"],
            database=args["database"],
        )  # fmt: skip
        self._engine: AsyncEngine | None = None

    async def open(self, size: int) -> None:
        """The connections come with the calls that warm it up."""
        self._engine = create_async_engine(self._url, pool_size=size, max_overflow=0)
        self._sessions = async_sessionmaker(self._engine)

    async def call(self, task: int, number: int) -> object:
        """A session: begin, select, commit."""
        return await _select_and_commit(self._sessions, number)

    async def close(self) -> None:
        """Close the pool."""
        if self._engine is not None:
            await self._engine.dispose()


class Ours:
    """One engine for all tenants, one of whom is current."""

    tasks = TASKS

    def __init__(self, world: World, tenants: Mapping[str, Mapping[str, object]], reset: Reset) -> None:
        ((tenant, place),) = tenants.items()
        self.name = f"ours, {place['isolation']}, reset {reset}"
        self._world, self._tenants, self._reset = world, tenants, reset
        self._tenant = tenant
        self._router: Router | None = None

    async def open(self, size: int) -> None:
        """Open the router; the connections come with the calls that warm it up."""
        settings = self._world.settings(self._tenants, max_size=size, shared_size=size, reset=self._reset)
        self._router = Router(settings)
        await self._router.open()
        self._scope = self._router.tenant(self._tenant)
        self._sessions = async_sessionmaker(create_tenants_engine(self._router))

    async def call(self, task: int, number: int) -> object:
        """The same for the tenant that is current; the reset follows."""
        with use(self._scope):
            return await _select_and_commit(self._sessions, number)

    async def close(self) -> None:
        """Close the router."""
        if self._router is not None:
            await self._router.close()


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table and the verdicts; 0 also when a target is missed, which is printed loudly."""
    parser = argparse.ArgumentParser(prog="scripts/bench sqlalchemy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often each subject is measured (9)")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each time (0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the figures there too")
    asked = parser.parse_args(arguments)
    if sys.platform == "win32":
        print("measured on uvloop: Linux or macOS only", file=sys.stderr)
        return 2
    import uvloop

    measured = uvloop.run(_measure(asked.rounds, asked.seconds))
    found = [verdict for place, rounds in measured.items() for verdict in trust(_verdicts(place, rounds))]
    for place, rounds in measured.items():
        print(f"\n## Client and server: {place}\n\n{_table(rounds)}")
    print(f"\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {
            "parts": {
                place: {name: [asdict(pace) for pace in paces] for name, paces in rounds.items()}
                for place, rounds in measured.items()
            },
            "verdicts": [asdict(one) | {"verdict": one.word} for one in found],
        }
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


async def _measure(rounds: int, seconds: float) -> dict[str, Rounds]:
    async with open_world() as world, AsyncExitStack() as stack:
        resets: tuple[Reset, ...] = ("always", "on_tenant_change")
        subjects: list[Subject] = [Theirs(world)]
        subjects += [Ours(world, tenants, reset) for tenants in (_DATABASE, _SCHEMA, _ROW) for reset in resets]
        for subject in subjects:
            stack.push_async_callback(subject.close)
            await subject.open(SIZE)
            await throughput(subject, seconds=seconds / 2)
        where = placements()
        measured: dict[str, Rounds] = {place.name: {subject.name: [] for subject in subjects} for place in where}
        for number in range(rounds):
            for place in where:
                with placed(world, place):
                    for subject in subjects if number % 2 == 0 else reversed(subjects):
                        measured[place.name][subject.name].append(await throughput(subject, seconds=seconds))
        return measured


def _faster(rounds: Rounds, name: str) -> Spread:
    pairs = zip(rounds[name], rounds[_THEIRS], strict=True)
    return Spread.of(ours.per_second / theirs.per_second for ours, theirs in pairs)


def _table(rounds: Rounds) -> str:
    rows = [
        (
            name,
            spread(Spread.of(pace.per_second for pace in paces)),
            ratio(_faster(rounds, name)),
            figure(Spread.of(pace.cpu_us for pace in paces).median),
        )
        for name, paces in rounds.items()
    ]
    return render(("subject", "calls/s", "x SQLAlchemy's", "CPU us/call"), rows)


def _verdicts(place: str, rounds: Rounds) -> list[Verdict]:
    return [
        at_least(f"{place}: {name}: throughput of SQLAlchemy's own pool", _WANTED[name], _faster(rounds, name))
        for name in _WANTED
    ]
