"""What was announced? Listens on channels of the main database, on one connection, and tells of every gap."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from tenantproxy.slices import is_over, slice_end

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

__all__ = ["LISTENS", "ROLL_CALL", "Heard", "Listener"]

_Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"

Heard = Callable[[str | None], None]
"""Called at once with the payload of an announcement; None: anything may have happened. It must not block or raise."""

ROLL_CALL: Final = "tenantproxy_roll_call"
"""What is announced here is answered with `LISTENS`, behind everything that was announced before it."""

LISTENS: Final = "SELECT 'tenantproxy listens'"
"""The last statement of each session that listens: pg_stat_activity says when it last answered."""

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 15.0


class ListenerDatabase(Protocol):
    """Where it listens."""

    def connection(self) -> AbstractAsyncContextManager[_Connection]:
        """One connection for the length of the block."""
        ...


class Listener:
    """Holds one connection of `database` for all channels, from the first `hear` on while it is started.

    It never gives up. After each (re)connect all listeners hear None, since what was announced before was not heard. A
    silent peer is found out by a query every `heartbeat` seconds, which is the answer to a roll call too. `reading`: a
    block around its use of a connection.
    """

    def __init__(
        self,
        database: ListenerDatabase,
        *,
        heartbeat: float = 30.0,
        heartbeat_timeout: float = 5.0,
        jitter: Callable[[], float] = random.random,
        reading: Callable[[Any], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._database = database
        self._reading = reading
        self._heartbeat = heartbeat
        self._heartbeat_timeout = heartbeat_timeout
        self._jitter = jitter
        self._heard: dict[str, tuple[Heard, ...]] = {}  # by channel; a channel without listeners is not in it
        self._woken = asyncio.Event()  # set when `_heard` changed, the roll is called, or the connection is lost
        self._task: asyncio.Task[None] | None = None  # there is one from start to stop
        self._news: deque[tuple[str, object]] = deque()  # announced, and not passed on yet
        self.listening = asyncio.Event()
        """Set while everything is heard."""
        self.connects = 0
        """How often listening began."""

    @property
    def is_wanted(self) -> bool:
        """Whether it is started and has listeners: then it holds a connection, or tries to."""
        return self._task is not None and bool(self._heard)

    def hear(self, channel: str, heard: Heard) -> Callable[[], None]:
        """Call `heard` with what is announced on `channel` from now on; returns how to stop that."""
        self._heard[channel] = (*self._heard.get(channel, ()), heard)
        self.listening.clear()
        self._woken.set()

        def stop() -> None:
            left = list(self._heard.get(channel, ()))
            if heard in left:
                left.remove(heard)
            self._heard[channel] = tuple(left)
            if not left:
                del self._heard[channel]
            self._woken.set()

        return stop

    def start(self) -> None:
        """Begin, in a task of our own; needs a running loop."""
        if self._task is None:
            self._woken = asyncio.Event()  # one belongs to the loop in which it was first waited for
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="tenantproxy listener", context=contextvars.Context()
            )

    def forget_loop(self) -> None:
        """The event loop in which it was started has ended, and its task and connection with it."""
        self._task = None
        self._woken = asyncio.Event()
        self._heard.clear()
        self._news.clear()
        self.listening.clear()

    async def stop(self) -> None:
        """End, and give the connection back. It may be started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        failures = 0
        while True:
            while not self._heard:
                self._woken.clear()
                await self._woken.wait()
            try:
                async with self._database.connection() as conn:
                    failures = 0
                    with self._reading(conn):
                        await self._listen(conn)
                if not self._heard:
                    continue
            except Exception:  # noqa: BLE001  # a boundary: whatever it was, the answer is to connect again
                pass
            # Full jitter: many processes that lost the same server must not return to it together.
            await asyncio.sleep(min(_LONGEST_WAIT, _FIRST_WAIT * 2**failures) * (0.5 + self._jitter() / 2))
            failures = min(failures + 1, 10)

    async def _listen(self, conn: _Connection) -> None:
        """Until the connection is lost, or no listener is left."""
        on: set[str] = set()

        def ended(_conn: object) -> None:
            self._woken.set()

        conn.add_termination_listener(ended)
        self.connects += 1
        try:
            on.add(ROLL_CALL)
            await conn.add_listener(ROLL_CALL, self._announced)
            while self._heard and not conn.is_closed():
                self._woken.clear()
                await self._follow(conn, on)
                await conn.execute(LISTENS, timeout=self._heartbeat_timeout)
                if not self._woken.is_set():
                    self.listening.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat):
                        await self._woken.wait()
        except Exception:
            conn.terminate()  # it did not answer: asking it to stop, or to close, would wait just as long
            raise
        finally:
            self.listening.clear()
            if not conn.is_closed():
                conn.remove_termination_listener(ended)
                await self._unlisten(conn, on)

    async def _follow(self, conn: _Connection, on: set[str]) -> None:
        """Listen on what is wanted, and on nothing else; a new listener may have missed something."""
        for channel in on - self._heard.keys() - {ROLL_CALL}:
            on.discard(channel)
            await conn.remove_listener(channel, self._announced)
        for channel in self._heard.keys() - on:
            on.add(channel)
            await conn.add_listener(channel, self._announced)
            self._tell(channel, None)

    def _announced(self, _conn: object, _pid: int, channel: str, payload: object) -> None:
        news = self._news  # as little as can be: the driver calls this for all of them in one turn of the loop
        if not news:
            asyncio.get_running_loop().call_soon(self._pass_on)
        news.append((channel, payload))

    def _pass_on(self) -> None:
        """Thousands of announcements may come at once: after a slice of them others run."""
        end = slice_end()
        try:
            while self._news:
                channel, payload = self._news.popleft()
                self._tell(channel, str(payload) or None)
                if is_over(end):
                    break
        finally:
            if self._news:
                asyncio.get_running_loop().call_soon(self._pass_on)

    def _tell(self, channel: str, payload: str | None) -> None:
        if channel == ROLL_CALL:
            self._woken.set()
        for heard in self._heard.get(channel, ()):
            heard(payload)

    async def _unlisten(self, conn: _Connection, on: set[str]) -> None:
        try:
            async with asyncio.timeout(self._heartbeat_timeout):
                for channel in on:
                    await conn.remove_listener(channel, self._announced)
        except Exception:  # noqa: BLE001  # a boundary: what cannot be undone is destroyed
            conn.terminate()
