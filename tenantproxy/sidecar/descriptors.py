"""How many connections may clients have before the process runs out of file descriptors?

One that is out of them can neither reach a server for those it has let in, nor answer an operator; and the loop would
close its listeners for good where it has not even one to accept with. So some are kept from clients.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Final

from tenantproxy.config import Server

if sys.platform != "win32":
    import resource

__all__ = ["ceiling", "is_scarce", "raise_limit"]

_OF_OURS: Final = 64  # the loop's own, listeners, logs, operators, files that are read


def raise_limit() -> None:
    """Let the process have as many as it may."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # macOS takes no more than OPEN_MAX, whatever it says


def ceiling(servers: Iterable[Server]) -> int | None:
    """The number from which on a descriptor is none for clients: all connections to servers fit in above it.

    At most half of what there is is kept from clients. None: there is no limit.
    """
    if sys.platform == "win32":
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    kept = _OF_OURS + sum(server.max_connections for server in servers)
    return max(limit - kept, limit // 2)


def is_scarce(transport: asyncio.BaseTransport, limit: int | None) -> bool:
    """Whether a connection that was accepted is one too many: systems give away the lowest number that is free."""
    if limit is None:
        return False
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.fileno() >= limit
