"""How long does it take to find an account that no directory knows, compared with the loop that people write?"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from typing import Final, Protocol

import argon2
import asyncpg

from benchmarks.login_world import ACCOUNT_QUERY, PASSWORD, SEARCHED, LoginWorld, User, searched
from benchmarks.measure import Spread
from benchmarks.part import Options, Part
from benchmarks.table import Verdict, at_most, render, spread
from tenantproxy import Router
from tenantproxy.errors import InvalidCredentials

__all__ = ["run"]

CONCURRENCY: Final = 8
LIMIT_SECONDS: Final = 1.5

_MAIN: Final = "fanout_main"
_PATIENCE_SECONDS: Final = 60.0  # what takes too long is a figure here, no failure


class Way(Protocol):
    """One way of finding an account among all databases."""

    async def login(self, email: str) -> str | None:
        """The tenant whose user has this address and the password; None: no user."""
        ...


class Connecting:
    """A connection for each database in turn, until the account is found."""

    def __init__(self, world: LoginWorld) -> None:
        self._world = world

    async def login(self, email: str) -> str | None:
        """See `Way`."""
        for database in self._world.databases:
            conn = await asyncpg.connect(**self._world.app(database))
            try:
                row = await conn.fetchrow(ACCOUNT_QUERY, email)
            finally:
                await conn.close()
            if row is not None and _matches(row["password_hash"]):
                return database
        return None


class Pooled:
    """A pool for each database, open all the time; asked in turn, until the account is found."""

    def __init__(self, pools: Mapping[str, asyncpg.Pool]) -> None:
        self._pools = pools

    async def login(self, email: str) -> str | None:
        """See `Way`."""
        for database, pool in self._pools.items():
            row = await pool.fetchrow(ACCOUNT_QUERY, email)
            if row is not None and _matches(row["password_hash"]):
                return database
        return None


class Ours:
    """A router. It asks all databases: a person may have an account in several."""

    def __init__(self, router: Router, databases: int) -> None:
        self._router = router
        self._databases = databases

    async def login(self, email: str) -> str | None:
        """See `Way`."""
        before = self._asked()
        accounts = []
        with suppress(InvalidCredentials):
            accounts = [account.tenant for account in await self._router.login(email, PASSWORD)]
        # One was asked before the search: the directory knows no account, but names a tenant to be asked in vain.
        if self._asked() - before < self._databases - 1:
            raise AssertionError("not all databases were searched")
        return accounts[0] if accounts else None

    def _asked(self) -> float:
        counts = self._router.login_counts
        return 0.0 if counts is None else counts.searched.total


def _matches(stored: str) -> bool:
    try:
        return argon2.PasswordHasher().verify(stored, PASSWORD)
    except argon2.exceptions.VerifyMismatchError:
        return False


class Addresses:
    """A new user for each attempt: who was found is in the directory from then on."""

    def __init__(self, databases: Sequence[str]) -> None:
        self._middle = databases[len(databases) // 2]  # where a search that stops has come half the way
        self._number = 0

    def known(self) -> User:
        """A user of the database in the middle."""
        self._number += 1
        if self._number > SEARCHED:
            raise ValueError(f"too many rounds: there are {SEARCHED} people to search for")
        return searched(self._middle, self._number - 1)

    def unknown(self) -> str:
        """An address that no database has."""
        self._number += 1
        return f"unknown-{self._number}@nowhere.example"


async def run(world: LoginWorld, options: Options) -> Part:
    """One search after another: a user of the middle database, then an unknown one; all ways in turns."""
    await world.add_main(_MAIN, world.databases)
    addresses = Addresses(world.databases)
    taken: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        warm = await stack.enter_async_context(_router(world))
        pools = {
            database: await stack.enter_async_context(
                asyncpg.create_pool(**world.app(database), min_size=1, max_size=2)
            )
            for database in world.databases
        }
        ways: dict[str, Way] = {
            "a connection for each database in turn": Connecting(world),
            "a kept pool for each database, in turn": Pooled(pools),
            "ours, warm": Ours(warm, len(world.databases)),
        }
        for way in ways.values():
            await _search(way, addresses)
        names = [*ways, "ours, cold"]
        for number in range(options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found = await (_cold(world, addresses) if name == "ours, cold" else _search(ways[name], addresses))
                for what, seconds in found.items():
                    taken.setdefault(name, {}).setdefault(what, []).append(seconds)
    spreads = {name: {what: Spread.of(taken[name][what]) for what in ("found", "unknown")} for name in names}
    return _part(spreads, databases=len(world.databases))


def _router(world: LoginWorld) -> Router:
    return world.router(_MAIN, fan_out_concurrency=CONCURRENCY, fan_out_timeout=_PATIENCE_SECONDS)


async def _cold(world: LoginWorld, addresses: Addresses) -> dict[str, float]:
    """A router that was just opened, for each search another: no connection to a tenant is there."""
    found: dict[str, float] = {}
    for what in ("found", "unknown"):
        async with _router(world) as router:
            found |= await _search(Ours(router, len(world.databases)), addresses, only=what)
    return found


async def _search(way: Way, addresses: Addresses, *, only: str = "") -> dict[str, float]:
    taken: dict[str, float] = {}
    if only != "unknown":
        user = addresses.known()
        gc.collect()
        start = time.perf_counter()
        found = await way.login(user.email)
        taken["found"] = time.perf_counter() - start
        if found != user.tenant:
            raise AssertionError(f"{user.email} was looked for and {found} found")
    if only != "found":
        address = addresses.unknown()
        gc.collect()
        start = time.perf_counter()
        found = await way.login(address)
        taken["unknown"] = time.perf_counter() - start
        if found is not None:
            raise AssertionError(f"{address} was found in {found}")
    return taken


def _part(spreads: Mapping[str, Mapping[str, Spread]], *, databases: int) -> Part:
    rows = [(name, _in_ms(found["found"]), _in_ms(found["unknown"])) for name, found in spreads.items()]
    head = ("ms", f"account in database {databases // 2 + 1}", "account nowhere")
    verdicts: list[Verdict] = []
    for name in ("ours, cold", "ours, warm"):
        worse = max(spreads[name].values(), key=lambda value: value.median)
        target = f"fan-out over {databases} databases, concurrency {CONCURRENCY}: {name}"
        verdicts.append(at_most(target, LIMIT_SECONDS, worse, "s"))
    return Part(
        title=f"Searching {databases} databases for an account that no directory knows",
        text=render(head, rows),
        data={
            "databases": databases,
            "seconds": {name: {what: asdict(value) for what, value in each.items()} for name, each in spreads.items()},
        },
        verdicts=tuple(verdicts),
    )


def _in_ms(value: Spread) -> str:
    return spread(Spread(median=value.median * 1e3, p25=value.p25 * 1e3, p75=value.p75 * 1e3))
