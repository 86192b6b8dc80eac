"""Which answer of main counts for this process? Its id, the number of its newest report, and its share of each server.

A synchronous state machine without I/O; changed by one task, which speaks to main. Invariants: the id is random and
made here, never configured; reports rise by one; only the answer to the newest report is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from uuid import UUID, uuid4

from tenantproxy.fleet.share import Holding, Share
from tenantproxy.fleet.values import Census, FleetReport, ServerGrant, Terms

__all__ = ["Member"]


class Member:
    """One process of a fleet."""

    def __init__(
        self, terms: Mapping[str, Terms] | None = None, *, keeps: bool = False, new_id: Callable[[], UUID] = uuid4
    ) -> None:
        """`terms` by server; `keeps`: see `Share`."""
        self._new_id = new_id
        self._keeps = keeps
        self.process = new_id()
        self.seq = 0
        self.shares: dict[str, Share] = {}
        for server, each in (terms or {}).items():
            self.add(server, each)
        self._asked: float | None = None  # when the newest report was made; None: it was answered

    def __repr__(self) -> str:
        return f"Member({self.process}, seq={self.seq}, {self.shares})"

    def add(self, server: str, terms: Terms) -> None:
        """One server more: nothing is granted of it yet."""
        self.shares[server] = Share(terms, keeps=self._keeps)

    def report(
        self,
        now: float,
        holdings: Mapping[str, Holding],
        *,
        census: tuple[Census, ...] = (),
        buried: tuple[UUID, ...] = (),
    ) -> FleetReport:
        """The next report. `now` is read before it is sent; `holdings` by server, those of all `shares`."""
        self.seq += 1
        self._asked = now
        claims = tuple(share.claim(server, now, holdings[server]) for server, share in self.shares.items())
        return FleetReport(process=self.process, seq=self.seq, claims=claims, census=census, buried=buried)

    def leave(self) -> FleetReport:
        """The last report: everything is closed. Nothing is granted from now on."""
        self.seq += 1
        self._asked = None
        for share in self.shares.values():
            share.drop()
        return FleetReport(process=self.process, seq=self.seq, claims=(), leaves=True)

    def hear(self, seq: int, grants: Iterable[ServerGrant], *, now: float) -> bool:
        """The answer to report `seq`; False: it is late, and nothing in it counts."""
        if seq != self.seq or self._asked is None:
            return False
        asked, self._asked = self._asked, None
        for grant in grants:
            share = self.shares.get(grant.server)
            if share is not None:
                share.accept(grant, asked=asked, now=now)
        return True

    def end(self, now: float, left: Mapping[str, int]) -> tuple[FleetReport, ...]:
        """The last reports where something is `left` open, by server: how much, and that nothing more will come."""
        for share in self.shares.values():
            share.target = 0
        last = self.report(now, {server: Holding(total=left.get(server, 0)) for server in self.shares})
        last = replace(last, ends=True)
        self._asked = None
        for share in self.shares.values():
            share.drop()
        return last, FleetReport(process=self._new_id(), seq=1, claims=(), buried=(self.process,))

    @property
    def has_to_claim(self) -> bool:
        """Whether a census is due on some server, and main has not heard this process's ids in that epoch."""
        return any(share.has_to_claim for share in self.shares.values())

    @property
    def is_witness(self) -> bool:
        """Whether this process counts some server."""
        return any(share.is_witness for share in self.shares.values())

    def hear_stale(self, seq: int) -> bool:
        """Main has a newer report under this id, so another process has it too. Takes a new id; False: it is late."""
        if seq != self.seq or self._asked is None:
            return False
        self.begin_again()
        return True

    def begin_again(self) -> None:
        """Another process: after a fork, or because another one has this id. It has a new id and no grant."""
        self.process = self._new_id()
        self.seq = 0
        self._asked = None
        for share in self.shares.values():
            share.drop()
