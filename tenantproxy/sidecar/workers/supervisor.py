"""Who speaks for all workers? The supervisor: to its signals, the admin listener, the console and an upgrade.

It serves no tenant itself. State: the configuration that all workers have, and the tenants that the console paused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry

from tenantproxy.config import Settings, check_budgets, listen_address, packed, settled
from tenantproxy.config.changes import changed_keys, changed_secrets, marks, refuse, told
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import Event, Observers
from tenantproxy.metrics.exposition import registry_of
from tenantproxy.metrics.listeners import HttpRequests, ListenerStats, ProcessCollector, ProcessStats
from tenantproxy.metrics.logging import LogObserver
from tenantproxy.pools.base import Stats
from tenantproxy.sidecar.acted_on import Thing
from tenantproxy.sidecar.admin import (
    ADMIN_CLIENTS,
    MOST_READERS,
    MOST_UNKNOWN,
    Readiness,
    admin_app,
    pools_json,
    server_json,
)
from tenantproxy.sidecar.admin_gate import admin_gate
from tenantproxy.sidecar.controls import control_routes
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.live_routes import live_routes
from tenantproxy.sidecar.page.feed import PageFeed
from tenantproxy.sidecar.page.routes import page_routes
from tenantproxy.sidecar.page.rows import Look
from tenantproxy.sidecar.pg.colleagues import Everything, PortSnapshot
from tenantproxy.sidecar.pg.console.view import WorkerRow
from tenantproxy.sidecar.pg.keys import worker_of
from tenantproxy.sidecar.service import Controls, Peer, UpgradeFailed, check_free
from tenantproxy.sidecar.sockets import Sockets, duplicates
from tenantproxy.sidecar.tls import listener_tls
from tenantproxy.sidecar.workers.audit_relay import AuditRelay
from tenantproxy.sidecar.workers.link import LinkLost, converted
from tenantproxy.sidecar.workers.live import LiveWorkers
from tenantproxy.sidecar.workers.look import GatheredEvents, WorkerLook, joined_looks, without_pools
from tenantproxy.sidecar.workers.merged import Merged, counted, families_of, merged_readiness, merged_stats
from tenantproxy.sidecar.workers.metrics import WorkerCollector
from tenantproxy.sidecar.workers.named import NamedCounters
from tenantproxy.sidecar.workers.place import WorkerPlace
from tenantproxy.sidecar.workers.relayed import relayed_routes
from tenantproxy.sidecar.workers.staff import SERVED, Staff
from tenantproxy.sidecar.workers.state import WorkerEvent, WorkerState

__all__ = ["Supervisor", "WorkerPlan", "run_plain"]

_CANCEL_SECONDS: Final = 5.0
_RELOAD_SECONDS: Final = 30.0
_COMMAND_SECONDS: Final = 10.0
_METRICS_SECONDS: Final = 5.0
_AUDIT_SECONDS: Final = 5.0
_LAST_SECONDS: Final = 2.0  # for the audit log, when it ends

T = TypeVar("T")
logger = logging.getLogger("tenantproxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What a supervisor runs. `gather` reads the configuration again, from `source`."""

    workers: int
    gather: Callable[[], Mapping[str, Any]]
    source: str
    drain_timeout: float = 30.0
    log_level: str = "INFO"


class Supervisor:
    """See `service.Service`. `values`: what `plan.gather` found, of which `settings` were made.

    `inherited`: descriptors that workers hold for as long as they live.
    """

    def __init__(
        self,
        settings: Settings,
        values: Mapping[str, Any],
        *,
        plan: WorkerPlan,
        sockets: Sockets,
        controls: Controls | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        self._settings = settings
        self._values = values
        self._plan = plan
        self._sockets = sockets
        self._paused: set[str] = set()
        self._round = 0  # counts the reloads
        self._past: list[Any] = []  # what workers counted that are gone
        self._named = NamedCounters(settings.metrics.max_tenants)
        self._dead: set[str] = set()  # ids in the fleet of workers that are gone, until others have heard of them
        self._peer: Peer | None = None
        self._draining = False
        self._has_part = False  # another process has a part of the budgets
        self._marks = marks(settings)
        self._changing = asyncio.Lock()  # held by a reload, and by a restart
        self._preparing = asyncio.Lock()  # by a reload alone: a worker that gets ready meanwhile waits for its end
        self._requests = HttpRequests()
        self._staff = Staff(
            sockets,
            self._whole(),
            answer=self._answer,
            bury=self._bury,
            drain_timeout=plan.drain_timeout,
            inherited=inherited,
        )
        self._audit = AuditRelay(self._record, self._staff.spawn)
        self._events = GatheredEvents()
        self._looks: dict[int, Look] = {}  # of each worker, while someone looks
        self._past_look: Look | None = None
        self._observer = Observers(LogObserver(), self._audit, self._events)
        self._page = PageFeed(self._look, self._events)
        self._admin = self._new_admin(controls)

    def _new_admin(self, controls: Controls | None) -> HttpListener | None:
        settings = self._settings.admin
        if not settings.listen:
            return None
        app = admin_app(
            self._requests,
            readiness=self.readiness,
            metrics=self._metrics,
            pools=self._pools,
            servers=self._servers,
            gate=admin_gate(lambda: self._settings.admin, self._observer),
            routes=[
                *control_routes(lambda: self._settings.admin, self.reload, controls, self.workers),
                *live_routes(LiveWorkers(self._staff)),
                *relayed_routes(self._staff),
                *page_routes(self._page),
            ],
        )
        app.on_shutdown.append(lambda _: self._page.close())
        host, port = listen_address(settings.listen)
        return HttpListener(
            app,
            protocol="admin",
            host=host,
            port=port,
            max_clients=ADMIN_CLIENTS,
            max_unknown=MOST_UNKNOWN,
            max_readers=MOST_READERS,
            drain_timeout=self._plan.drain_timeout,
            sockets=duplicates({"admin": self._sockets.get("admin", ())})["admin"],
            tls=listener_tls(settings, "admin"),
        )

    # --- where -------------------------------------------------------------------------------------------------------
    @property
    def drain_delay(self) -> float:
        """Seconds for which it is to be not ready before it stops listening."""
        return self._settings.http.drain_delay

    @property
    def public_url(self) -> str | None:
        """Where the public listener is; None when the configuration has none."""
        return self._where("http", "https://" if self._settings.http.ssl_cert_file else "http://")

    @property
    def admin_url(self) -> str | None:
        """Where the admin listener is."""
        return self._where("admin", "https://" if self._settings.admin.ssl_cert_file else "http://")

    @property
    def pg_address(self) -> str | None:
        """Host and port of the PostgreSQL port."""
        return self._where("pg", "")

    def _where(self, name: str, scheme: str) -> str | None:
        if not self._sockets.get(name):
            return None
        host, port = self._sockets[name][0].getsockname()[:2]
        return f"{scheme}[{host}]:{port}" if ":" in host else f"{scheme}{host}:{port}"

    # --- life --------------------------------------------------------------------------------------------------------
    async def open(self, *, is_successor: bool = False) -> None:
        """See Service. Raises UpgradeFailed, and TenantProxyError with the reason when a worker does not start."""
        try:
            if self._admin is not None and not is_successor:
                await self._admin.open()
            if is_successor:
                total = self._staff.allotment.total
                check_free({name: limit // self._plan.workers for name, limit in total.items()}, self._whole())
            await self._staff.open(self._plan.workers)
            if self._admin is not None and is_successor:
                await self._admin.open()
        except BaseException:
            await self.close()
            raise

    def start_draining(self) -> None:
        """See Service."""
        self._draining = True

    async def close(self) -> None:
        """See Service."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._audit.flush()
        await self._staff.close()
        if self._admin is not None:
            await self._admin.close()

    async def restart(self, worker: int | None = None) -> list[int]:
        """Start each worker again, or one of them; the numbers of the new ones. Raises: see `Staff.restart`."""
        async with self._changing:
            return await self._staff.restart(worker)

    def workers(self) -> list[WorkerRow]:
        """Those that there are."""
        return [place.row() for place in self._staff.places]

    def _bury(self, place: WorkerPlace) -> None:
        """What it counted stays counted."""
        self._events.gone(place.number)
        if (look := self._looks.pop(place.number, None)) is not None:
            self._past_look = without_pools(look, self._past_look)
        rest = self._named.told(place, place.told)
        self._named.gone(place)
        self._past = families_of(registry_of(Merged([self._past, counted(rest)])))
        place.told = ()
        if place.member:
            self._dead.add(place.member)
            self._staff.spawn(self._tell_dead())
        place.member = ""

    async def _record(self, told: Mapping[str, Any]) -> object:
        up = self._staff.any_of(WorkerState.READY, WorkerState.LEAVING, WorkerState.DRAINING)
        return await up.ask("audit", told, timeout=_AUDIT_SECONDS)

    async def _tell_dead(self) -> None:
        """That a worker has ended only this process knows; what it had in a fleet is free for others the sooner."""
        dead = frozenset(self._dead)
        if dead and await self._staff.answers("bury", sorted(dead)):
            self._dead -= dead

    # --- what workers ask --------------------------------------------------------------------------------------------
    async def _answer(self, place: WorkerPlace, verb: str, body: Any) -> Any:
        match verb:
            case "hello":
                return self._hello(place, body)
            case "ready":
                return await self._ready(place, str(body or ""))
            case "failed":
                place.failure = str(body)
            case "last":
                place.told = body
            case "cancel":
                return await self._cancel(*body, asker=place) or await self._cancel_at_peer(*body)
            case "everything":
                ports = [converted(port, PortSnapshot) for _, port in await self._staff.answers("port") if port]
                return Everything(ports=ports, workers=self.workers())
            case "command":
                return await self._command(*body)
            case "reload":
                return list(await self.reload())
            case _:
                raise TenantProxyError(f"a supervisor does not know {verb}")
        return None

    def _hello(self, place: WorkerPlace, body: Mapping[str, Any]) -> dict[str, Any]:
        place.version = body["version"]
        place.round = self._round
        place.paused = frozenset(self._paused)
        return {
            "number": place.number,
            "workers": self._plan.workers,
            "values": packed(self._values),
            "source": self._plan.source,
            "budgets": place.granted,
            "paused": sorted(place.paused),
            "drain_timeout": self._plan.drain_timeout,
            "log_level": self._plan.log_level,
            "sockets": {name: [sock.fileno() for sock in self._sockets.get(name, ())] for name in SERVED},
        }

    async def _ready(self, place: WorkerPlace, member: str) -> None:
        """What has changed since it said hello is told first: from then on it is asked as the others are."""
        async with self._preparing:
            if place.round != self._round:
                await place.ask("prepare", packed(self._values), timeout=_RELOAD_SECONDS)
                await place.ask("commit", timeout=_RELOAD_SECONDS)
                place.round = self._round
            while changed := self._paused ^ place.paused:
                tenant = changed.pop()
                await place.ask("kill" if tenant in self._paused else "resume", tenant, timeout=_COMMAND_SECONDS)
                place.paused ^= {tenant}
            place.member = member
            if place.state is WorkerState.STARTING:
                place.happened(WorkerEvent.OPENED)
                logger.info("worker %d is ready: process %d", place.number, place.row().pid)
                self._staff.spawn(self._tell_dead())
                self._staff.spawn(self._audit.flush())

    async def _cancel(self, pid: int, secret: bytes, *, asker: WorkerPlace | None = None) -> bool:
        number = worker_of(pid)
        for place in list(self._staff.places):
            if place.is_up and place is not asker and number in (None, place.number):
                try:
                    if await place.ask("cancel", [pid, secret], timeout=_CANCEL_SECONDS):
                        return True
                except LinkLost:
                    continue
        return False

    async def _cancel_at_peer(self, pid: int, secret: bytes) -> bool:
        return self._peer is not None and bool(await self._peer(pid, secret))

    async def _command(self, verb: str, tenant: str) -> list[Thing]:
        """Whom it concerned, as far as they say so."""
        if verb == "resume":
            self._paused.discard(tenant)
        elif verb != "things":
            self._paused.add(tenant)
        places = [place for place in self._staff.places if place.is_up]
        answers = await asyncio.gather(*(place.ask(verb, tenant) for place in places), return_exceptions=True)
        if errors := _errors(answers):
            raise errors[0]
        return [thing for each in answers if isinstance(each, list) for thing in each]

    # --- reload ------------------------------------------------------------------------------------------------------
    async def reload(self) -> Collection[str]:
        """See Service. All workers take it over, or none."""
        async with self._changing, self._preparing:
            if self._has_part:
                raise UpgradeFailed("an upgrade is under way", hint="try again when the process before it has ended")
            values = await asyncio.to_thread(self._plan.gather)
            new = await asyncio.to_thread(settled, values, source=self._plan.source)
            changed = changed_keys(self._settings, new)
            refuse(changed)
            check_budgets(new, self._plan.workers)
            found = await asyncio.to_thread(marks, new)
            tls = await asyncio.to_thread(listener_tls, new.admin, "admin")
            prepared = await self._staff.ask_all("prepare", packed(values), timeout=_RELOAD_SECONDS)
            if errors := _errors(answer for _, answer in prepared):
                await self._staff.ask_all("abort")
                raise errors[0]
            changed = sorted({*changed, *changed_secrets(self._marks, found)})
            self._values, self._settings, self._marks = values, new, found
            self._round += 1
            if self._admin is not None:
                self._admin.tls = tls
            self._staff.allotment.total = self._whole()
            for place, answer in prepared:
                if not isinstance(answer, BaseException):
                    await self._commit(place)
                elif place.state is WorkerState.READY and place.child is not None:  # it hangs, with the former one
                    place.child.kill()
            await self._staff.allotment.level()
            return told(changed)

    async def _commit(self, place: WorkerPlace) -> None:
        try:
            await place.ask("commit", timeout=_RELOAD_SECONDS)
            place.round = self._round
        except TenantProxyError as exc:
            logger.error("worker %d did not take over the configuration, and is started again: %s", place.number, exc)
            if place.child is not None:
                place.child.kill()

    # --- an upgrade --------------------------------------------------------------------------------------------------
    def _whole(self) -> dict[str, int]:
        return {name: server.max_connections for name, server in self._settings.servers.items()}

    async def yield_budgets(self) -> Mapping[str, int]:
        """See Service."""
        async with self._preparing:  # a reload under way would undo it
            self._has_part = True
        whole = self._whole()
        free = await self._staff.allotment.yield_half(whole)
        try:
            check_free(free, whole)
        except UpgradeFailed:
            self.restore_budgets()
            raise
        return free

    def restore_budgets(self) -> None:
        """See Service."""
        self._has_part = False
        self._staff.allotment.total = self._whole()
        self._staff.spawn(self._staff.allotment.level())

    def resize_budgets(self, limits: Mapping[str, int]) -> object:
        """See Service. Before it is opened."""
        self._has_part = True
        total = {name: min(limit, limits.get(name, limit)) for name, limit in self._whole().items()}
        self._staff.allotment.total = total
        return total

    async def cancel(self, pid: int, secret: bytes) -> bool:
        """See Service."""
        return await self._cancel(pid, secret)

    def tell(self, event: Event) -> None:
        """See Service."""
        self._observer(event)

    def meet(self, peer: Peer | None) -> None:
        """See Service."""
        self._peer = peer

    # --- what the admin listener tells -------------------------------------------------------------------------------
    async def readiness(self) -> Readiness:
        """What holds for the service, by what holds for its workers."""
        every = await self._staff.first("readiness", lambda told: all(told.values()))
        found = merged_readiness(every) or {"a worker ready": False}
        return {**found, "not draining": not self._draining}

    async def _metrics(self) -> CollectorRegistry:
        places = self._staff.places
        await asyncio.gather(*(_listen(place) for place in places if place.is_up))
        own = registry_of(
            ProcessCollector(self._process, self._requests),
            WorkerCollector(lambda: [place.state for place in places], lambda: self._staff.crashes),
        )
        told = [self._named.told(place, place.told) for place in places]
        return registry_of(Merged([self._past, *told, self._named.families(), families_of(own)]))

    def _process(self) -> ProcessStats:
        listeners: list[ListenerStats] = [] if self._admin is None else [self._admin.stats()]
        return ProcessStats(listeners=listeners, draining=self._draining, lag_seconds=0.0)

    async def _stats(self) -> Stats:
        every = [converted(answer, Stats) for _, answer in await self._staff.answers("stats")]
        if not every:
            raise LinkLost("no worker answers", retry_after=1.0)
        return merged_stats(every)

    async def _look(self) -> Look:
        """The sums of what the workers have; one of them asks for the processes of the fleet."""
        first = next((place.number for place in self._staff.places if place.state is WorkerState.READY), 0)
        heard = {str(number): last for number, last in self._events.heard.items()}
        answers = await self._staff.answers("look", {"heard": heard, "asks": first})
        told = {place.number: converted(answer, WorkerLook) for place, answer in answers if place in self._staff.places}
        if not told:
            raise LinkLost("no worker answers", retry_after=1.0)
        self._events.hear(told)
        self._looks |= {number: each.look for number, each in told.items()}
        joined = joined_looks([each.look for each in told.values()], self._past_look, self._paused)
        return replace(joined, workers=self.workers())

    async def _pools(self) -> bytes:
        return await pools_json(await self._stats())

    async def _servers(self) -> list[dict[str, Any]]:
        return [server_json(server) for server in (await self._stats()).servers]


async def _listen(place: WorkerPlace) -> None:
    """Hear its metrics; what was heard last stays where it does not answer."""
    with suppress(TenantProxyError):
        place.told = await place.ask("metrics", timeout=_METRICS_SECONDS)


def _errors(answers: Any) -> list[BaseException]:
    """What was wrong, other than that a worker is gone."""
    return [each for each in answers if isinstance(each, BaseException) and not isinstance(each, LinkLost)]


def run_plain(main: Coroutine[Any, Any, T]) -> T:
    """Run the supervisor, in asyncio's own loop."""
    return asyncio.run(main)
