"""What does a relay do whose client's straight transactions are carried by the compiled path?

The same as any: before it answers or does anything, it catches up with what was carried.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from tenantproxy.config import Pg
from tenantproxy.errors import TenantProxyError
from tenantproxy.raw.backend import RawBackend
from tenantproxy.sidecar.pg.lanes import LaneDesk, Lanes
from tenantproxy.sidecar.pg.relay import Relay
from tenantproxy.wire.statements import Statement

if TYPE_CHECKING:
    from tenantproxy._native.core import Conn, Lane

__all__ = ["CarriedRelay", "relay_on"]


class CarriedRelay(Relay):
    """A relay on a `core.Conn`, which carries nothing before `ride`.

    Invariant: whenever its methods are called from Python, a transaction that is being carried becomes the forwarder's
    before anything else is done; so the forwarder is in the state that it would have without the compiled path.
    """

    __slots__ = ("_conn", "_lanes")

    def __init__(self, transport: Conn, lanes: Lanes, **parts: Any) -> None:
        super().__init__(transport, **parts)
        self._conn = transport
        self._lanes = lanes

    def ride(self) -> None:
        """The login is over: let straight transactions be carried from now on."""
        if not (self._is_over or self._conn.is_closing()):
            self._conn.ride(self)

    # --- what the compiled path asks: see `core.Rider` ---------------------------------------------------------------
    def lane(self) -> Lane | None:
        """Where its next transaction may be carried; None: nowhere, until Python has run again."""
        parts, awake = self._parts, self._awake
        if self.is_draining or self._is_over or not parts.kept.is_at_rest:
            return None
        if awake is not None and not awake.may_be_carried:
            return None
        return self._lanes.of(parts.source, parts.kept.now, parts.traffic)

    def statement(self, name: bytes) -> tuple[Statement, bytes | None] | None:
        """See `Prepared.carries`; None: Python looks into it."""
        awake = self._awake
        return None if awake is None else awake.prepared.carries(name)

    @property
    def resets_nothing(self) -> bool:
        """Whether a RESET, of whatever, leaves the backend as it was."""
        kept = self._parts.kept
        return kept.is_at_rest and kept.now == kept.resets_to == kept.start

    def carried(self, heard: int, asked_at: float, answered_at: float, unnamed: bytes | None) -> None:
        """Transactions were carried, and are over. `heard`: how often bytes came. `unnamed`: see `Prepared.carried`."""
        awake = self._awake
        if awake is None and not unnamed:
            self._asked_at = asked_at
            self._clock.woke()
        elif not self._is_over:
            self._forwarder.carried(heard, asked_at, answered_at, unnamed)

    def take_over(
        self,
        desk: LaneDesk,
        backend: RawBackend,
        data: bytes,
        sent: bytes,
        opened: tuple[float, bool, bool],
        *,
        asked_at: float,
        passed: int,
        has_parsed: bool,
    ) -> None:
        """Go on with a request that is under way: see `Forwarder.go_on`. `opened`: as for `Forwarder.hold`."""
        forwarder = self._forwarder
        forwarder.hold(backend, desk.route, *opened)
        forwarder.go_on(backend, data, sent, asked_at=asked_at, passed=passed, has_parsed=has_parsed)

    def hold(
        self, desk: LaneDesk, backend: RawBackend, opened: tuple[float, bool, bool], *, answered_at: float
    ) -> None:
        """Go on with a transaction that is open: see `Forwarder.hold`."""
        forwarder = self._forwarder
        forwarder.hold(backend, desk.route, *opened)
        forwarder.answered_at = answered_at

    # --- what others ask and say -------------------------------------------------------------------------------------
    @property
    def backend(self) -> RawBackend | None:
        """See `Relay`."""
        if not self._conn.waiting_since:  # else it has none
            self._conn.settle()
        return super().backend

    @property
    def asked_at(self) -> float:
        """See `Relay`."""
        if since := self._conn.waiting_since:
            return since
        self._conn.settle()
        return super().asked_at

    @property
    def is_waiting(self) -> bool:
        """See `Relay`."""
        return bool(self._conn.waiting_since) or super().is_waiting

    @property
    def waiting_since(self) -> float:
        """See `Relay`."""
        return self._conn.waiting_since or super().waiting_since

    def pause_writing(self) -> None:
        """See `Relay`."""
        if not self._is_over:
            self._forwarder.client_is_slow = True  # what was carried last was too much for the client
        super().pause_writing()

    def overdue(self, now: float, pg: Pg) -> TenantProxyError | None:
        """See `Relay`."""
        if self._conn.waiting_since:  # for less time than any limit is long
            return None
        self._conn.settle()
        return super().overdue(now, pg)

    def rest_if_idle(self, now: float) -> None:
        """See `Relay`."""
        if self._conn.rest():
            super().rest_if_idle(now)

    def drain(self) -> None:
        """See `Relay`."""
        self._conn.settle()
        super().drain()

    def end(self, error: TenantProxyError) -> None:
        """See `Relay`."""
        self._conn.settle()
        super().end(error)


def relay_on(transport: asyncio.Transport, lanes: Lanes | None, *, is_session: bool, **parts: Any) -> Relay:
    """The relay of a client; nothing of one that keeps its backend is carried."""
    if lanes is None or is_session:
        return Relay(transport, is_session=is_session, **parts)
    return CarriedRelay(cast("Conn", transport), lanes, is_session=False, **parts)
