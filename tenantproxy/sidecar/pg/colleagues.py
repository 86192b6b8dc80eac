"""What does the port of one worker ask of the others? Snapshots, commands of the console, cancel requests. Data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.pools.base import Stats
from tenantproxy.sidecar.acted_on import Thing
from tenantproxy.sidecar.pg.console.view import ClientRow, Counts, ServerRow, WorkerRow

__all__ = ["Colleagues", "Everything", "PortSnapshot", "TenantVerb"]

TenantVerb = Literal["pause", "resume", "kill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSnapshot:
    """The port of one worker, as its console sees it."""

    stats: Stats
    clients: Sequence[ClientRow]
    servers: Sequence[ServerRow]
    counts: Mapping[str, Counts]
    limits: Sequence[LimitUsage]
    unauthenticated: int
    paused: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """The ports of all workers that answered, and all workers that there are."""

    ports: Sequence[PortSnapshot]
    workers: Sequence[WorkerRow]


class Colleagues(Protocol):
    """All workers, this one included. Each call raises LinkLost when the supervisor is gone."""

    @property
    def number(self) -> int:
        """This worker's."""
        ...

    async def cancel(self, pid: int, secret: bytes) -> object:
        """Pass a cancel request on; returns when it was carried out, or no worker has the client."""
        ...

    async def everything(self) -> Everything:
        """Ask all of them."""
        ...

    async def command(self, verb: TenantVerb | Literal["things"], tenant: str) -> list[Thing]:
        """Let each of them do it; returns when all have, with whom it concerned where they say so.

        `things`: say whom it would concern. Raises the first error of one, when all have tried.
        """
        ...

    async def reload(self) -> Collection[str]:
        """Let all of them, or none, read the configuration again; returns the keys that changed."""
        ...
