"""How does the process begin, obey its signals and end? The same for one sidecar and for a supervisor of workers.

SIGTERM: not ready for `drain_delay` seconds, then drain. SIGINT: drain at once; a second signal ends the process.
SIGHUP: reload. SIGUSR1: start the workers again, one by one. SIGUSR2: let a new process take over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from tenantproxy.errors import NotSupported, TenantProxyError
from tenantproxy.events import ServiceCommanded
from tenantproxy.sidecar.free_memory import keep
from tenantproxy.sidecar.generation import Generation
from tenantproxy.sidecar.service import Service, UpgradeFailed
from tenantproxy.sidecar.sockets import Sockets, close_all
from tenantproxy.sidecar.systemd import Notifier
from tenantproxy.sidecar.upgrade import Predecessor, Successor

__all__ = ["Process", "serve_until_signalled"]

logger = logging.getLogger("tenantproxy")

Ready = Callable[[], Awaitable[None] | None]
Restart = Callable[[int | None], Awaitable[Sequence[int]]]
_ANSWER_SECONDS: Final = 0.05  # for the answer to who asked over the admin listener
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


class Process:
    """Runs one service. `sockets` and their `addresses`: what a successor gets; they are closed at the end.

    It is the `Controls` of its service.
    """

    def __init__(
        self,
        *,
        drain_delay: Callable[[], float] = lambda: 0.0,
        notifier: Notifier | None = None,
        sockets: Sockets | None = None,
        addresses: Mapping[str, str] | None = None,
        predecessor: Predecessor | None = None,
        generation: Generation | None = None,
    ) -> None:
        self._drain_delay = drain_delay
        self._notifier = notifier or Notifier()
        self._sockets = sockets
        self._addresses = addresses or {}
        self._predecessor = predecessor
        self._generation = generation or Generation()
        self._service: Service | None = None
        self._successor: Successor | None = None  # from the moment an upgrade begins, until it has failed
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()  # drain without a delay
        self._is_ready = False
        self._upgrading: asyncio.Task[int] | None = None  # while it is not known how an upgrade ends
        self._tasks: set[asyncio.Task[Any]] = set()
        self._under_way: set[str] = set()  # what a signal has begun
        self._once_more: set[str] = set()  # and what another signal of the same kind asked for meanwhile
        self.restarter: Restart | None = None
        """Starts the workers again, one by one; None: there are none."""

    # --- life --------------------------------------------------------------------------------------------------------
    async def run(self, service: Service, ready: Ready) -> None:
        """Open `service`, call `ready`, serve until a signal or a successor ends it, and drain it."""
        self._service = service
        loop = asyncio.get_running_loop()
        for each in _ENDING:
            loop.add_signal_handler(each, self._signalled, each)
        for number, verb, work in (
            (signal.SIGHUP, "reload", self.reload),
            (signal.SIGUSR1, "restart", self.restart),
            (signal.SIGUSR2, "upgrade", self.upgrade),
        ):
            loop.add_signal_handler(number, self._do, work, number.name, verb)
        try:
            if await self._opens(service):
                await self._serve(service, ready)
        finally:
            await self._end(service)

    async def _opens(self, service: Service) -> bool:
        """Open it, however long its main database is down; False: stopped meanwhile, and closed."""
        predecessor = self._predecessor
        if predecessor is not None:
            service.resize_budgets(predecessor.budgets)
            service.meet(predecessor.cancel)
            predecessor.serve_cancels(service.cancel)
        opening = asyncio.ensure_future(service.open(is_successor=predecessor is not None))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not opening.done():
                opening.cancel()
                await asyncio.wait([opening])
        if opening.cancelled():
            return False
        opening.result()
        return True

    async def _serve(self, service: Service, ready: Ready) -> None:
        keep()
        self._is_ready = True
        if self._predecessor is not None:
            await self._predecessor.say("ready")
            self._spawn(self._outlive(self._predecessor))
        self._notifier.tell("READY=1", f"MAINPID={os.getpid()}", "STATUS=ready")
        if self._notifier.watchdog is not None:
            self._spawn(self._show_life(self._notifier.watchdog))
        if (invited := ready()) is not None:
            await invited
        await self._stop.wait()
        self._is_ready = False
        service.start_draining()
        if self._successor is None:
            self._notifier.tell("STOPPING=1", "STATUS=draining")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_delay()):
                await self._hurry.wait()

    async def _end(self, service: Service) -> None:
        if self._upgrading is not None:
            self._upgrading.cancel()
            await asyncio.wait([self._upgrading])
        await service.close()
        if self._sockets is not None:
            close_all(self._sockets)
        if self._predecessor is not None:
            await self._predecessor.close()
        if self._successor is not None:
            await self._successor.close()
        await self._cancel_tasks()
        self._generation.close()

    async def _cancel_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _outlive(self, predecessor: Predecessor) -> None:
        await predecessor.gone()
        assert self._service is not None
        self._service.meet(None)
        self._service.restore_budgets()
        self._predecessor = None
        logger.info("the process before this one has ended")

    async def _show_life(self, period: float) -> None:
        while True:
            self._notifier.tell("WATCHDOG=1")
            await asyncio.sleep(period)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="tenantproxy process", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- signals -----------------------------------------------------------------------------------------------------
    def _signalled(self, number: signal.Signals) -> None:
        logger.info("%s: draining", number.name)
        self._tell(number.name, "drain")
        loop = asyncio.get_running_loop()
        for each in _ENDING:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        if number is signal.SIGINT or not self._is_ready:
            self._hurry.set()
        if self._upgrading is not None:
            self._upgrading.cancel()
        self._stop.set()

    def _tell(self, by: str, change: str, outcome: str = "done") -> None:
        if self._service is not None:
            self._service.tell(ServiceCommanded(by=by, change=change, outcome=outcome))

    def _do(self, work: Callable[[], Coroutine[Any, Any, object]], name: str, verb: str) -> None:
        """However many signals come while one is obeyed, that is done once more, as things are then."""

        async def done() -> None:
            outcome = "failed"
            try:
                await work()
                outcome = "done"
            except TenantProxyError as exc:
                logger.error("%s: %s failed, nothing was changed: %s", name, verb, exc)
            except Exception:
                logger.exception("%s: %s failed", name, verb)
            finally:
                self._under_way.discard(verb)
                self._tell(name, verb, outcome)
            if verb in self._once_more:
                self._once_more.discard(verb)
                self._do(work, name, verb)

        if verb in self._under_way and verb != "upgrade":  # a second upgrade is refused
            self._once_more.add(verb)
            return
        self._under_way.add(verb)
        self._spawn(done())

    # --- what an operator asks ---------------------------------------------------------------------------------------
    async def reload(self) -> None:
        """Take over the configuration as it is now. Raises ConfigurationError, and nothing has changed."""
        service = self._serving()
        self._notifier.reloading()
        try:
            changed = await service.reload()
            logger.info("reloaded; changed: %s", ", ".join(sorted(changed)) or "nothing")
        finally:
            self._notifier.tell("READY=1")

    async def restart(self, worker: int | None = None) -> Sequence[int]:
        """See Controls."""
        self._serving()
        if self.restarter is None:
            raise NotSupported("there are no workers to restart", hint="tenantproxy upgrade replaces this process")
        return await self.restarter(worker)

    def drain(self) -> None:
        """See Controls."""
        self._serving()
        logger.info("draining, as the admin listener was asked")
        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, self._stop.set)

    async def upgrade(self) -> int:
        """See Controls. Its caller may leave: it goes on."""
        service = self._serving()
        if self._sockets is None:
            raise NotSupported("this process cannot be replaced", hint="start it with `tenantproxy serve`")
        if self._successor is not None:
            raise UpgradeFailed("an upgrade is under way", detail=f"to process {self._successor.pid}")
        if self._predecessor is not None:
            raise UpgradeFailed("the process before this one still drains", hint="try again when it has ended")
        self._successor = Successor(service, self._sockets, self._addresses, self._generation)
        work = self._upgrade(service, self._successor)
        self._upgrading = task = asyncio.get_running_loop().create_task(work, name="tenantproxy upgrade")
        task.add_done_callback(self._upgraded)
        await asyncio.wait([task])
        if task.cancelled():
            raise UpgradeFailed("the process was told to end during the upgrade")
        return task.result()

    def _upgraded(self, task: asyncio.Task[int]) -> None:
        self._upgrading = None
        if task.cancelled() or task.exception() is not None:
            self._successor = None

    async def _upgrade(self, service: Service, successor: Successor) -> int:
        logger.info("upgrade: starting a new process")
        try:
            await successor.start(await service.yield_budgets())
        except BaseException:
            service.restore_budgets()
            raise
        service.meet(successor.cancel)
        self._notifier.tell(f"MAINPID={successor.pid}")
        logger.info("process %d has taken over: draining", successor.pid)
        self._hurry.set()
        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, self._stop.set)
        return successor.pid

    def _serving(self) -> Service:
        if self._service is None or not self._is_ready:
            raise UpgradeFailed("the process is starting, or draining", hint="try again when it is ready")
        return self._service


async def serve_until_signalled(service: Service, ready: Ready) -> None:
    """Open `service`, call `ready`, serve until SIGTERM or SIGINT, drain. A second signal ends the process at once.

    SIGHUP reads the configuration again.
    """
    await Process().run(service, ready)
