"""Who holds what of a tenant's, since when, and how is it ended? What the page asks besides its pictures.

`Live` is a process by itself or the supervisor of several; what they tell is plain data, which is put together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from time import time
from typing import Any, Final, NamedTuple, Protocol

from tenantproxy.errors import TenantProxyError
from tenantproxy.model import TenantId, tenant_id
from tenantproxy.pools.pool import Pool
from tenantproxy.router import Router
from tenantproxy.sidecar.acted_on import Thing, connection_thing
from tenantproxy.sidecar.pg.colleagues import TenantVerb
from tenantproxy.sidecar.pg.console.view import ClientRow
from tenantproxy.sidecar.pg.port import PgPort
from tenantproxy.sidecar.pg.view import PortView
from tenantproxy.sidecar.statements import Activity, ActivityLook, NotSeen
from tenantproxy.slices import Slices

__all__ = ["MOST_CLIENTS", "PATIENCE", "Live", "LiveRouter", "NoPort", "joined_statements", "joined_views"]

MOST_CLIENTS: Final = 500
"""That are shown of one tenant: those that have waited or held for longest."""

PATIENCE: Final = 5.0
"""Seconds that who asks for a pause waits for the end of what runs."""

View = dict[str, Any]


class NoPort(TenantProxyError):
    """Tenants are paused at the PostgreSQL port, and there is no port."""

    http_status, sqlstate, code = 409, "55000", "no_port"


class NotBegun(TenantProxyError):
    """The registry, or another worker, did not answer in time: nothing was changed here."""

    http_status, sqlstate, code, retryable = 503, "57014", "not_begun", True


class Live(Protocol):
    """Each call raises TenantNotFound for what cannot be a tenant identifier.

    What changes something tells what exactly it acted upon, for the audit log.
    """

    async def tenant(self, tenant: str) -> View:
        """Its pools, leases and clients, as they are now."""
        ...

    async def statements(self, tenant: str) -> View:
        """The connections that it holds and what runs on them, as their servers tell now."""
        ...

    async def evict(self, tenant: str) -> list[Thing]:
        """Close its connections: idle ones now, lent ones when they come back. Raises TenantNotFound: none such."""
        ...

    async def end_client(self, client: int) -> tuple[str, Thing] | None:
        """End a client of the PostgreSQL port: its tenant, and who it was. None: it has no such client."""
        ...

    async def drain(self, tenant: str) -> list[Thing]:
        """As `evict`, and let its clients of the port go, each when nothing of it is under way. They may come again."""
        ...

    async def stop(self, tenant: str, verb: TenantVerb) -> tuple[bool, list[Thing]]:
        """What PAUSE, RESUME and KILL on the console do; whether nothing of the tenant runs at the port by then.

        A pause is waited for `PATIENCE` seconds; what runs longer goes on to its end, and nothing new begins. Raises
        NoPort, NotBegun, TenantNotFound.
        """
        ...


class LiveRouter:
    """See `Live`: of this process. `port` None: there are no clients to see."""

    def __init__(self, router: Router, port: PgPort | None = None) -> None:
        self._router = router
        self._port = port
        self._look = ActivityLook(lambda: router.settings)

    async def tenant(self, tenant: str) -> View:
        """See Live."""
        name, slices = tenant_id(tenant), Slices()
        pools: list[dict[str, Any]] = []
        for pool in self._pools(name):
            for each in pool.tenant_stats():
                if each.tenant == name:
                    pools.append(
                        {
                            "pool": pool.label, "server": pool.key.server, "database": pool.key.database,
                            "used": each.leased, "waiting": each.waiting, "limit": each.max_size,
                            "oldest": round(each.oldest_wait_seconds, 3),
                            "held": [
                                {"backend": f"{pool.key.server}/{conn.pid}", "seconds": round(seconds, 3)}
                                for conn, seconds in pool.held_by(name)
                            ],
                        }
                    )  # fmt: skip
                await slices.pause()
        view = self._view
        return {
            "tenant": name,
            "pools": pools,
            "clients": await self._clients(name, slices),
            "paused": view is not None and name in view.paused(),
        }

    def _pools(self, tenant: TenantId) -> Iterator[Pool[Any]]:
        """Those that may serve it."""
        for manager in tuple(self._router.family):
            for pool in tuple(manager):
                if pool.key.shared or pool.label == tenant:
                    yield pool

    async def statements(self, tenant: str) -> View:
        """See Live."""
        name = tenant_id(tenant)
        held: list[dict[str, Any]] = []
        unseen: list[dict[str, str]] = []
        settings = self._router.settings
        for server in dict.fromkeys(each.server for each in self._held(name)):
            before: dict[int, _Held] = {}

            def pids(server: str = server, before: dict[int, _Held] = before) -> Iterable[int]:
                before.update((each.pid, each) for each in self._held(name) if each.server == server and each.pid)
                return before

            seen: Mapping[int, Activity] = {}
            if not settings.servers[server].pooler:  # behind which process ids are its own
                try:
                    seen = await self._look.seen(server, pids)
                except NotSeen as exc:
                    unseen.append({"server": server, "why": exc.detail or exc.message})
            clients = self._holders(name)
            for each in self._held(name):
                if each.server == server:
                    # Of a shared backend that was lent again meanwhile it is not known whose the statement was.
                    is_known = each.pid in before and (not each.shared or before[each.pid].since == each.since)
                    held.append(_holding(each, clients.get(each.name), seen.get(each.pid) if is_known else None))
        return {"tenant": name, "held": held, "unseen": unseen}

    def _held(self, tenant: TenantId) -> list[_Held]:
        """What it holds now."""
        return [
            _Held(pool.key.server, conn.pid, pool.key.shared, pool.lent_at(conn), seconds)
            for pool in self._pools(tenant)
            for conn, seconds in pool.held_by(tenant)
        ]

    def _holders(self, tenant: TenantId) -> dict[str, ClientRow]:
        """Its clients that hold a backend, by the name of that."""
        view = self._view
        return {} if view is None else {row.backend: row for row in view.clients_of(tenant) if row.backend}

    async def _clients(self, tenant: TenantId, slices: Slices) -> list[dict[str, Any]]:
        if (view := self._view) is None:
            return []
        found: list[dict[str, Any]] = []
        for row in view.clients_of(tenant):
            found.append(_client(row))
            await slices.pause()
        return _longest(found)

    async def evict(self, tenant: str) -> list[Thing]:
        """See Live."""
        return [connection_thing(each) for each in await self._router.expire_connections(tenant)]

    async def end_client(self, client: int) -> tuple[str, Thing] | None:
        """See Live."""
        view = self._view
        return None if view is None else view.end_client(client)

    async def drain(self, tenant: str) -> list[Thing]:
        """See Live."""
        things = await self.evict(tenant)
        if (view := self._view) is not None:
            things += view.drain_here(tenant_id(tenant))
        return things

    async def stop(self, tenant: str, verb: TenantVerb) -> tuple[bool, list[Thing]]:
        """See Live. Of all workers, where this is one of several."""
        name, view = tenant_id(tenant), self._view
        if view is None:
            raise NoPort("this process has no PostgreSQL port, where tenants are paused", hint="suspend the tenant")
        things: list[Thing] = []
        try:
            async with asyncio.timeout(PATIENCE):
                things = await view.things(name)
                if verb == "kill":
                    things = await view.kill(name)
                else:
                    await (view.pause if verb == "pause" else view.resume)(name)
        except TimeoutError as exc:
            if (name in view.paused()) is (verb == "resume"):
                raise NotBegun("the tenant could not be looked up in time", hint="try again", retry_after=1.0) from exc
            return False, things
        return True, things

    @property
    def _view(self) -> PortView | None:
        return self._port.view if self._port is not None and self._port.has_listener else None


class _Held(NamedTuple):
    """A connection that is lent, `since` a moment of the pool's clock, for so many `seconds`."""

    server: str
    pid: int
    shared: bool
    since: float
    seconds: float

    @property
    def name(self) -> str:
        """By which a client and a statement are found that belong to it."""
        return f"{self.server}/{self.pid}"


def _holding(held: _Held, client: ClientRow | None, activity: Activity | None) -> dict[str, Any]:
    """`state` None: what it does is not known."""
    return {
        "backend": held.name,
        "held": round(held.seconds, 3),
        "client": None if client is None else client.id,
        "user": "" if client is None else client.user,
        "application_name": client.application_name
        if client is not None
        else activity.application_name
        if activity
        else "",
        "state": None if activity is None else activity.state,
        "seconds": 0.0 if activity is None else activity.seconds,
        "statement": None if activity is None else activity.statement,
    }


def _client(row: ClientRow) -> dict[str, Any]:
    """Nothing of what it asked, which is not kept: see `statements`."""
    since = row.waiting_seconds if row.state == "waiting" else time() - (row.requested_at or row.connected_at)
    return {
        "id": row.id, "user": row.user, "state": row.state, "seconds": round(max(0.0, since), 3),
        "application_name": row.application_name, "address": row.address, "port": row.port,
        "backend": row.backend, "connected_at": round(row.connected_at), "pool_mode": row.pool_mode,
        "pinned": row.is_pinned, "worker": row.worker,
    }  # fmt: skip


def _longest(clients: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that hold or wait first, of each state those that do for longest."""
    return nlargest(MOST_CLIENTS, clients, key=lambda each: (each["state"] != "idle", each["seconds"]))


def joined_statements(told: Sequence[View]) -> View:
    """As `joined_views`, of statements."""
    return {
        "tenant": told[0]["tenant"],
        "held": [one for each in told for one in each["held"]],
        "unseen": list({one["server"]: one for each in told for one in each["unseen"]}.values()),
    }


def joined_views(views: Sequence[View]) -> View:
    """One of what several processes have told."""
    return {
        "tenant": views[0]["tenant"],
        "pools": [pool for view in views for pool in view["pools"]],
        "clients": _longest([client for view in views for client in view["clients"]]),
        "paused": any(view["paused"] for view in views),
    }
