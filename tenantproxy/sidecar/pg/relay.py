"""Who stands between one client, after its login, and the server? Transports, backpressure, and what others may ask.

What happens to the bytes is up to `forwarder`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final

from tenantproxy.config import Pg
from tenantproxy.errors import ConnectFailed, OutOfMemory, PoolClosed, TenantProxyError
from tenantproxy.model import Route
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.checkout import Source
from tenantproxy.sidecar.pg.forwarder import ClientParts, Forwarder
from tenantproxy.sidecar.pg.inbox import Hold
from tenantproxy.sidecar.pg.signals import ClientRights, NoRights
from tenantproxy.sidecar.pg.timeouts import ClientClock
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire import answers
from tenantproxy.wire.frames import IDLE
from tenantproxy.wire.memory import TenantMemory
from tenantproxy.wire.session_features import PinPlaces, SessionFeatures
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import Statements

__all__ = ["Relay", "Source"]

_REST_SECONDS: Final = 0.2  # making a forwarder again takes three microseconds
_LEAVE_SECONDS: Final = 1.0  # of silence, as with HTTP: one that is slow may not have read its last answer yet
_LINGER_SECONDS: Final = 10.0  # that a client has for reading what was said last


class Relay(asyncio.Protocol):
    """One client between its login and its end. `on_end` is called once, when nothing of it is left.

    It has many methods, for three peers call it: the client's transport, its forwarder and the listener.

    Thousands of clients may be there, most of them idle: one that has nothing under way, no statement and no backend
    rests, without a forwarder (`_awake` is None), until its next byte.
    """

    __slots__ = (
        "_asked_at",
        "_awake",
        "_clock",
        "_is_over",
        "_leaving",
        "_on_end",
        "_parts",
        "_transport",
        "is_draining",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        source: Source,
        lender: RawLender,
        statements: Statements,
        kept: KeptSettings,
        features: SessionFeatures | None = None,
        is_session: bool,
        traffic: Traffic,
        on_end: Callable[[], None],
        memory: TenantMemory | None = None,
        rights: ClientRights | None = None,
    ) -> None:
        self._transport = transport
        self._on_end = on_end
        self._is_over = False
        self.is_draining = False  # see `forwarder.Owner`
        self._leaving: asyncio.TimerHandle | None = None  # set while it is idle and will be told to leave
        self._parts = ClientParts(
            source=source,
            lender=lender,
            statements=statements,
            kept=kept,
            features=SessionFeatures(kept, "pin", PinPlaces()) if features is None else features,
            is_session=is_session,
            traffic=traffic,
            memory=TenantMemory() if memory is None else memory,
            rights=rights if rights is not None else NoRights(),
        )
        self._awake: Forwarder | None = None
        self._asked_at = 0.0  # of the last forwarder
        self._clock = ClientClock()

    def __repr__(self) -> str:
        return f"<Relay {self._awake or 'rests'!r}>"

    @property
    def traffic(self) -> Traffic:
        """Where what passes is counted."""
        return self._parts.traffic

    @property
    def _forwarder(self) -> Forwarder:
        if self._awake is None:
            self._awake = Forwarder(self._transport, self, self._parts)
            self._awake.is_over = self._is_over
            self._clock.woke()
        return self._awake

    def adopt(self, backend: RawBackend, route: Route) -> None:
        """Let it have a backend that was leased for it at its login."""
        self._forwarder.adopt(backend, route)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._leaving is not None and self._is_idle:
            self.end(_shutting_down())  # the answer to what it asked: no client takes that for a notice
        elif self._awake is not None and not self._is_over:
            self._awake.received(data)
        elif not self._is_over:
            self._forwarder.received(data)

    # --- too fast ----------------------------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        """See asyncio.Protocol: the client does not read fast enough."""
        if self._awake is not None:  # else it is told its end
            self._awake.client_is_slow = self._awake.is_choked = True
        if self.backend is not None:
            self.backend.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._awake is not None:
            self._awake.client_is_slow = False
        if self.backend is not None:
            self.backend.resume_reading()

    # --- what the listener asks and says -----------------------------------------------------------------------------
    @property
    def backend(self) -> RawBackend | None:
        """What it holds."""
        return None if self._awake is None else self._awake.checkout.backend

    @property
    def kept(self) -> KeptSettings:
        """Its settings."""
        return self._parts.kept

    @property
    def asked_at(self) -> float:
        """When the first message was sent that is unanswered."""
        return self._asked_at if self._awake is None else self._awake.asked_at

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a backend, since `waiting_since`."""
        return self._awake is not None and self._awake.checkout.is_waiting

    @property
    def waiting_since(self) -> float:
        """When it began to wait for the last one it waited for."""
        return 0.0 if self._awake is None else self._awake.checkout.waiting_since

    @property
    def is_pinned(self) -> bool:
        """Whether it keeps its backend in transaction mode."""
        return self._awake is not None and bool(self._awake.session.pin)

    @property
    def is_idly_pinned(self) -> bool:
        """See `forwarder.Forwarder`."""
        return self._awake is not None and self._awake.is_idly_pinned

    @property
    def prepared_statements(self) -> int:
        """How many the client has."""
        return 0 if self._awake is None else len(self._awake.prepared.names)

    @property
    def is_active(self) -> bool:
        """Whether it has a backend, or waits for one."""
        return self.backend is not None or self.is_waiting

    def overdue(self, now: float, pg: Pg) -> TenantProxyError | None:
        """Why it is to be ended now, by the timeouts of `pg`; asked at each sweep. See `timeouts`."""
        forwarder = self._awake
        if forwarder is None:
            return self._clock.overdue_at_rest(now, pg)
        return self._clock.overdue(forwarder, now, pg)

    def rest_if_idle(self, now: float) -> None:
        """Rest, where nothing more was to be done a moment ago and nothing is kept; `now` is monotonic."""
        awake = self._awake
        if awake is not None and now - awake.answered_at > _REST_SECONDS and awake.may_rest:
            self._asked_at, self._awake = awake.asked_at, None
            awake.forget()

    def cancel(self, done: Callable[[], None]) -> None:
        """The client asks to cancel what runs for it now; `done`: the request cannot hit what it sends from then on."""
        if self.backend is not None and not self._forwarder.pipeline.is_quiet:
            self._parts.lender.cancel_request(self.backend, done)
        else:
            done()

    def drain(self) -> None:
        """End when nothing is under way: as the answer to its next message, or after a moment of silence.

        What is said right behind the end of a transaction libpq reads together with that, and takes it for a notice.
        """
        self.is_draining = True
        if self._is_idle:
            self._leave_soon()

    @property
    def _is_idle(self) -> bool:
        forwarder = self._forwarder
        if not self.is_active:
            return forwarder.inbox.hold is Hold.NOTHING
        pipeline, is_kept = forwarder.pipeline, self._parts.is_session or forwarder.session.pin
        return self.backend is not None and bool(is_kept) and pipeline.is_quiet and pipeline.status == IDLE

    def _leave_soon(self) -> None:
        if self._leaving is None and not self._is_over:
            loop = asyncio.get_running_loop()
            self._leaving = loop.call_later(_LEAVE_SECONDS, self._leave, context=Context())

    def _leave(self) -> None:
        self._leaving = None
        if not self._is_over and self._is_idle:  # else it is told again when it is
            self.end(_shutting_down())

    def kill(self, why: TenantProxyError | None = None) -> None:
        """End now, whatever is under way; `why`: other than that the operator said so."""
        self.end(why or _shutting_down("the operator ended it: try again"))

    # --- the end -----------------------------------------------------------------------------------------------------
    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol: the client is gone."""
        self._clean_up()

    # --- Owner -------------------------------------------------------------------------------------------------------
    def became_idle(self, *, asks: bool = False) -> None:
        """See `forwarder.Owner`."""
        if asks:
            self.end(_shutting_down())
        else:
            self._leave_soon()

    def reads_from(self, source: Source) -> None:
        """See `forwarder.Owner`."""
        self._parts = self._parts._replace(source=source)

    def lost(self, exc: Exception | None) -> None:
        """See `forwarder.Owner`."""
        if isinstance(exc, TenantProxyError):  # its lease expired, or a transaction could not be made its tenant's
            self.end(exc)
        elif self._forwarder.responses.is_fatal:  # the server has said why
            self._clean_up()
            self._close()
        else:
            self.end(
                ConnectFailed(
                    "the server closed the connection unexpectedly",
                    hint="whether what ran has taken effect is unknown if a COMMIT was under way",
                )
            )

    def end(self, error: TenantProxyError) -> None:
        """See `forwarder.Owner`: say why, and close."""
        if self._is_over:
            return
        forwarder = self._awake
        if forwarder is not None:
            self._transport.write(forwarder.take_returning())
        if forwarder is None or not forwarder.responses.is_half_passed:  # else it would be taken for the rest of a row
            self._transport.write(answers.error_response(error, fatal=True))
        self._clean_up()
        if isinstance(error, OutOfMemory | PoolClosed):
            self._close_later()
        else:
            self._close()

    def _close_later(self) -> None:
        """Close when the client has: it is still sending, and closing on unread bytes would reset our words away."""
        self._transport.resume_reading()
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.abort, context=Context())

    def _close(self) -> None:
        """Close, after what was written; but at last also where the client reads nothing of it."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.abort, context=Context())

    def _clean_up(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if not self._is_over:
            self._is_over = True
            if self._awake is not None:
                self._awake.close()
            self._on_end()


def _shutting_down(hint: str = "connect again") -> TenantProxyError:
    return PoolClosed("terminating connection due to administrator command", hint=hint)
