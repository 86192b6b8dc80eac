"""What was done on a reference platform, and what came of it: acknowledged rows, foreign ones, errors and their cause.

A mark is `TENANT/NUMBER`, and each row carries the one of whom it belongs to.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import asyncpg

from tenantproxy.errors import TenantProxyError

__all__ = ["EXPLAINED", "Ledger", "Refused", "owner_of"]

EXPLAINED: Final = {
    "57014": "cancelled",
    "57P01": "its backend was ended",
    "57P02": "the server crashed",
    "57P03": "the server starts",
    "57P05": "its backend was ended",
    "08000": "the connection to the server was lost",
    "08001": "no connection to the server",
    "08003": "the connection to the server was lost",
    "08006": "the connection to the server was lost",
    "53300": "no connection in time",
    "closed": "the connection ended without a word",
    "http 500": "the service met one of these, and says no more",
    "http 503": "the service met one of these, and says that it may be tried again",
    "http 504": "the service's query was cancelled",
}
"""By SQLSTATE or status: what the faults explain."""

_POOLER: Final = "08P01"  # PgBouncer says it of a server that it cannot reach, where PostgreSQL says it of a client
_ENDING: Final = "another operation (2) is in progress"  # asyncpg, of a backend that said its end and is not gone yet
_KEPT: Final = 20  # examples of what is wrong


class Refused(Exception):
    """`/sql` or a service answered with an error: its SQLSTATE, or its status as `http STATUS`."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def owner_of(mark: str) -> str:
    """Whose it says that it is."""
    return mark.partition("/")[0]


@dataclass(slots=True, kw_only=True)
class Ledger:
    """`is_open`: all read one another's rows; then the values of a row must only agree on whose it is.

    `is_due` is set with the answer number `due`. `lost`, `doubled` and `revived` (rows of what was undone) are counted
    at the end, past all doors.
    """

    is_open: bool = False
    has_pooler: bool = False
    due: int = 0
    is_due: asyncio.Event = field(default_factory=asyncio.Event)
    operations: int = 0
    seconds: float = 0.0
    longest_pause: float = 0.0  # seconds without an answer to any one
    kinds: Counter[str] = field(default_factory=Counter)
    doors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    unexplained: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    paired: set[str] = field(default_factory=set)
    undone: set[str] = field(default_factory=set)
    foreign: int = 0
    missing: int = 0
    lost: int = 0
    doubled: int = 0
    revived: int = 0
    rows: int = 0  # that were seen by all doors
    examples: list[str] = field(default_factory=list)
    _last: int = 0
    _answered: float = 0.0

    def mark(self, tenant: str) -> str:
        """A new one."""
        self._last += 1
        return f"{tenant}/{self._last}"

    # --- what is heard while it runs ----------------------------------------------------------------------------------
    def done(self, door: str, kind: str) -> None:
        """An operation was answered."""
        now = time.monotonic()
        self.longest_pause = max(self.longest_pause, now - (self._answered or now))
        self._answered = now
        self.operations += 1
        self.doors[door] += 1
        self.kinds[kind] += 1
        if self.operations == self.due:
            self.is_due.set()

    def seen(self, door: str, tenant: str, rows: Iterable[Sequence[object]]) -> None:
        """Rows that came by a door: each value of each names its owner."""
        for row in rows:
            self.rows += 1
            owners = {owner_of(str(value)) for value in row}
            if len(owners) > 1 or not (self.is_open or owners == {tenant}):
                self.foreign += 1
                self._example(f"{door} as {tenant}: {list(row)}")

    def read_back(self, door: str, mark: str, rows: Sequence[Sequence[object]]) -> None:
        """What came for one row that was acknowledged."""
        if len(rows) != 1:
            self.missing += 1
            self._example(f"{door}: {len(rows)} rows of {mark}")

    def failed(self, door: str, exc: BaseException) -> None:
        """An operation that was answered with an error, or not at all."""
        code = _code_of(exc)
        if code in EXPLAINED or (code == _POOLER and self.has_pooler):
            self.explained[code] += 1
        else:
            self.unexplained[f"{door}: {code}: {str(exc)[:150]}"] += 1

    # --- what is there at the end -------------------------------------------------------------------------------------
    def settle(self, found: Iterable[tuple[str, str, int]]) -> None:
        """All marked rows that are there, with whose they are and how many rows belong to each."""
        there: Counter[str] = Counter()
        children: dict[str, int] = {}
        for owner, mark, count in found:
            there[mark] += 1
            children[mark] = count
            if owner != owner_of(mark):
                self.foreign += 1
                self._example(f"a row of {owner} is marked {mark}")
        for mark in (mark for marks in self.acknowledged.values() for mark in marks):
            if not there[mark] or (mark in self.paired and not children[mark]):
                self.lost += 1
                self._example(f"{mark} was acknowledged and is not there, or not whole")
        self.doubled = sum(count > 1 for count in there.values()) + sum(count > 1 for count in children.values())
        self.revived = sum(mark in there for mark in self.undone)

    def _example(self, text: str) -> None:
        if len(self.examples) < _KEPT:
            self.examples.append(text)


def _code_of(exc: BaseException) -> str:
    if isinstance(exc, Refused):
        return exc.code
    if isinstance(exc, (asyncpg.PostgresError, TenantProxyError)):
        return str(exc.sqlstate)
    if isinstance(exc, TimeoutError):  # an OSError too, and no fault explains that a call hangs
        return "no answer"
    if isinstance(exc, asyncpg.InternalClientError) and _ENDING in str(exc):
        return "closed"
    if isinstance(exc, (asyncpg.InterfaceError, OSError, aiohttp.ClientError, asyncio.IncompleteReadError)):
        return "closed"
    return type(exc).__name__
