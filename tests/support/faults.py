"""How does a test break one thing? Freezes a backend, cancels at the k-th await, plays a server that is not ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any, Final, Generic, Literal, TypeVar

import asyncpg

from tests.support.chaos import ChaosProxy, Link, Way
from tests.support.database import Database
from tests.support.waiting import PATIENCE
from tests.support.world import APP_PASSWORD, APP_ROLE

T = TypeVar("T")

_CANCEL: Final = struct.pack("!ii", 16, 80877102)  # how a CancelRequest begins

Moment = Literal["before", "after"]
"""Of an await: cancelled while what it waits for is not done, or in the very step in which it was done."""


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process `pid` gets no time until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class AtAwait(Generic[T]):
    """Awaits `coroutine` in this task, and does `what` at its `k`-th await that really waits (0: the first).

    `awaits` counts them; when there are no more than `k` nothing is done.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], k: int, what: Callable[[], object], moment: Moment = "before"
    ) -> None:
        self._coroutine = coroutine
        self._k = k
        self._what = what
        self._moment = moment
        self.awaits = 0
        self.was_done = False

    def __await__(self) -> Generator[Any, Any, T]:
        thrown: BaseException | None = None
        while True:
            try:
                waited_for = self._coroutine.send(None) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as done:
                result: T = done.value
                return result
            thrown = None
            if self.awaits == self._k:
                self._do(waited_for)
            self.awaits += 1
            try:
                yield waited_for
            except BaseException as exc:  # noqa: BLE001 - passed on into the coroutine
                thrown = exc

    def _do(self, waited_for: Any) -> None:
        self.was_done = True
        if self._moment == "before" or waited_for is None:
            asyncio.get_running_loop().call_soon(self._what)
        else:
            # Called before the task's own wake-up, which is added after us: the result is there already.
            waited_for.add_done_callback(lambda _: self._what())


async def cancel_at(coroutine: Coroutine[Any, Any, Any], k: int, moment: Moment) -> bool:
    """Run `coroutine` in a task of its own, cancelled at its `k`-th await; False when it ended before that."""
    stepped = AtAwait(coroutine, k, lambda: asyncio.Task.cancel(task), moment)

    async def run() -> None:
        await stepped

    task = asyncio.create_task(run())
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return stepped.was_done


class NotReadyProxy(ChaosProxy):
    """While `answer` is a SQLSTATE, new connections are answered with it and closed, as by a server that starts up."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.answer: str | None = None
        self.answered: list[float] = []  # the loop's time of each

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.answer is None:
            await super()._serve(reader, writer)
            return
        size = struct.unpack("!i", await reader.readexactly(4))[0]
        await reader.readexactly(size - 4)
        self.answered.append(asyncio.get_running_loop().time())
        fields = b"SFATAL\0VFATAL\0C" + self.answer.encode() + b"\0Mthe database system is not ready\0\0"
        writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
        await writer.drain()


class CancelEater(ChaosProxy):
    """Swallows the first `swallow` cancel requests; their senders see the usual end, and no effect."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.swallow = 0
        self.cancels = 0  # that came, swallowed or not

    async def _pass(self, link: Link, chunk: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        if way is Way.TO_SERVER and not link.passed[way] and chunk.startswith(_CANCEL):
            self.cancels += 1
            if self.cancels <= self.swallow:
                link.cut()
                return
        await super()._pass(link, chunk, writer, way)


class CancelHolder(ChaosProxy):
    """Holds requests to cancel back while `holds` is set, and brings them when it is `release`d, however late."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.holds = True
        self.held: list[bytes] = []

    async def _pass(self, link: Link, chunk: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        if self.holds and way is Way.TO_SERVER and not link.passed[way] and chunk.startswith(_CANCEL):
            self.held.append(chunk)
            await asyncio.Event().wait()
        await super()._pass(link, chunk, writer, way)

    async def release(self) -> None:
        """Deliver them, even if their senders have given up; returns when the server has handled them."""
        self.holds = False
        for request in self.held:
            reader, writer = await asyncio.open_connection(*self._target)
            writer.write(request)
            await reader.read()
            writer.close()


@contextlib.asynccontextmanager
async def filled(database: Database) -> AsyncIterator[list[asyncpg.Connection]]:
    """Every connection that the server, the database and the role have left, taken by other clients."""
    taken: list[asyncpg.Connection] = []
    try:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await database.open(APP_ROLE, APP_PASSWORD))
        yield taken
    finally:
        for conn in taken:
            await conn.close(timeout=PATIENCE)
