"""What does a process run: one sidecar, or a supervisor of several? What both have in common. Protocols and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from tenantproxy.config.shares import LEAST
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import Event

__all__ = ["Controls", "Peer", "ReloadRefused", "Service", "UpgradeFailed", "WorkerNotFound", "check_free"]

_PARTS: Final = 2  # an upgrade has the old and the new process at once

Peer = Callable[[int, bytes], Awaitable[object]]
"""Passes a cancel request, by pid and secret, to another process."""


class UpgradeFailed(TenantProxyError):
    """No new process took over; the old one serves as before."""

    http_status, sqlstate, code = 409, "55000", "upgrade_failed"


class ReloadRefused(TenantProxyError):
    """The configuration cannot be taken over; nothing has changed."""

    http_status, sqlstate, code = 409, "F0000", "reload_refused"


class WorkerNotFound(TenantProxyError):
    """No worker has this number, or it is leaving already."""

    http_status, sqlstate, code = 404, "42704", "worker_not_found"


class Controls(Protocol):
    """What an operator can ask of a process, besides reloading."""

    async def upgrade(self) -> int:
        """Start a new process on the same sockets, and drain this one; its pid. Raises UpgradeFailed."""
        ...

    async def restart(self, worker: int | None = None) -> Sequence[int]:
        """Start each worker again, one after the other, or that of this number alone; the numbers of the new ones.

        Raises NotSupported where there is only this process, WorkerNotFound.
        """
        ...

    def drain(self) -> None:
        """End as at SIGTERM, a moment later. Raises UpgradeFailed while it is starting, or draining already."""
        ...


class Service(Protocol):
    """What serves on the sockets of a process."""

    async def open(self, *, is_successor: bool = False) -> None:
        """Serve; returns when it is ready. `is_successor`: another process serves until then."""
        ...

    def start_draining(self) -> None:
        """Be not ready from now on, and serve as before."""
        ...

    async def close(self) -> None:
        """Accept no more, let what runs end, and stop. Safe to call again."""
        ...

    async def reload(self) -> Collection[str]:
        """Take over the configuration as it is now, all or nothing; the keys that changed.

        Raises ConfigurationError.
        """
        ...

    async def yield_budgets(self) -> Mapping[str, int]:
        """Keep to half of each server's budget; what is free for a successor then. Raises UpgradeFailed."""
        ...

    def restore_budgets(self) -> None:
        """No other process has a part of the budgets any more."""
        ...

    def resize_budgets(self, limits: Mapping[str, int]) -> object:
        """Keep to `limits` connections, by server."""
        ...

    async def cancel(self, pid: int, secret: bytes) -> bool:
        """Carry out a cancel request for a client of this process; False: it has no such client."""
        ...

    def tell(self, event: Event) -> None:
        """Let its observers hear of `event`, and the audit log."""
        ...

    def meet(self, peer: Peer | None) -> None:
        """`peer` is the process before or after this one, while both serve."""
        ...


def check_free(free: Mapping[str, int], budgets: Mapping[str, int]) -> None:
    """Raises UpgradeFailed where what is `free` of a budget is too little to start with."""
    for name, count in free.items():
        if count < LEAST:
            raise UpgradeFailed(
                "the connections of a server are in use, and none is left for the new process",
                detail=f"servers.{name}.max_connections = {budgets[name]}, free {max(0, count)}, needed {LEAST}",
                hint=f"try again when fewer are in use; an upgrade needs a budget of {_PARTS * LEAST} at least",
            )
