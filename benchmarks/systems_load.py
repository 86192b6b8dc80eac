"""How are mixed operations done by many tenants at once, until so many were answered?"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from benchmarks.systems_doors import Door, Statement
from benchmarks.systems_ledger import Ledger
from benchmarks.systems_platforms import Platform

__all__ = ["worked"]

_MIX: Final = {"write": 20, "read": 25, "list": 20, "join": 15, "transaction": 14, "undone": 4, "left": 2}  # of 100
_PAUSE: Final = 0.05  # seconds after an error
_LEAVES_SECONDS: Final = 0.03  # within these, in a statement that takes longer
_SLOW: Final[Statement] = ("SELECT pg_sleep(5)::text", ())
_FAILS: Final[Statement] = ("SELECT (1 / (length($1) - length($1)))::text", ("x",))
_DIVISION: Final = "22012"


class Worker:
    """One caller of one tenant, by all doors that the tenant has."""

    def __init__(self, platform: Platform, ledger: Ledger, tenant: str, doors: Sequence[Door], seed: str) -> None:
        self._sql, self._ledger, self._tenant, self._doors = platform.sql, ledger, tenant, doors
        self._rng = random.Random(seed)

    async def work(self, until: int) -> None:
        """One operation after the other, until all workers together have so many answers."""
        try:
            while self._ledger.operations < until:
                kind = self._rng.choices(list(_MIX), list(_MIX.values()))[0]
                door = self._rng.choice([each for each in self._doors if kind in each.kinds])
                try:
                    await self._one(door, kind)
                except Exception as exc:  # noqa: BLE001 - told by what it is
                    self._ledger.failed(door.name, exc)
                    await asyncio.sleep(_PAUSE)
        finally:
            for door in self._doors:
                await door.close()

    async def _one(self, door: Door, kind: str) -> None:
        ledger, sql, tenant = self._ledger, self._sql, self._tenant
        if kind == "write":
            mark = ledger.mark(tenant)
            await door.do((sql.write, (mark,)))
            ledger.acknowledged[tenant].append(mark)
        elif kind == "transaction":
            mark = ledger.mark(tenant)
            await door.do((sql.write, (mark,)), (sql.child, (mark,)))
            ledger.acknowledged[tenant].append(mark)
            ledger.paired.add(mark)
        elif kind == "undone":
            await self._undone(door)
        elif kind == "left":
            await self._left(door)
            return
        elif kind == "read":
            if not (known := ledger.acknowledged[tenant]):
                return
            mark = self._rng.choice(known)
            (rows,) = await door.do((sql.read, (mark,)))
            ledger.seen(door.name, tenant, rows)
            if not door.name.endswith("replica"):
                ledger.read_back(door.name, mark, rows)
        else:
            (rows,) = await door.do((sql.list if kind == "list" else sql.join, ()))
            ledger.seen(door.name, tenant, rows)
        ledger.done(door.name, kind)

    async def _undone(self, door: Door) -> None:
        """A row, and an error behind it in its transaction: neither stays."""
        mark = self._ledger.mark(self._tenant)
        self._ledger.undone.add(mark)
        try:
            await door.do((self._sql.write, (mark,)), _FAILS)
        except Exception as exc:
            if _DIVISION not in (getattr(exc, "sqlstate", ""), getattr(exc, "code", "")):
                raise
        else:
            raise AssertionError(f"{mark}: a division by zero was answered")

    async def _left(self, door: Door) -> None:
        """It vanishes with a row written, in a transaction that is not over."""
        mark = self._ledger.mark(self._tenant)
        self._ledger.undone.add(mark)
        call = asyncio.create_task(door.do((self._sql.write, (mark,)), _SLOW))
        await asyncio.wait([call], timeout=self._rng.random() * _LEAVES_SECONDS)
        if call.done():
            await call  # a fault came first
        call.cancel()
        await asyncio.wait([call])
        self._ledger.faults["callers that left"] += 1
        if not call.cancelled() and (exc := call.exception()) is not None and door.name != "port":
            raise exc  # of the port it is the driver's, of the client that is gone


async def worked(platform: Platform, ledger: Ledger, *, operations: int, each: int, seed: int) -> None:
    """`each` callers of each tenant at once. AssertionError of one of them ends all."""
    async with asyncio.TaskGroup() as group:
        for tenant in platform.tenants:
            for number in range(each):
                doors = platform.doors(tenant)
                worker = Worker(platform, ledger, tenant, doors, f"{seed}/{tenant}/{number}")
                group.create_task(worker.work(operations))
