"""Who holds what of a tenant's, since when, and how is it ended? What the page asks besides its pictures.

`Live` is a process by itself or the supervisor of several; what they tell is plain data, which is put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from time import time
from typing import Any, Final, Protocol

from tenantproxy.model import TenantId, tenant_id
from tenantproxy.router import Router
from tenantproxy.sidecar.pg.console.view import ClientRow
from tenantproxy.sidecar.pg.port import PgPort
from tenantproxy.slices import Slices

__all__ = ["MOST_CLIENTS", "Live", "LiveRouter", "joined_views"]

MOST_CLIENTS: Final = 500
"""That are shown of one tenant: those that have waited or held for longest."""

View = dict[str, Any]


class Live(Protocol):
    """Each call raises TenantNotFound for what cannot be a tenant identifier."""

    async def tenant(self, tenant: str) -> View:
        """Its pools, leases and clients, as they are now."""
        ...

    async def evict(self, tenant: str) -> None:
        """Close its connections: idle ones now, lent ones when they come back. Raises TenantNotFound: none such."""
        ...

    async def end_client(self, client: int) -> bool:
        """End a client of the PostgreSQL port; False: it has no such client."""
        ...


class LiveRouter:
    """See `Live`: of this process. `port` None: there are no clients to see."""

    def __init__(self, router: Router, port: PgPort | None = None) -> None:
        self._router = router
        self._port = port

    async def tenant(self, tenant: str) -> View:
        """See Live."""
        name, slices = tenant_id(tenant), Slices()
        pools: list[dict[str, Any]] = []
        for manager in tuple(self._router.family):
            for pool in tuple(manager):
                if not pool.key.shared and pool.label != name:
                    continue
                for each in pool.tenant_stats():
                    if each.tenant == name:
                        pools.append(
                            {
                                "pool": pool.label, "server": pool.key.server, "database": pool.key.database,
                                "used": each.leased, "waiting": each.waiting, "limit": each.max_size,
                                "oldest": round(each.oldest_wait_seconds, 3),
                                "held": [round(seconds, 3) for seconds in pool.held_by(name)],
                            }
                        )  # fmt: skip
                    await slices.pause()
        return {"tenant": name, "pools": pools, "clients": await self._clients(name, slices)}

    async def _clients(self, tenant: TenantId, slices: Slices) -> list[dict[str, Any]]:
        if self._port is None or not self._port.has_listener:
            return []
        found: list[dict[str, Any]] = []
        for row in self._port.view.clients_of(tenant):
            found.append(_client(row))
            await slices.pause()
        return _longest(found)

    async def evict(self, tenant: str) -> None:
        """See Live."""
        await self._router.expire_connections(tenant)

    async def end_client(self, client: int) -> bool:
        """See Live."""
        return self._port is not None and self._port.has_listener and self._port.view.end_client(client)


def _client(row: ClientRow) -> dict[str, Any]:
    """Nothing of what it asked: a statement may hold anything."""
    since = row.waiting_seconds if row.state == "waiting" else time() - (row.requested_at or row.connected_at)
    return {
        "id": row.id, "user": row.user, "state": row.state, "seconds": round(max(0.0, since), 3),
        "application_name": row.application_name, "address": row.address, "port": row.port,
        "connected_at": round(row.connected_at), "pool_mode": row.pool_mode, "pinned": row.is_pinned,
        "worker": row.worker,
    }  # fmt: skip


def _longest(clients: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that hold or wait first, of each state those that do for longest."""
    return nlargest(MOST_CLIENTS, clients, key=lambda each: (each["state"] != "idle", each["seconds"]))


def joined_views(views: Sequence[View]) -> View:
    """One of what several processes have told."""
    return {
        "tenant": views[0]["tenant"],
        "pools": [pool for view in views for pool in view["pools"]],
        "clients": _longest([client for view in views for client in view["clients"]]),
    }
