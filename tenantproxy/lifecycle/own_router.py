"""How does an operator's command get tenants' own sessions? From a router of its own, with all its checks.

It is not in the fleet, and holds few connections, which come on top of those of the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenantproxy.config import FleetSettings, Settings
from tenantproxy.registry import MemoryRegistry
from tenantproxy.router import Router

__all__ = ["own_router"]


def own_router(settings: Settings, known: MemoryRegistry, *, most: int, **changes: Any) -> Router:
    """A router that knows the tenants in `known` alone, with `most` connections to each server, not opened.

    `changes`: of the section of each server.
    """
    servers = {
        name: server.model_copy(update={"max_connections": min(server.max_connections, most), **changes})
        for name, server in settings.servers.items()
    }
    pools = settings.pools.model_copy(update={"idle_timeout": 1.0})
    alone: Mapping[str, Any] = {"servers": servers, "fleet": FleetSettings(enabled=False), "pools": pools}
    return Router(settings.model_copy(update=alone), registry=known)
