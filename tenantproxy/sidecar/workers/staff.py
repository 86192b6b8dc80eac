"""Who starts workers, starts them again, and lets them end? One place for each; changed here alone."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, TypeVar

from tenantproxy.errors import TenantProxyError
from tenantproxy.sidecar.pg.keys import MOST_WORKERS
from tenantproxy.sidecar.service import UpgradeFailed, WorkerNotFound
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
_PING_SECONDS: Final = 2.0
_UNHEARD: Final = 15  # a worker that leaves so many pings unanswered is killed
_UNHEARD_STARTING: Final = 60  # and one that starts: its first code is slow to come on a busy machine
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
        inherited: Sequence[int] = (),
    ) -> None:
        self._fds = [*inherited, *(sock.fileno() for name in SERVED for sock in sockets.get(name, ()))]
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
        self.spawn(self._watch())
        await _settled(self.places)

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
            self._bury(place)
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
        place.began()

        async def answer(verb: str, body: Any) -> Any:
            place.unheard = 0
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
    async def restart(self, number: int | None = None) -> list[int]:
        """Start each again, or the one of this `number`; the numbers of the new ones, which come first.

        From the first new one on no former one takes a client of the port: who is sent away meets none that will send
        it away again. Raises WorkerNotFound, TenantProxyError when a new one does not start: the former serve on then.
        """
        former = [place for place in self.places if place.is_active and number in (None, place.number)]
        if not former:
            raise WorkerNotFound(f"there is no worker {number}", hint="tenantproxy fleet workers lists them")
        new = await self._in_advance(len(former))
        try:
            for old in former:
                if new:
                    await self._tell(former, WorkerState.READY, WorkerEvent.RELIEVED, "relieve")
                await self.drain(old)
                if len(new) < len(former):
                    new.append(self._add(await self.allotment.for_one_more()))
                    await _settled(new[-1:])
                await self.allotment.level()
        except TenantProxyError:
            await self._tell(former, WorkerState.LEAVING, WorkerEvent.RECALLED, "recall")
            raise
        logger.info("started again: %s", "all workers" if number is None else f"worker {number}")
        return [place.number for place in new]

    async def _in_advance(self, wanted: int) -> list[WorkerPlace]:
        """So many, or as many as the budgets have room for. Raises TenantProxyError: there are none of them then."""
        new: list[WorkerPlace] = []
        try:
            while len(new) < wanted and self.allotment.can_have(1 + sum(place.is_active for place in self.places)):
                try:
                    granted = await self.allotment.for_one_more()
                except UpgradeFailed:
                    if new:
                        break  # too much is in use: the others come when a former one has ended
                    raise
                new.append(self._add(granted))
                await _settled(new[-1:])
        except TenantProxyError:
            await asyncio.gather(*map(self.drain, new))
            await self.allotment.level()
            raise
        return new

    async def _tell(self, places: Sequence[WorkerPlace], state: WorkerState, event: WorkerEvent, verb: str) -> None:
        """Tell those in `state` that it happens; one that hangs takes no client either."""
        for place in (told := [each for each in places if each.state is state]):
            place.happened(event)
        await asyncio.gather(*(place.ask(verb, timeout=_ASK_SECONDS) for place in told), return_exceptions=True)

    async def ask_all(
        self, verb: str, body: Any = None, *, timeout: float = _ASK_SECONDS
    ) -> list[tuple[WorkerPlace, Any]]:
        """The answers, or errors, of all that can be asked."""
        places = [place for place in self.places if place.is_up]
        work = (place.ask(verb, body, timeout=timeout) for place in places)
        return list(zip(places, await asyncio.gather(*work, return_exceptions=True), strict=True))

    async def first(self, verb: str, is_enough: Callable[[Any], bool]) -> list[Any]:
        """The first answer that is enough, alone; or else all, when those that hang have had their time."""
        asked = [asyncio.ensure_future(_answer_of(place, verb)) for place in self.places if place.is_up]
        found: list[Any] = []
        try:
            for each in asyncio.as_completed(asked):
                found += await each
                if found and is_enough(found[-1]):
                    return found[-1:]
        finally:
            for one in asked:
                one.cancel()
        return found

    def any_of(self, *states: WorkerState) -> WorkerPlace:
        """One that is in the first of these states in which any is. Raises LinkLost where none is."""
        found = next((place for state in states for place in self.places if place.state is state), None)
        if found is None:
            raise LinkLost("no worker is ready", retry_after=1.0)
        return found

    async def answers(self, verb: str, body: Any = None) -> list[tuple[WorkerPlace, Any]]:
        """The answers of those that gave one."""
        return [each for each in await self.ask_all(verb, body) if not isinstance(each[1], BaseException)]

    async def _watch(self) -> None:
        """Kill those that answer nothing any more, also before they are ready.

        Pings are counted, not seconds: when this process was stopped itself, its workers have not been silent.
        """
        while True:
            await asyncio.sleep(_PING_SECONDS)
            for place in [each for each in self.places if each.state is not WorkerState.WAITING]:
                self.spawn(_ping(place))
                place.unheard += 1
                most = _UNHEARD_STARTING if place.state is WorkerState.STARTING else _UNHEARD
                if place.unheard > most and place.child is not None:
                    logger.error("worker %d has left %d pings unanswered: killed", place.number, most)
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


async def _answer_of(place: WorkerPlace, verb: str) -> list[Any]:
    """Its answer; nothing when it gives none."""
    with suppress(TenantProxyError):
        return [await place.ask(verb, timeout=_ASK_SECONDS)]
    return []


async def _ping(place: WorkerPlace) -> None:
    with suppress(LinkLost):
        await place.ask("ping", timeout=_UNHEARD * _PING_SECONDS)
        place.unheard = 0


def next_pause(former: float, age: float) -> float:
    """Seconds to wait before a worker is started again that has crashed after `age` seconds."""
    if former == 0.0 or age > _LONG_LIFE:
        return _FIRST_PAUSE
    return min(_LONGEST_PAUSE, 2 * former)
