"""Does a login through the directory get slower with the number of tenants?"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.login_world import PASSWORD, LoginWorld, User, database_name, known
from benchmarks.measure import Spread, percentile
from benchmarks.part import Options, Part
from benchmarks.table import at_most, ratio, render, spread
from tenantproxy import Router

__all__ = ["run"]

FEW, MANY = 10, 10_000
LOGINS: Final = 100  # of each round
LIMIT: Final = 1.3

_MAINS: Final = {"few": "directory_few", "many": "directory_many"}


@dataclass(slots=True)
class Subject:
    """A router over so many registered tenants; those who log in are of the tenants that have a database."""

    router: Router
    people: Iterator[User]

    async def login(self) -> float:
        """Seconds of one login."""
        user = next(self.people)
        start = time.perf_counter()
        accounts = await self.router.login(user.email, PASSWORD, address="192.0.2.1")
        seconds = time.perf_counter() - start
        if [(account.tenant, account.user) for account in accounts] != [(user.tenant, user.id)]:
            raise AssertionError(f"{user.email} was not found where it is")
        return seconds

    async def look_up(self) -> float:
        """Seconds of the directory's part alone."""
        key = self.router.logins.directory.key(next(self.people).email)
        start = time.perf_counter()
        found = await self.router.logins.directory.look_up(key)
        seconds = time.perf_counter() - start
        if not found.entries:
            raise AssertionError("the directory does not know whom it was filled with")
        return seconds


async def run(world: LoginWorld, options: Options) -> Part:
    """Logins one after another, padding off, with few and with many tenants in turns, the first place alternating."""
    few, many = world.databases[:FEW], _registered(world, round(MANY * options.scale))
    await world.add_main(_MAINS["few"], few)
    await world.add_main(_MAINS["many"], many)
    logins: dict[str, list[float]] = {name: [] for name in _MAINS}
    look_ups: dict[str, list[float]] = {name: [] for name in _MAINS}
    async with world.router(_MAINS["few"]) as router_few, world.router(_MAINS["many"]) as router_many:
        subjects = {
            "few": Subject(router_few, _in_turns(few, world.people)),
            "many": Subject(router_many, _in_turns(world.databases, world.people)),
        }
        for subject in subjects.values():
            for _ in range(2 * len(world.databases)):  # pools open, statements prepared, tenants looked up
                await subject.login()
        for number in range(options.rounds):
            for name in list(subjects)[:: -1 if number % 2 else 1]:
                await _round(subjects[name], max(20, round(LOGINS * options.scale)), logins[name], look_ups[name])
        for subject in subjects.values():
            _check(subject.router)
    return _part(logins, look_ups, tenants={"few": len(few), "many": len(many)}, real=len(world.databases))


def _registered(world: LoginWorld, count: int) -> list[str]:
    """Tenants with a database, and others that have none."""
    others = (database_name(number) for number in range(len(world.databases), count))
    return [*world.databases, *others]


def _in_turns(tenants: tuple[str, ...], people: int) -> Iterator[User]:
    """Each login another tenant, so that both subjects change it each time."""
    return itertools.cycle([known(tenant, number) for number in range(people) for tenant in tenants])


async def _round(subject: Subject, count: int, logins: list[float], look_ups: list[float]) -> None:
    gc.collect()
    logins.append(percentile([await subject.login() for _ in range(count)], 50) * 1e3)
    look_ups.append(percentile([await subject.look_up() for _ in range(count)], 50) * 1e3)


def _check(router: Router) -> None:
    counts = router.login_counts
    if counts is None or counts.searched.total:
        raise AssertionError("databases were searched: this does not measure the directory")


def _part(
    logins: dict[str, list[float]], look_ups: dict[str, list[float]], *, tenants: dict[str, int], real: int
) -> Part:
    spreads = {
        what: {name: Spread.of(values) for name, values in found.items()}
        for what, found in (("login", logins), ("look-up", look_ups))
    }
    ratios = {
        what: Spread.of(many / few for few, many in zip(found["few"], found["many"], strict=True))
        for what, found in (("login", logins), ("look-up", look_ups))
    }
    names = {"login": "login, argon2id included", "look-up": "the look-up in the directory alone"}
    rows = [
        (names[what], spread(found["few"]), spread(found["many"]), ratio(ratios[what]))
        for what, found in spreads.items()
    ]
    head = ("p50 of a round, ms", f"{tenants['few']} tenants", f"{tenants['many']} tenants", "ratio")
    data = {
        "tenants": tenants,
        "databases": real,
        "p50_ms": {what: {name: asdict(value) for name, value in found.items()} for what, found in spreads.items()},
        "ratio": {what: asdict(value) for what, value in ratios.items()},
    }
    target = f"login through the directory, {tenants['many']} tenants against {tenants['few']}"
    return Part(
        title="Login through the directory, padding off",
        text=render(head, rows),
        data=data,
        verdicts=(at_most(target, LIMIT, ratios["login"], "x", kind="ratio"),),
    )
