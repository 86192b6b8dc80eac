"""Which backend does a client have, and may its bytes go there now? One lease's life, from its wish to its end."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from enum import StrEnum
from time import monotonic
from typing import Final, Protocol

from tenantproxy.context import REQUEST_ID
from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.model import Route
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.lender import Acquire, RawLender
from tenantproxy.raw.replayed import ask_replayed
from tenantproxy.sidecar.pg.keys import request_name
from tenantproxy.wire.settings import NO_SETTINGS
from tenantproxy.wire.states import Table

__all__ = ["CHECKOUT", "Checkout", "CheckoutState", "Holder", "Source"]

logger = logging.getLogger("tenantproxy")


class Source(Protocol):
    """Looks up the client's tenant: its current pool and route. `replica`: that of clients that read from replicas.

    `after`: up to where a replica must have replayed its primary's log, bytes; 0: it need not.
    """

    replica: bool
    after: int

    def known(self) -> tuple[Pool[RawBackend], Route] | None:
        """Without asking; None: `find` it."""
        ...

    def fresh_until(self) -> float:
        """Until when what `known` says holds, unless something happens meanwhile; monotonic."""
        ...

    async def find(self) -> tuple[Pool[RawBackend], Route]:
        """Ask the registry. Raises TenantError, RegistryUnavailable, PoolClosed."""
        ...

    def reading(self, *, replica: bool, after: int = 0) -> Source:
        """That of clients of the tenant that read from replicas, or of those that do not."""
        ...


class Holder(Protocol):
    """The client that a checkout is for. Called from the event loop, never from within a call of its own."""

    def checked_out(self, backend: RawBackend) -> None:
        """It has a backend, bound to its tenant."""
        ...

    def not_checked_out(self, error: TenantProxyError) -> None:
        """It gets none."""
        ...

    def renewed(self, error: TenantProxyError | None) -> None:
        """Its backend is bound again; with an error it has none any more."""
        ...

    def looked(self, found: int, error: TenantProxyError | None) -> None:
        """What is left in its session; with an error it has no backend any more."""
        ...


class CheckoutState(StrEnum):
    """Where a client and its backend are."""

    IDLE = "idle"  # it needs none
    LOOKING_UP = "looking_up"  # its tenant is asked for
    QUEUED = "queued"  # it waits in its tenant's turn
    ENTERING = "entering"  # it has one that is being reset or bound
    HELD = "held"
    RENEWING = "renewing"  # its binding is
    LOOKING = "looking"  # the server is asked what is left in its session
    RETRYING = "retrying"  # a statement whose plan was stale is sent once more
    LOST = "lost"  # the client or its backend has gone


class CheckoutEvent(StrEnum):
    """What changes that."""

    LENT_AT_ONCE = "lent at once"
    UNKNOWN = "tenant not known"
    WANTED = "acquire"
    RESET_OR_BIND = "backend to reset or bind"
    LENT = "lent"
    REFUSED = "refused"
    DUE = "binding about to end"
    RENEWED = "bound again"
    LEFT = "something may be left in the session"
    TOLD = "what is left"
    STALE = "stale plan"
    READY = "ReadyForQuery"
    RELEASED = "released"
    GONE = "client or backend gone"


_S, _E = CheckoutState, CheckoutEvent
CHECKOUT: Final[Table[CheckoutState, CheckoutEvent]] = {
    (_S.IDLE, _E.LENT_AT_ONCE): _S.HELD,
    (_S.IDLE, _E.UNKNOWN): _S.LOOKING_UP,
    (_S.IDLE, _E.WANTED): _S.QUEUED,
    (_S.LOOKING_UP, _E.WANTED): _S.QUEUED,
    (_S.LOOKING_UP, _E.REFUSED): _S.IDLE,
    (_S.QUEUED, _E.RESET_OR_BIND): _S.ENTERING,
    (_S.QUEUED, _E.LENT): _S.HELD,
    (_S.QUEUED, _E.REFUSED): _S.IDLE,
    (_S.ENTERING, _E.RESET_OR_BIND): _S.ENTERING,
    (_S.ENTERING, _E.LENT): _S.HELD,
    (_S.ENTERING, _E.REFUSED): _S.IDLE,
    (_S.HELD, _E.DUE): _S.RENEWING,
    (_S.HELD, _E.STALE): _S.RETRYING,
    (_S.HELD, _E.RELEASED): _S.IDLE,
    (_S.RENEWING, _E.RENEWED): _S.HELD,
    (_S.HELD, _E.LEFT): _S.LOOKING,
    (_S.LOOKING, _E.TOLD): _S.HELD,
    (_S.RETRYING, _E.READY): _S.HELD,
} | {(state, _E.GONE): _S.LOST for state in CheckoutState}

# To look up a member of an enumeration costs as much as ten attributes.
_IDLE, _LOOKING_UP, _QUEUED, _ENTERING, _HELD, _RENEWING, _LOOKING, _RETRYING, _LOST = CheckoutState
(
    _E_LENT_AT_ONCE, _E_UNKNOWN, _E_WANTED, _E_RESET_OR_BIND, _E_LENT, _E_REFUSED, _E_DUE,
    _E_RENEWED, _E_LEFT, _E_TOLD, _E_STALE, _E_READY, _E_RELEASED, _E_GONE,
) = CheckoutEvent  # fmt: skip
_LENT, _RELEASED = CHECKOUT[_S.IDLE, _E.LENT_AT_ONCE], CHECKOUT[_S.HELD, _E.RELEASED]


class Checkout:
    """One client's backend. Changed by its relay, by the lender and by lookups.

    Invariant: `backend` is set exactly in HELD, RENEWING, LOOKING and RETRYING.
    """

    __slots__ = (
        "_acquire",
        "_asked",
        "_finding",
        "_holder",
        "_lender",
        "_pid",
        "_settings",
        "backend",
        "route",
        "source",
        "state",
        "waiting_since",
    )

    def __init__(self, source: Source, lender: RawLender, holder: Holder, pid: int = 0) -> None:
        self.state = _IDLE
        self.backend: RawBackend | None = None
        self.route: Route | None = None
        self.waiting_since = 0.0
        self.source = source
        self._lender = lender
        self._holder = holder
        self._pid = pid  # that its client was told
        self._settings: Settings = NO_SETTINGS  # what the client wants of the backend that it waits for
        self._acquire: Acquire | None = None
        self._asked: RawBackend | None = None  # which is being asked how far it has replayed; in ENTERING
        self._finding: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Checkout {self.state}, {self.backend!r}>"

    def _move(self, event: CheckoutEvent) -> None:
        self.state = CHECKOUT[self.state, event]

    @property
    def may_forward(self) -> bool:
        """Whether the client's bytes may be read on: they go to its backend, or ask for one."""
        return self.state is _HELD or self.state is _IDLE

    @property
    def is_waiting(self) -> bool:
        """Whether the client waits for a backend."""
        return self.state is _QUEUED or self.state is _LOOKING_UP or self.state is _ENTERING

    # --- out ---------------------------------------------------------------------------------------------------------
    def lease(self, settings: Settings) -> RawBackend | None:
        """A backend, set to `settings`, at once; None: the holder will be told of one, or of the error."""
        try:
            found = self.source.known()
            if found is None:
                self.waiting_since = monotonic()
                self._look_up(self.source, settings)
                return None
            pool, route = found
            backend = self._lender.lease_nowait(pool, route, settings)
        except TenantProxyError as exc:
            self._move(_E_WANTED)
            self.waiting_since = monotonic()
            asyncio.get_running_loop().call_soon(self.refused, exc)
            return None
        if backend is None:
            self.waiting_since = monotonic()
            self._want(pool, route, settings)
            return None
        self.route, self.backend = route, backend
        self.state = _LENT  # as the table says
        return backend

    def adopt(self, backend: RawBackend, route: Route) -> None:
        """What was leased for the holder at its login is its own now."""
        self._move(_E_LENT_AT_ONCE)
        self.route, self.backend = route, backend

    def _look_up(self, source: Source, settings: Settings) -> None:
        self._move(_E_UNKNOWN)
        self._finding = asyncio.get_running_loop().create_task(self._find(source, settings), context=Context())

    async def _find(self, source: Source, settings: Settings) -> None:
        REQUEST_ID.set(request_name(self._pid))
        try:
            pool, route = await source.find()
        except TenantProxyError as exc:
            self._finding = None
            self.refused(exc)
        except Exception:  # a boundary: a client must not wait without end, and a registry or plan may be a user's own
            logger.exception("a tenant could not be found")
            self._finding = None
            self.refused(TenantProxyError("the tenant could not be looked up", hint="see the service's log"))
        else:
            self._finding = None
            self._want(pool, route, settings)

    def _want(self, pool: Pool[RawBackend], route: Route, settings: Settings) -> None:
        self._move(_E_WANTED)
        self.route = route
        self._settings = settings
        token = REQUEST_ID.set(request_name(self._pid))  # of what is logged when it gets none, by a timer too
        try:
            self._acquire = self._lender.acquire(pool, route, settings, self)
        except TenantProxyError as exc:
            asyncio.get_running_loop().call_soon(self.refused, exc)
        finally:
            REQUEST_ID.reset(token)

    # --- Lessee ------------------------------------------------------------------------------------------------------
    def entering(self) -> None:
        """See `raw.lender.Lessee`."""
        self._move(_E_RESET_OR_BIND)

    def leased(self, backend: RawBackend) -> None:
        """See `raw.lender.Lessee`."""
        self._acquire = None
        assert self.route is not None
        if self.route.session.standby and backend.replayed < self.source.after:
            self._move(_E_RESET_OR_BIND)
            self._asked = backend
            ask_replayed(self._lender, backend, self._replayed)
            return
        self.backend = backend
        self._move(_E_LENT)
        self._holder.checked_out(backend)

    def _replayed(self, is_known: bool) -> None:
        """It is known how far the replica is, or its backend was destroyed."""
        backend, self._asked = self._asked, None
        if backend is None:
            return  # the client has gone
        if is_known and backend.replayed >= self.source.after:
            self.backend = backend
            self._move(_E_LENT)
            self._holder.checked_out(backend)
            return
        if is_known:
            self._lender.release_unused(backend)
        self._move(_E_REFUSED)
        self._go_to_primary()

    def _go_to_primary(self) -> None:
        """No replica serves this transaction."""
        source = self.source.reading(replica=False)
        found = source.known()
        if found is None:
            self._look_up(source, self._settings)
        else:
            self._want(*found, self._settings)

    def refused(self, error: TenantProxyError) -> None:
        """See `raw.lender.Lessee`."""
        self._acquire = None
        if self.state is not _LOST:
            self._move(_E_REFUSED)
            if isinstance(error, ConnectFailed) and self.route is not None and self.route.session.standby:
                self._go_to_primary()
                return
            self._holder.not_checked_out(error)

    # --- held --------------------------------------------------------------------------------------------------------
    def renew(self, settings: Settings, *, start: Settings = NO_SETTINGS) -> None:
        """Bind again; the client must not have anything under way until `renewed`. `start`: see `RawLender.enter`."""
        assert self.backend is not None
        assert self.route is not None
        self._move(_E_DUE)
        self._lender.enter(self.backend, self.route, settings, self._renewed, start=start)

    def _renewed(self, error: TenantProxyError | None) -> None:
        if error is not None:
            self.backend = None  # it is destroyed
            if self.state is not _LOST:
                self._move(_E_GONE)
        elif self.state is not _LOST:
            self._move(_E_RENEWED)
        self._holder.renewed(error)

    def look(self, *, settings: bool) -> None:
        """Ask what is left in the session; the client must not have anything under way until `looked`."""
        assert self.backend is not None
        assert self.route is not None
        self._move(_E_LEFT)
        self._lender.look(self.backend, self.route, self._looked, settings=settings)

    def _looked(self, found: int, error: TenantProxyError | None) -> None:
        if error is not None:
            self.backend = None  # it is destroyed
        if self.state is not _LOST:
            self._move(_E_TOLD if error is None else _E_GONE)
        self._holder.looked(found, error)

    def retry(self) -> None:
        """A segment will be sent once more; the client sees nothing of what is answered until then."""
        self._move(_E_STALE)

    def retried(self) -> None:
        """It is being sent."""
        self._move(_E_READY)

    # --- back --------------------------------------------------------------------------------------------------------
    def release(self, settings: Settings, *, is_dirty: bool) -> float:
        """Give the backend back, on which nothing is under way. Returns for how long it was held, seconds."""
        backend, self.backend = self.backend, None
        route = self.route
        assert backend is not None and route is not None  # noqa: PT018 - for each transaction
        if self.state is not _LOST:
            self.state = _RELEASED
        backend.session = settings
        return self._lender.release(backend, route, is_dirty=is_dirty)

    def destroy(self, *, is_over: bool) -> None:
        """End the backend, if there is one: it is in doubt, or gone. `is_over`: and the client's lease with it."""
        backend, self.backend = self.backend, None
        if self.state is not _LOST and (is_over or backend is not None):
            self._move(_E_GONE if is_over else _E_RELEASED)
        if backend is not None:
            self._lender.destroy(backend, "error")

    def leave(self) -> bool:
        """The client has gone: it waits for nothing any more. Whether its backend is to be given back now."""
        is_ours = self.state is _RENEWING or self.state is _LOOKING  # what is said on the backend now
        self._move(_E_GONE)
        if self._acquire is not None:
            self._acquire.cancel()
        if self._asked is not None:
            asked, self._asked = self._asked, None
            self._lender.destroy(asked)
        if self._finding is not None:
            self._finding.cancel()
        return not is_ours  # else when that is done
