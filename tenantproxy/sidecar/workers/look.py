"""What does the operator page show of several workers? Their sums, and what happened in each of them.

State: how much of each worker's events was heard, and what those counted that have ended since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tenantproxy.fleet.stats import FleetServerStats, FleetStats
from tenantproxy.sidecar.page.recent import RecentEvents
from tenantproxy.sidecar.page.rows import Look
from tenantproxy.sidecar.workers.merged import merged_stats

__all__ = ["GatheredEvents", "WorkerLook", "joined_looks", "without_pools"]

_MOST_STARVED: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLook:
    """What one worker tells: its `events` behind those that were heard, up to `last`; `starved`: see RecentEvents."""

    look: Look
    events: Sequence[Mapping[str, Any]]
    last: int
    starved: Sequence[tuple[str, str, int]]


class GatheredEvents(RecentEvents):
    """The last events of all workers, each with its `worker`, and of the supervisor, for which it is an observer."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: dict[int, int] = {}  # by worker, the number of the last of its events
        self._starved: dict[int, Sequence[tuple[str, str, int]]] = {}
        self._past: Counter[tuple[str, str]] = Counter()  # of workers that have ended

    @property
    def heard(self) -> Mapping[int, int]:
        """What each worker need not tell again."""
        return self._heard

    def hear(self, told: Mapping[int, WorkerLook]) -> None:
        """What workers told, by their numbers."""
        news: list[tuple[float, str, dict[str, Any]]] = []
        for worker, each in told.items():
            former = self._heard.get(worker, 0)
            news += [
                (one["at"], one["kind"], {**one["fields"], "worker": worker})
                for one in each.events
                if one["n"] > former
            ]
            self._heard[worker] = each.last
            self._starved[worker] = each.starved
        for at, kind, values in sorted(news, key=lambda one: one[0]):
            self.add(kind, values, at=at)

    def gone(self, worker: int) -> None:
        """The process in that place has ended: another one counts from the beginning."""
        self._heard.pop(worker, None)
        for tenant, cause, count in self._starved.pop(worker, ()):
            self._past[tenant, cause] += count
        if len(self._past) > _MOST_STARVED:
            self._past = Counter(dict(self._past.most_common(_MOST_STARVED // 2)))

    def starved(self, most: int) -> list[tuple[str, str, int]]:
        """See `RecentEvents`: of all workers."""
        sums = Counter(self._past)
        for each in self._starved.values():
            for tenant, cause, count in each:
                sums[tenant, cause] += count
        return [(tenant, cause, count) for (tenant, cause), count in sums.most_common(most)]


def joined_looks(looks: Sequence[Look], past: Look | None, paused: Iterable[str]) -> Look:
    """One of all. `past`: what workers that have ended counted, see `without_pools`."""
    logins: Counter[str] = Counter()
    clients: dict[str, tuple[int, int]] = {}
    for each in (*looks, *(() if past is None else (past,))):
        logins.update(each.logins)
    for each in looks:
        for name, (now, most) in each.clients.items():
            former = clients.get(name, (0, 0))
            clients[name] = former[0] + now, former[1] + most
    processes = next((each.processes for each in looks if each.processes), ())
    return Look(
        stats=merged_stats([each.stats for each in looks], () if past is None else (past.stats,)),
        fleet=_joined_fleet([each.fleet for each in looks if each.fleet is not None]),
        logins=logins,
        clients=clients,
        paused=sorted(paused),
        processes=processes,
        own=[process for each in looks for process in each.own],
    )


def without_pools(look: Look, former: Look | None) -> Look:
    """What a worker that has ended counted, added to what `former` ones did."""
    stats = replace(look.stats, pools=(), servers=(), pools_limit=0)
    counted = Counter(look.logins)
    if former is not None:
        counted.update(former.logins)
        stats = merged_stats([stats], (former.stats,))
    return Look(stats=stats, logins=counted)


def _joined_fleet(parts: Sequence[FleetStats]) -> FleetStats | None:
    """What the workers have of each server together."""
    servers: dict[str, FleetServerStats] = {}
    for part in parts:
        for one in part.servers:
            former = servers.get(one.server)
            servers[one.server] = one if former is None else _sum(former, one)
    if not parts:
        return None
    return replace(parts[0], process="", servers=tuple(servers.values()))


def _sum(one: FleetServerStats, other: FleetServerStats) -> FleetServerStats:
    sums = {name: getattr(one, name) + getattr(other, name) for name in ("granted", "target", "wanted", "used")}
    return replace(one, **sums)
