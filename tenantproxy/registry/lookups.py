"""Which lookups wait to be sent to the source? Many ids go in one question, on a few connections.

State: the lookups that wait and the workers that take them. Changed by `put`, the workers, timers and `close`, all in
the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from tenantproxy.errors import RegistryUnavailable
from tenantproxy.model import TenantId
from tenantproxy.registry.base import Answer, ConnectionLost, Given, GivenAsk, RegistryBusy

__all__ = ["Lookup", "LookupQueue", "LookupSource", "closed", "unavailable"]

BATCH: Final = 100  # ids in one question: more would hold the event loop for too long when the answer comes
WORKERS: Final = 2  # questions at once, each on a connection
# Lookups that are settled before the event loop runs those that waited for them. Counted, not timed: with thousands of
# callers a turn of the loop takes long, and the last lookup must not wait for too many of them.
_STEP: Final = 50
_TRIES: Final = 2  # a lookup whose connection broke is sent once more
_LATE: Final = 0.05  # seconds; a lookup that has no more left is as good as late


class Lookup:
    """One tenant that is being looked up. `answer` is shared by all who wait for it; errors are values in it."""

    __slots__ = ("answer", "began", "deadline", "is_sent", "tenant", "timer", "tries")

    def __init__(self, tenant: TenantId, loop: asyncio.AbstractEventLoop, *, timeout: float) -> None:
        self.tenant = tenant
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.began = loop.time()
        self.deadline = self.began + timeout
        self.is_sent = False  # from then on the answer may be older than a change that is announced
        self.tries = 0
        self.timer: asyncio.TimerHandle | None = None


class Settle(Protocol):
    """What is called with the answer to a lookup, once for each."""

    def __call__(self, lookup: Lookup, answer: Given, /) -> None:
        """Remember the answer and tell those who wait."""
        ...


class LookupSource(Protocol):
    """An `AsksMany`, or what stands ahead of one."""

    def asking(self, timeout: float | None, /) -> AbstractAsyncContextManager[GivenAsk]:
        """See `base.AsksMany`."""
        ...


class LookupQueue:
    """Lookups are sent in the order in which they came; none waits longer than `timeout` seconds, sending included.

    A lookup that could not be sent in time because this process had no connection to spare gets `RegistryBusy`: that
    says nothing about the source.
    """

    def __init__(self, source: Callable[[], LookupSource], *, timeout: float, settle: Settle) -> None:
        self._source = source
        self._timeout = timeout
        self._settle = settle
        self._waiting: dict[Lookup, None] = {}  # in order; exactly those that are neither sent nor answered
        self._workers: set[asyncio.Task[None]] = set()
        self._asking = 0  # workers whose question is under way; the others are about to take what waits

    @property
    def waiting(self) -> int:
        """How many lookups wait to be sent."""
        return len(self._waiting)

    def put(self, tenant: TenantId) -> Lookup:
        """Queue a lookup of `tenant`; returns at once."""
        loop = asyncio.get_running_loop()
        lookup = Lookup(tenant, loop, timeout=self._timeout)
        lookup.timer = loop.call_at(lookup.deadline, self._expire, lookup)
        self._waiting[lookup] = None
        self._employ(loop)
        return lookup

    def _employ(self, loop: asyncio.AbstractEventLoop) -> None:
        free = len(self._workers) - self._asking
        if len(self._workers) < WORKERS and free * BATCH < len(self._waiting):
            # An empty context: a connection that is opened on the way would keep that of the caller.
            task = loop.create_task(self._work(), name="tenantproxy registry lookups", context=contextvars.Context())
            self._workers.add(task)
            task.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if self._waiting and not worker.cancelled():  # put in the step in which it found nothing more
            self._employ(worker.get_loop())

    async def _work(self) -> None:
        while self._waiting:
            try:
                async with self._source().asking(self._patience()) as ask:
                    while self._waiting and await self._ask(ask):
                        pass
            except RegistryBusy as exc:
                soon = asyncio.get_running_loop().time() + _LATE
                late = [lookup for lookup in self._waiting if lookup.deadline <= soon]
                await self._answer(late or list(self._waiting), exc)
            except RegistryUnavailable as exc:
                await self._answer(list(self._waiting), exc)
            except Exception as exc:  # noqa: BLE001 - the boundary to a registry of the user's own
                await self._answer(list(self._waiting), unavailable(type(exc).__name__))

    def _patience(self) -> float:
        """Seconds that the oldest lookup has left."""
        oldest = next(iter(self._waiting))
        return max(0.001, oldest.deadline - asyncio.get_running_loop().time())

    async def _ask(self, ask: GivenAsk) -> bool:
        """Send the next batch; False: it failed, so the next one should go out on another connection."""
        batch = [lookup for lookup, _ in zip(self._waiting, range(BATCH), strict=False)]
        for lookup in batch:
            del self._waiting[lookup]
            lookup.is_sent = True
            lookup.tries += 1
        self._asking += 1
        try:
            answers = await ask([lookup.tenant for lookup in batch])
            await self._hand_out(batch, answers)
        except RegistryUnavailable as exc:
            await self._failed(batch, exc)
        except Exception as exc:  # noqa: BLE001 - the boundary to a registry of the user's own
            await self._failed(batch, unavailable(type(exc).__name__))
        except asyncio.CancelledError:
            for lookup in batch:
                self._settle_one(lookup, closed())
            raise
        else:
            return True
        finally:
            self._asking -= 1
        return False

    async def _failed(self, batch: Iterable[Lookup], error: RegistryUnavailable) -> None:
        again = [each for each in batch if isinstance(error, ConnectionLost) and each.tries < _TRIES]
        again = [each for each in again if not each.answer.done()]
        for lookup in again:
            lookup.is_sent = False
        self._waiting = {**dict.fromkeys(again), **self._waiting}
        await self._answer([each for each in batch if each not in self._waiting], error)

    async def _hand_out(self, batch: list[Lookup], answers: Mapping[TenantId, Given]) -> None:
        for number, lookup in enumerate(batch, start=1):
            answer = answers.get(lookup.tenant)
            self._settle_one(lookup, answer if answer is not None else unavailable("it gave no answer for a tenant"))
            if number % _STEP == 0:
                await asyncio.sleep(0)

    async def _answer(self, lookups: list[Lookup], error: RegistryUnavailable) -> None:
        for number, lookup in enumerate(lookups, start=1):
            answer = error.again()
            answer.__cause__ = error.__cause__
            self._settle_one(lookup, answer)
            if number % _STEP == 0:
                await asyncio.sleep(0)

    def _settle_one(self, lookup: Lookup, answer: Given) -> None:
        self._waiting.pop(lookup, None)
        if lookup.timer is not None:
            lookup.timer.cancel()
        if not lookup.answer.done():
            self._settle(lookup, answer)

    def _expire(self, lookup: Lookup) -> None:
        if lookup in self._waiting and len(self._workers) > self._asking:
            return  # the worker that waits for a connection has no time left either, and learns why it gets none
        self._settle_one(lookup, unavailable(f"no answer within {self._timeout:g} s"))

    async def close(self) -> None:
        """Fail every lookup and end the workers."""
        workers = tuple(self._workers)
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers)
        for lookup in list(self._waiting):
            self._settle_one(lookup, closed())


def closed() -> RegistryUnavailable:
    """The error for those who still wait when the registry is closed."""
    return RegistryUnavailable("the registry is closed")


def unavailable(detail: str) -> RegistryUnavailable:
    """The error for a source that cannot be asked."""
    return RegistryUnavailable("the tenant could not be looked up", detail=f"the registry: {detail}", retry_after=1.0)
