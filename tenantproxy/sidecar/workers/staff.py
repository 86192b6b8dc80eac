"""Who starts workers, starts them again, and lets them end? One place for each; changed here alone."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, TypeVar

from tenantproxy.errors import TenantProxyError
from tenantproxy.sidecar.pg.keys import MOST_WORKERS
from tenantproxy.sidecar.sockets import Sockets
from tenantproxy.sidecar.workers.allotment import Allotment
from tenantproxy.sidecar.workers.budgets import Grant, raised
from tenantproxy.sidecar.workers.child import Child
from tenantproxy.sidecar.workers.link import LinkLost
from tenantproxy.sidecar.workers.place import WorkerPlace
from tenantproxy.sidecar.workers.state import WorkerEvent, WorkerState
from tenantproxy.sidecar.workers.worker import BOOT, LINK_VARIABLE

__all__ = ["SERVED", "Staff", "next_pause"]

SERVED: Final = ("http", "pg")
"""The listeners of workers."""

_NOT_FOR_WORKERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
_ASK_SECONDS: Final = 5.0
_PING_SECONDS, _SILENT_SECONDS = 2.0, 30.0  # a worker that answers nothing for so long is killed
_END_SECONDS: Final = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE, _LONG_LIFE = 0.1, 30.0, 60.0

Answer = Callable[[WorkerPlace, str, Any], Awaitable[Any]]
"""Answers a question of a worker."""

T = TypeVar("T")
logger = logging.getLogger("tenantproxy")


class Staff:
    """The workers. `answer`: to what they ask; `bury`: called with a place whose worker is gone for good."""

    def __init__(
        self,
        sockets: Sockets,
        total: Mapping[str, int],
        *,
        answer: Answer,
        bury: Callable[[WorkerPlace], None],
        drain_timeout: float,
    ) -> None:
        self._fds = [sock.fileno() for name in SERVED for sock in sockets.get(name, ())]
        self._answer = answer
        self._bury = bury
        self._drain_timeout = drain_timeout
        self._tasks: set[asyncio.Task[Any]] = set()
        self.places: list[WorkerPlace] = []
        self.crashes = 0
        self.allotment = Allotment(self.places, total)

    async def open(self, workers: int) -> None:
        """Start so many; returns when all are ready. Raises TenantProxyError with what one said that will not be."""
        for grant in raised(self.allotment.total, [{}] * workers, workers):
            self._add(grant)
        await _settled(self.places)
        self.spawn(self._watch())

    def _add(self, granted: Grant) -> WorkerPlace:
        taken = {place.number for place in self.places}
        number = next(number for number in range(1, MOST_WORKERS) if number not in taken)
        place = WorkerPlace(number, granted)
        self.places.append(place)
        place.task = self.spawn(self._keep(place))
        return place

    # --- one worker --------------------------------------------------------------------------------------------------
    async def _keep(self, place: WorkerPlace) -> None:
        """Run the worker of a place, and start it again when it has crashed."""
        pause = 0.0
        while place.state is not WorkerState.GONE:
            try:
                status = await self._run(place)
            except OSError as exc:
                logger.error("worker %d could not be started: %s", place.number, exc)
                status = 1
            if place.state is WorkerState.DRAINING:
                place.happened(WorkerEvent.ENDED)
                break
            if not place.settled.is_set():
                place.failure = place.failure or f"worker {place.number} ended before it was ready: status {status}"
                place.settled.set()
            place.happened(WorkerEvent.CRASHED)
            if status:
                pause = next_pause(pause, place.age)
                self.crashes += 1
                place.restarts += 1
                what = "worker %d ended with status %d, and is started again in %.1f s"
                logger.error(what, place.number, status, pause)
                await asyncio.sleep(pause)
            if place.state is WorkerState.WAITING:
                place.happened(WorkerEvent.BACKED_OFF)
        self.places.remove(place)
        self._bury(place)

    async def _run(self, place: WorkerPlace) -> int:
        variables = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
        place.heard_at = time.monotonic()

        async def answer(verb: str, body: Any) -> Any:
            place.heard_at = time.monotonic()
            return await self._answer(place, verb, body)

        command = [sys.executable, "-c", BOOT, json.dumps(sys.path)]
        place.child = child = Child.start(command, answer, fds=self._fds, variables=variables, variable=LINK_VARIABLE)
        try:
            await child.open()
            return await child.wait()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise

    async def drain(self, place: WorkerPlace) -> None:
        """Let its worker end; returns when it has."""
        if place.state is WorkerState.WAITING and place.task is not None:
            place.happened(WorkerEvent.TOLD_TO_END)
            place.task.cancel()
            self.places.remove(place)
            self._bury(place)
            return
        if place.state is not WorkerState.DRAINING:
            place.happened(WorkerEvent.TOLD_TO_END)
        with suppress(LinkLost):
            await place.ask("drain", timeout=_ASK_SECONDS)
        if place.task is None:
            return
        # The worker keeps to the same time, and a little more to close what it has.
        done, _ = await asyncio.wait([place.task], timeout=self._drain_timeout + _END_SECONDS)
        if not done:
            logger.error("worker %d did not end in time: killed", place.number)
            if place.child is not None:
                place.child.kill()
            await asyncio.wait([place.task])

    # --- all of them -------------------------------------------------------------------------------------------------
    async def restart(self) -> None:
        """Start each again, one after the other.

        Raises TenantProxyError when a new one does not start; the former is in its place then.
        """
        for old in [place for place in self.places if place.is_active]:
            if self.allotment.can_have(1 + sum(place.is_active for place in self.places)):
                await self._replace(old)
            else:  # no budget for one more
                await self.drain(old)
                await _settled([self._add(await self.allotment.for_one_more())])
            await self.allotment.level()
        logger.info("all workers were started again")

    async def _replace(self, old: WorkerPlace) -> None:
        new = self._add(await self.allotment.for_one_more())
        try:
            await _settled([new])
        except TenantProxyError:
            await self.drain(new)
            await self.allotment.level()
            raise
        await self.drain(old)

    async def ask_all(
        self, verb: str, body: Any = None, *, timeout: float = _ASK_SECONDS
    ) -> list[tuple[WorkerPlace, Any]]:
        """The answers, or errors, of all that can be asked."""
        places = [place for place in self.places if place.is_up]
        work = (place.ask(verb, body, timeout=timeout) for place in places)
        return list(zip(places, await asyncio.gather(*work, return_exceptions=True), strict=True))

    async def answers(self, verb: str) -> list[tuple[WorkerPlace, Any]]:
        """The answers of those that gave one."""
        return [each for each in await self.ask_all(verb) if not isinstance(each[1], BaseException)]

    async def _watch(self) -> None:
        """Kill those that answer nothing any more."""
        while True:
            await asyncio.sleep(_PING_SECONDS)
            for place in [each for each in self.places if each.is_up]:
                self.spawn(_ping(place))
                if time.monotonic() - place.heard_at > _SILENT_SECONDS and place.child is not None:
                    logger.error("worker %d has answered nothing for %.0f s: killed", place.number, _SILENT_SECONDS)
                    place.child.kill()

    async def close(self) -> None:
        """Let all end."""
        await asyncio.gather(*(self.drain(place) for place in list(self.places)))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` until `close` at most."""
        task = asyncio.get_running_loop().create_task(work, name="tenantproxy supervisor", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the supervisor failed", exc_info=error)


async def _settled(places: Sequence[WorkerPlace]) -> None:
    """Returns when they are ready. Raises TenantProxyError with what the first said that will not be."""
    for place in list(places):
        await place.settled.wait()
        if place.failure is not None:
            raise TenantProxyError(place.failure)


async def _ping(place: WorkerPlace) -> None:
    with suppress(LinkLost):
        await place.ask("ping", timeout=_SILENT_SECONDS)
        place.heard_at = time.monotonic()


def next_pause(former: float, age: float) -> float:
    """Seconds to wait before a worker is started again that has crashed after `age` seconds."""
    if former == 0.0 or age > _LONG_LIFE:
        return _FIRST_PAUSE
    return min(_LONGEST_PAUSE, 2 * former)
