"""What does a process know of its fleet? Snapshots."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FleetProcess", "FleetServerStats", "FleetStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetProcess:
    """What one process of the fleet has of one server, in connections, as main or the file of the host knows it.

    `state`: `live`, `silent` (not heard of for a ttl), `dead` (seen to have ended; what it had is reserved).
    `seen_seconds`: since its last report; None: not known.
    """

    server: str
    process: str
    state: str
    granted: int
    used: int
    wanted: float
    seen_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetServerStats:
    """This process's part of one server, in connections; `cap` is that of all processes.

    `wanted` is smoothed; `target` is what `granted` comes to. `processes` of the fleet are alive; `ghosts` are
    connections of silent ones, seen on the server.
    """

    server: str
    granted: int
    target: int
    wanted: float
    used: int
    cap: int
    processes: int
    ghosts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats:
    """What this process has by the newest answer of main, whose unix time is `last_renewal` (0: none yet)."""

    fleet: str
    process: str
    servers: tuple[FleetServerStats, ...]
    last_renewal: float
    calls: int
    failures: int
