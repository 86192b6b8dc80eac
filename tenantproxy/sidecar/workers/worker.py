"""What runs in a worker? A sidecar without an admin listener, which answers its supervisor.

It ends when it is told to, or when the supervisor is gone: it drains first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

from tenantproxy.config import settled, share_of, unpacked
from tenantproxy.config.version import VERSION
from tenantproxy.errors import TenantProxyError
from tenantproxy.metrics.logging import LogObserver
from tenantproxy.model import TenantId
from tenantproxy.router import Router
from tenantproxy.sidecar.acted_on import Thing
from tenantproxy.sidecar.app import Sidecar, run
from tenantproxy.sidecar.free_memory import keep
from tenantproxy.sidecar.live import LiveRouter
from tenantproxy.sidecar.logs import configure_logging
from tenantproxy.sidecar.pg.colleagues import Everything, TenantVerb
from tenantproxy.sidecar.pg.view import PortView
from tenantproxy.sidecar.sockets import inherited
from tenantproxy.sidecar.traces import ProcessTraces
from tenantproxy.sidecar.workers.audit_relay import record
from tenantproxy.sidecar.workers.link import Link, LinkLost, converted
from tenantproxy.sidecar.workers.look import WorkerLook
from tenantproxy.sidecar.workers.merged import families_of
from tenantproxy.sidecar.workers.relay_desk import RelayDesk

__all__ = ["BOOT", "LINK_VARIABLE", "main"]

_MOST_STARVED = 200

LINK_VARIABLE = "_TENANTPROXY_WORKER"
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from tenantproxy.sidecar.workers.worker import main; main()"
)
"""What Python runs: with the supervisor's own path, whatever its folder is."""


def main() -> None:
    """Serve, as the supervisor says. Exit status 0 after draining, 1 when it could not start."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the supervisor hears them too, and decides
    fd = int(os.environ.pop(LINK_VARIABLE))
    if not run(_Worker(socket.socket(fileno=fd)).serve()):
        sys.exit(1)


class _Worker:
    """One worker. `_sidecar` is set once it is opened."""

    def __init__(self, sock: socket.socket) -> None:
        self._stop = asyncio.Event()
        self._link = Link(sock, self._answer, on_end=self._stop.set)
        self._sidecar: Sidecar | None = None
        self._relay: RelayDesk | None = None  # likewise
        self._live: LiveRouter | None = None  # from the first question on
        self._workers = 1
        self._source = ""
        self._commit: Callable[[], None] | None = None  # of a reload that is prepared
        self.number = 0

    async def serve(self) -> bool:
        """Until it is told to end, or the supervisor is gone. False: it did not start."""
        await self._link.open()
        hello = await self._link.ask("hello", {"pid": os.getpid(), "version": VERSION})
        configure_logging(level=hello["log_level"])
        self.number, self._workers, self._source = hello["number"], hello["workers"], hello["source"]
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop.set)
        try:
            sidecar = self._sidecar = self._made(hello)
            self._relay = RelayDesk(sidecar.router)
            if not await self._opens(sidecar):
                return True
            for tenant in hello["paused"]:
                await self._of_port("kill", tenant)  # it has no clients yet; new ones are refused
            fleet = sidecar.router.fleet
            await self._link.ask("ready", "" if fleet is None else fleet.process)
        except TenantProxyError as exc:
            await self._link.ask("failed", str(exc))
            return False
        keep()
        await self._stop.wait()
        sidecar.start_draining()
        await self._relay.close()
        await sidecar.close()
        with suppress(LinkLost):  # what it counted stays counted
            await self._link.ask("last", families_of(sidecar.series), timeout=1.0)
        await self._link.close()
        return True

    def _made(self, hello: Mapping[str, Any]) -> Sidecar:
        whole = settled(unpacked(hello["values"]), source=self._source)
        configure_logging(level=hello["log_level"], form=whole.log.format)
        traces = ProcessTraces.configured(whole)
        sidecar = Sidecar(
            Router(share_of(whole, self._workers), observer=LogObserver(), watch=traces.watch),
            seen=traces.seen,
            drain_timeout=hello["drain_timeout"],
            sockets={name: [inherited(fd) for fd in fds] for name, fds in hello["sockets"].items()},
            colleagues=self,
        )
        sidecar.whole = whole
        sidecar.resize_budgets(hello["budgets"])
        return sidecar

    async def _opens(self, sidecar: Sidecar) -> bool:
        """However long its main database is down; False: told to end meanwhile."""
        opening = asyncio.ensure_future(sidecar.open())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
            return False
        opening.result()
        return True

    # --- what the supervisor asks ------------------------------------------------------------------------------------
    async def _answer(self, verb: str, body: Any) -> Any:
        if verb == "ping":
            return None
        if verb == "drain":
            self._stop.set()
            return None
        sidecar = self._sidecar
        if sidecar is None:
            raise TenantProxyError("the worker has not started")
        live = self._live = self._live or LiveRouter(sidecar.router, sidecar.pg)
        seen: dict[str, Callable[[Any], Awaitable[object]]]
        seen = {"tenant": live.tenant, "evict": live.evict, "end_client": live.end_client, "drain_tenant": live.drain}
        seen["statements"] = live.statements
        seen["look"] = lambda body: self._look(sidecar, body)
        seen["stop"] = lambda body: live.stop(*body)
        if self._relay is not None:
            seen["admin"] = self._relay.answer
        if verb in seen:
            return await seen[verb](body)
        if verb == "audit":
            return record(sidecar.router.audit, body)
        return await self._of_sidecar(sidecar, verb, body)

    async def _of_sidecar(self, sidecar: Sidecar, verb: str, body: Any) -> Any:
        match verb:
            case "readiness":
                return dict(sidecar.readiness())
            case "resize":
                return sidecar.resize_budgets(body)
            case "metrics":
                return families_of(await sidecar.metrics())
            case "stats":
                return await sidecar.router.snapshot()
            case "cancel":
                return await sidecar.cancel(body[0], body[1])
            case "bury":
                return sidecar.router.bury(map(UUID, body))
            case "relieve" | "recall":
                return await sidecar.take_clients(verb == "recall")
            case "port" | "things" | "pause" | "resume" | "kill":
                return await self._of_port(verb, body)
            case "prepare":
                return self._prepare(sidecar, body)
            case "commit" | "abort":
                commit, self._commit = self._commit, None
                if verb == "commit" and commit is not None:
                    commit()
                return None
        raise TenantProxyError(f"a worker does not know {verb}")

    async def _look(self, sidecar: Sidecar, body: Mapping[str, Any]) -> WorkerLook:
        """What the page shows of it, and the events that the supervisor has not `heard` of."""
        look, recent = await sidecar.look(processes=body["asks"] == self.number), sidecar.recent
        events = recent.since(body["heard"].get(str(self.number), 0))
        return WorkerLook(look=look, events=events, last=recent.last, starved=recent.starved(_MOST_STARVED))

    async def _of_port(self, verb: str, body: Any) -> Any:
        """None also where it has none."""
        port = self._sidecar.pg if self._sidecar is not None else None
        if port is None or not port.has_listener:
            return None
        match verb:
            case "port":
                return port.view.snapshot()
            case "things":
                return port.view.things_of(TenantId(body))
            case "pause" | "resume" | "kill":
                return await self._command(port.view, verb, body)
        raise TenantProxyError(f"a port does not know {verb}")

    async def _command(self, view: PortView, verb: TenantVerb, tenant: str) -> object:
        work: dict[TenantVerb, Callable[[TenantId], Awaitable[object]]]
        work = {"pause": view.pause_here, "resume": view.resume_here, "kill": view.kill_here}
        return await work[verb](TenantId(tenant))

    def _prepare(self, sidecar: Sidecar, values: Mapping[str, Any]) -> None:
        whole = settled(unpacked(values), source=self._source)
        new = whole.servers.keys() - sidecar.whole.servers.keys()
        limits = {
            name: whole.servers[name].max_connections // self._workers for name in new
        }  # the supervisor's is next
        self._commit = sidecar.prepare(share_of(whole, self._workers), whole=whole, limits=limits)

    # --- Colleagues: what the port asks of the others ----------------------------------------------------------------
    async def cancel(self, pid: int, secret: bytes) -> object:
        """See `colleagues.Colleagues`."""
        return await self._link.ask("cancel", [pid, secret], timeout=10.0)

    async def everything(self) -> Everything:
        """See `colleagues.Colleagues`."""
        return converted(await self._link.ask("everything", timeout=10.0), Everything)

    async def command(self, verb: TenantVerb | Literal["things"], tenant: str) -> list[Thing]:
        """See `colleagues.Colleagues`."""
        found: list[Thing] = await self._link.ask("command", [verb, tenant])
        return found

    async def reload(self) -> Collection[str]:
        """See `colleagues.Colleagues`."""
        changed: Sequence[str] = await self._link.ask("reload")
        return changed
