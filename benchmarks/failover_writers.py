"""Writers on the library and the port during a failover: what was acknowledged, and what of it is there afterwards?"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import asyncpg

from tenantproxy import Router
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.pg import PgPort
from tests.support.wire_client import PASSWORD

__all__ = [
    "LIMIT_SECONDS",
    "TABLE",
    "WAIT_SECONDS",
    "WRITERS",
    "Kept",
    "Position",
    "Writers",
    "a_client",
    "a_listener",
    "branch_of",
    "fails",
    "kept_of",
    "rows_of",
]

WRITERS: Final = 8  # on each side
WAIT_SECONDS: Final = 60.0
LIMIT_SECONDS: Final = 2.0
TABLE: Final = "CREATE TABLE writes (writer int, number int); GRANT ALL ON writes TO PUBLIC"
_PAUSE: Final = 0.01  # after an error
_WRITE: Final = """
INSERT INTO writes VALUES ($1, $2) RETURNING pg_walfile_name(pg_current_wal_insert_lsn()) || ' '
  || (pg_current_wal_insert_lsn() - '0/0')::bigint
"""


class Position(NamedTuple):
    """A place in the write-ahead log. Each promotion begins a timeline."""

    timeline: int
    lsn: int

    @classmethod
    def of(cls, told: str) -> Position:
        """What `_WRITE` answers: the name of a log file, which begins with the timeline, and the bytes."""
        name, lsn = told.split(" ")
        return cls(int(name[:8], 16), int(lsn))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of writes that were acknowledged.

    `never_received`: written on the former primary's timeline behind where the new one branched off. `at_the_edge`: of
    one writer the last one before that, whose COMMIT may be behind it.
    """

    lost: int
    doubled: int
    never_received: int
    at_the_edge: int


def kept_of(
    acknowledged: Mapping[tuple[int, int], Position],
    rows: Mapping[tuple[int, int], int],
    branch: Position,
    *,
    is_synchronous: bool,
) -> Kept:
    """Compare what writers were told with the `rows` that are there. Synchronous: all must be."""
    missing = {key: position for key, position in acknowledged.items() if not rows.get(key)}
    former = {key: one for key, one in acknowledged.items() if one.timeline <= branch.timeline}
    last: dict[int, int] = {}
    for (writer, number), one in former.items():
        if one.lsn < branch.lsn:
            last[writer] = max(last.get(writer, 0), number)
    behind = {key for key in missing if key in former and former[key].lsn >= branch.lsn}
    edge = {key for key in missing if key in former and key not in behind and last[key[0]] == key[1]}
    excused = set() if is_synchronous else behind | edge
    return Kept(
        lost=len(missing.keys() - excused),
        doubled=sum(count > 1 for count in rows.values()),
        never_received=len(behind & excused),
        at_the_edge=len(edge & excused),
    )


async def branch_of(conn: asyncpg.Connection) -> Position:
    """Where the timeline of this primary left the one before it. As a superuser."""
    text: str = await conn.fetchval(
        "SELECT pg_read_file('pg_wal/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.history')"
    )
    timeline, lsn = text.strip().splitlines()[-1].split("\t")[:2]
    high, low = lsn.split("/")
    return Position(int(timeline), int(high, 16) << 32 | int(low, 16))


async def rows_of(conn: asyncpg.Connection) -> Counter[tuple[int, int]]:
    """How often each write is there."""
    return Counter((row[0], row[1]) for row in await conn.fetch("SELECT writer, number FROM writes"))


class Writers:
    """Write rows that no other writes, one after the other, until they are told to end; never one again."""

    def __init__(self, router: Router, tenant: str, port: int) -> None:
        self.acknowledged: dict[tuple[int, int], Position] = {}  # where the log ended before its commit
        self.first: dict[str, float] = {}  # of each side, on the new timeline since `accepts_at`
        self.stale = 0  # acknowledged by the former primary since then
        self.accepts_at = 0.0
        self.ends_at = float("inf")
        self.errors = 0
        self.enough = asyncio.Event()  # as many as `wanted` are acknowledged
        self.both = asyncio.Event()  # each side has a `first`
        self.wanted = 0
        self._timeline = 0  # of the first write
        self._router = router
        self._tenant = tenant
        self._port = port

    async def by_library(self, name: int) -> None:
        """One on the library."""
        scope = self._router.tenant(self._tenant)
        await self._write(name, "library", lambda each: scope.fetchval(_WRITE, name, each, timeout=WAIT_SECONDS))

    async def by_port(self, name: int) -> None:
        """One on the port; a client that was closed connects again."""
        client = await a_client(self._port, self._tenant)

        async def write(each: int) -> str:
            nonlocal client
            if client.is_closed():
                client = await a_client(self._port, self._tenant)
            told: str = await client.fetchval(_WRITE, name, each, timeout=WAIT_SECONDS)
            return told

        await self._write(name, "port", write)
        client.terminate()

    def start(self, group: asyncio.TaskGroup) -> None:
        """All of them."""
        for name in range(WRITERS):
            group.create_task(self.by_library(name))
            group.create_task(self.by_port(WRITERS + name))

    def accepted(self) -> None:
        """The new primary takes writes now."""
        self.accepts_at = time.monotonic()

    async def _write(self, name: int, side: str, write: Callable[[int], Awaitable[str]]) -> None:
        each = 0
        while time.monotonic() < self.ends_at or side not in self.first:
            each += 1
            try:
                told = await write(each)
            except Exception:  # noqa: BLE001 - counted; whether it took effect is not known, so it is not repeated
                self.errors += 1
                await asyncio.sleep(_PAUSE)
                continue
            self._acknowledge((name, each), Position.of(told), side)

    def _acknowledge(self, key: tuple[int, int], position: Position, side: str) -> None:
        self.acknowledged[key] = position
        self._timeline = self._timeline or position.timeline
        if len(self.acknowledged) >= self.wanted:
            self.enough.set()
        if not self.accepts_at:
            return
        if position.timeline == self._timeline:
            self.stale += 1
        else:
            self.first.setdefault(side, time.monotonic())
            if len(self.first) == 2:
                self.both.set()


async def fails(client: asyncpg.Connection) -> int:
    """Whether a client that had asked nothing meanwhile gets an error now."""
    try:
        await client.fetchval("SELECT 1", timeout=WAIT_SECONDS)
    except Exception:  # noqa: BLE001 - a figure
        return 1
    finally:
        client.terminate()
    return 0


async def a_client(port: int, tenant: str) -> asyncpg.Connection:
    """One of the port."""
    client: asyncpg.Connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user="all", password=PASSWORD, database=tenant, ssl=False, timeout=WAIT_SECONDS
    )
    return client


@asynccontextmanager
async def a_listener(router: Router) -> AsyncIterator[PgPort]:
    """The port, while the block runs."""
    port = PgPort(router, AuthDesk(router), drain_timeout=1.0, version="of the benchmark")
    await port.open()
    try:
        yield port
    finally:
        await port.close()
