"""How does a test break one thing? Freezes a backend, cancels at the k-th await, plays a server that is not ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from collections.abc import Coroutine, Generator, Iterator
from typing import Any, Generic, Literal, TypeVar

from tests.support.chaos import ChaosProxy

T = TypeVar("T")

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


class CancelledAt(Generic[T]):
    """Awaits `coroutine` in this task, and cancels the task at its `k`-th await that really waits (0: the first).

    `awaits` counts them; when there are fewer than `k` nothing is cancelled.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], k: int, moment: Moment) -> None:
        self._coroutine = coroutine
        self._k = k
        self._moment = moment
        self.awaits = 0
        self.was_cancelled = False

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
                self._cancel(waited_for)
            self.awaits += 1
            try:
                yield waited_for
            except BaseException as exc:  # noqa: BLE001 - passed on into the coroutine
                thrown = exc

    def _cancel(self, waited_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.was_cancelled = True
        if self._moment == "before" or waited_for is None:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            # Called before the task's own wake-up, which is added after us: the result is there and so is the cancel.
            waited_for.add_done_callback(lambda _: task.cancel())


async def cancel_at(coroutine: Coroutine[Any, Any, Any], k: int, moment: Moment) -> bool:
    """Run `coroutine` in a task of its own, cancelled at its `k`-th await; False when it ended before that."""
    stepped = CancelledAt(coroutine, k, moment)

    async def run() -> None:
        await stepped

    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.create_task(run())
    return stepped.was_cancelled


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
