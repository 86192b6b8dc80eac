"""How does a new process take over from an old one? It gets its sockets, says when it is ready, and the old one drains.

The old process starts the new one by its own command line. Until the new one is ready, nothing has happened: one that
ends, or takes too long, is told to the log, and the old one goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from tenantproxy.sidecar.generation import Generation, ended
from tenantproxy.sidecar.service import Service, UpgradeFailed
from tenantproxy.sidecar.sockets import Sockets, inherited
from tenantproxy.sidecar.workers.child import Child
from tenantproxy.sidecar.workers.link import Link, LinkLost

__all__ = ["Predecessor", "Successor"]

_LINK: Final = "_TENANTPROXY_LINK"  # these are none of TENANTPROXY_, which are configuration
_GIVEN: Final = "_TENANTPROXY_GIVEN"
_START_SECONDS: Final = 60.0
_NOT_INHERITED: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

Cancel = Callable[[int, bytes], Awaitable[bool]]


class Successor:
    """The old process's side. Started once; `is_ready` when the new process has taken over."""

    def __init__(
        self, service: Service, sockets: Sockets, addresses: Mapping[str, str], generation: Generation
    ) -> None:
        self._service = service
        self._sockets = sockets
        self._addresses = addresses
        self._generation = generation
        self._child: Child | None = None
        self._outcome: asyncio.Future[None] | None = None  # from start until it is known
        self.is_ready = False

    @property
    def pid(self) -> int:
        """Of the new process; 0 before it is started."""
        return 0 if self._child is None else self._child.pid

    async def start(self, budgets: Mapping[str, int]) -> None:
        """Returns when the new process is ready. Raises UpgradeFailed, and it has ended then.

        `budgets`: connections that it may have, by server. Cancelled, it is killed.
        """
        self._outcome = asyncio.get_running_loop().create_future()
        listeners = {
            name: {"listen": self._addresses[name], "fds": [sock.fileno() for sock in each]}
            for name, each in self._sockets.items()
        }
        # Not asked for: the new process goes on when this one is killed now.
        variables = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        watched = self._generation.watched
        variables[_GIVEN] = json.dumps({"listeners": listeners, "budgets": dict(budgets), "generation": watched})
        fds = [watched, *(sock.fileno() for each in self._sockets.values() for sock in each)]
        try:
            child = self._child = Child.start(
                [sys.executable, *sys.orig_argv[1:]], self._answer, fds=fds, variables=variables, variable=_LINK
            )
        except OSError as exc:
            raise UpgradeFailed("the new process could not be started", detail=str(exc)) from exc
        await child.open()
        ended = asyncio.ensure_future(child.wait())
        try:
            either: list[asyncio.Future[Any]] = [ended, self._outcome]
            await asyncio.wait(either, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not self._outcome.done():
                raise UpgradeFailed(
                    "the new process was not ready in time"
                    if not ended.done()
                    else "the new process ended before it was ready",
                    detail=f"after {_START_SECONDS:g} s" if not ended.done() else f"exit status {ended.result()}",
                    hint="its own log says why",
                )
            self._outcome.result()
            self.is_ready = True
        except BaseException:
            child.kill()
            await asyncio.wait([ended])
            raise
        finally:
            ended.cancel()

    async def _answer(self, verb: str, body: Any) -> Any:
        assert self._outcome is not None
        if verb == "ready" and not self._outcome.done():
            self._outcome.set_result(None)
        elif verb == "failed" and not self._outcome.done():
            failed = UpgradeFailed("the new process did not start", detail=str(body), hint="this one goes on as before")
            self._outcome.set_exception(failed)
        elif verb == "cancel":
            return await self._service.cancel(body[0], body[1])
        return None

    async def cancel(self, pid: int, secret: bytes) -> object:
        """Pass a cancel request on to the new process."""
        return None if self._child is None else await _cancel(self._child.link, pid, secret)

    async def close(self) -> None:
        """This process ends; the new one goes on."""
        if self._child is not None:
            self._child.process.returncode = 0 if self.is_ready else self._child.process.returncode  # not ours to reap
            await self._child.link.close()


class Predecessor:
    """The new process's side."""

    def __init__(self, fd: int) -> None:
        self._cancel: Cancel | None = None
        self._is_lost = asyncio.Event()
        self._generation: int | None = None  # its pipe; None: a release that has none
        self._link = Link(socket.socket(fileno=fd), self._answer, on_end=self._is_lost.set)
        self.sockets: dict[str, list[socket.socket]] = {}
        self._addresses: dict[str, str] = {}
        self.budgets: Mapping[str, int] = {}

    @classmethod
    async def of_environment(cls, variables: MutableMapping[str, str] = os.environ) -> Predecessor | None:
        """The process that started this one to take over, as the environment says. None: no other serves."""
        fd, given = variables.pop(_LINK, ""), variables.pop(_GIVEN, "")
        if not fd or not given:
            return None
        made = cls(int(fd))
        await made._link.open()
        told = json.loads(given)
        made.budgets = told["budgets"]
        if (watched := told.get("generation")) is not None:
            os.set_inheritable(watched, False)
            made._generation = watched
        for name, each in told["listeners"].items():
            made._addresses[name] = each["listen"]
            made.sockets[name] = [inherited(number) for number in each["fds"]]
        return made

    def take(self, wanted: Mapping[str, str]) -> dict[str, list[socket.socket]]:
        """Its sockets for the listeners that are `wanted` where they were; the others are closed in this process."""
        taken: dict[str, list[socket.socket]] = {}
        for name, sockets in self.sockets.items():
            if wanted.get(name) == self._addresses[name]:
                taken[name] = sockets
            else:
                for sock in sockets:
                    sock.close()
        return taken

    def serve_cancels(self, cancel: Cancel) -> None:
        """Carry out the cancel requests that still come to the old process."""
        self._cancel = cancel

    async def _answer(self, verb: str, body: Any) -> Any:
        if verb == "cancel" and self._cancel is not None:
            return await self._cancel(body[0], body[1])
        return None

    async def cancel(self, pid: int, secret: bytes) -> object:
        """Pass a cancel request on to the old process."""
        return await _cancel(self._link, pid, secret)

    async def gone(self) -> None:
        """Returns when the old process and its workers have ended: one that was killed leaves workers that drain."""
        await self._is_lost.wait()
        if self._generation is not None:
            watched, self._generation = self._generation, None
            await ended(watched)

    async def say(self, verb: str, body: Any = None) -> None:
        """Tell it `ready`, or `failed` with the reason. That it is gone does not matter."""
        try:
            await self._link.ask(verb, body, timeout=5.0)
        except LinkLost:
            pass

    async def close(self) -> None:
        """Talk no more."""
        await self._link.close()


async def _cancel(link: Link, pid: int, secret: bytes) -> object:
    try:
        return await link.ask("cancel", [pid, secret], timeout=10.0)
    except LinkLost:  # and its clients with it
        return None
