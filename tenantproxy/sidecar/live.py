"""Who holds what of a tenant's, since when, and how is it ended? What the page asks besides its pictures.

`Live` is a process by itself or the supervisor of several; what they tell is plain data, which is put together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from heapq import nlargest
from time import time
from typing import Any, Final, Protocol

from tenantproxy.errors import TenantProxyError
from tenantproxy.model import TenantId, tenant_id
from tenantproxy.pools.pool import Pool
from tenantproxy.router import Router
from tenantproxy.sidecar.pg.colleagues import TenantVerb
from tenantproxy.sidecar.pg.console.view import ClientRow
from tenantproxy.sidecar.pg.port import PgPort
from tenantproxy.sidecar.pg.view import PortView
from tenantproxy.sidecar.statements import ActivityLook, NotSeen
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
    """Each call raises TenantNotFound for what cannot be a tenant identifier."""

    async def tenant(self, tenant: str) -> View:
        """Its pools, leases and clients, as they are now."""
        ...

    async def statements(self, tenant: str) -> View:
        """What runs on the connections that it holds, as their servers tell now; of those of which that is known."""
        ...

    async def evict(self, tenant: str) -> None:
        """Close its connections: idle ones now, lent ones when they come back. Raises TenantNotFound: none such."""
        ...

    async def end_client(self, client: int) -> bool:
        """End a client of the PostgreSQL port; False: it has no such client."""
        ...

    async def drain(self, tenant: str) -> None:
        """As `evict`, and let its clients of the port go, each when nothing of it is under way. They may come again."""
        ...

    async def stop(self, tenant: str, verb: TenantVerb) -> bool:
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
                                {"backend": _name_of(pool, conn), "seconds": round(seconds, 3)}
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
        pids: dict[str, list[int]] = {}
        before = self._held(name)
        for server, pid in before:
            pids.setdefault(server, []).append(pid)
        found: list[dict[str, Any]] = []
        unseen: list[dict[str, str]] = []
        for server, each in pids.items():
            try:
                seen = await self._look.seen(server, each)
            except NotSeen as exc:
                unseen.append({"server": server, "why": exc.detail or exc.message})
                continue
            now = self._held(name)
            # Of a backend that was lent again meanwhile it is not known whose the statement was.
            kept = (pid for pid in each if now.get((server, pid)) == before[server, pid])
            found += [{"backend": f"{server}/{pid}", **asdict(seen[pid])} for pid in kept if pid in seen]
        return {"tenant": name, "statements": found, "unseen": unseen}

    def _held(self, tenant: TenantId) -> dict[tuple[str, int], float]:
        """Server and process id of what it holds, each with how often the connection was lent before."""
        held = (
            (pool.key.server, conn.pid, pool.lent_at(conn))
            for pool in self._pools(tenant)
            for conn, _ in pool.held_by(tenant)
        )
        servers = self._router.settings.servers
        return {(server, pid): at for server, pid, at in held if pid and not servers[server].pooler}

    async def _clients(self, tenant: TenantId, slices: Slices) -> list[dict[str, Any]]:
        if (view := self._view) is None:
            return []
        found: list[dict[str, Any]] = []
        for row in view.clients_of(tenant):
            found.append(_client(row))
            await slices.pause()
        return _longest(found)

    async def evict(self, tenant: str) -> None:
        """See Live."""
        await self._router.expire_connections(tenant)

    async def end_client(self, client: int) -> bool:
        """See Live."""
        view = self._view
        return view is not None and view.end_client(client)

    async def drain(self, tenant: str) -> None:
        """See Live."""
        await self._router.expire_connections(tenant)
        if (view := self._view) is not None:
            view.drain_here(tenant_id(tenant))

    async def stop(self, tenant: str, verb: TenantVerb) -> bool:
        """See Live. Of all workers, where this is one of several."""
        name, view = tenant_id(tenant), self._view
        if view is None:
            raise NoPort("this process has no PostgreSQL port, where tenants are paused", hint="suspend the tenant")
        work = {"pause": view.pause, "resume": view.resume, "kill": view.kill}[verb]
        try:
            async with asyncio.timeout(PATIENCE):
                await work(name)
        except TimeoutError as exc:
            if (name in view.paused()) is (verb == "resume"):
                raise NotBegun("the tenant could not be looked up in time", hint="try again", retry_after=1.0) from exc
            return False
        return True

    @property
    def _view(self) -> PortView | None:
        return self._port.view if self._port is not None and self._port.has_listener else None


def _name_of(pool: Pool[Any], conn: Any) -> str:
    """By which a client and a statement are found that belong to it; empty: its process id is not known."""
    return f"{pool.key.server}/{conn.pid}" if conn.pid else ""


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
        "statements": [one for each in told for one in each["statements"]],
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
