"""How does a connection become a client of a tenant? First packet, authentication, tenant, greeting; then a relay.

Nothing sent before the login reaches a server, and no answer tells whether a user or a tenant exists.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from typing import Final, cast

from tenantproxy.context import REQUEST_ID
from tenantproxy.errors import (
    AuthError,
    InvalidCredentials,
    PoolTimeout,
    ProtocolError,
    TenantProxyError,
    TooManyClients,
)
from tenantproxy.sidecar.pg.admission import address_of
from tenantproxy.sidecar.pg.encryption import Channel, channel_of
from tenantproxy.sidecar.pg.login_host import LoginHost
from tenantproxy.sidecar.pg.users import Target
from tenantproxy.sidecar.tls import ALPN
from tenantproxy.wire import answers
from tenantproxy.wire.client_auth import ClientAuth, Step, Verdict
from tenantproxy.wire.frames import HEADER
from tenantproxy.wire.startup import (
    ACCEPTED,
    DIRECT_TLS,
    REFUSED,
    REQUEST_SIZE,
    SSL_REQUEST,
    CancelRequest,
    First,
    SessionWish,
    Startup,
    TerminateRequest,
    is_terminate,
    negotiate,
    read_first,
    wanted,
)

__all__ = ["StartupConnection"]

logger = logging.getLogger("tenantproxy")

LOGIN_SECONDS: Final = 15.0
_MAX_BEHIND: Final = 65_536  # bytes that may come before the client is admitted


class StartupConnection(asyncio.Protocol):
    """One connection until its login is finished. Ends by itself after LOGIN_SECONDS."""

    def __init__(self, host: LoginHost) -> None:
        self._host = host
        self._buffer = bytearray()
        self._answered: list[First] = []
        self._wish: SessionWish | None = None
        self._auth: ClientAuth | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._channel: Channel | None = None  # None: nothing was said yet
        self._learn: Callable[[asyncio.Transport], Channel] | None = None  # set while TLS begins: see `Encryption`
        self._is_over = False
        self.address = ""  # what it counts as: see `admission.address_of`
        self.is_tunnel = False  # it is in a WebSocket
        self.request_id = f"pg-{secrets.token_hex(8)}"  # in log lines about its login
        self.tenant = ""  # whose it has proven to be

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.address = address_of(transport.get_extra_info("peername"))
        self.is_tunnel = channel_of(self.transport).is_tunnel
        self._timer = asyncio.get_running_loop().call_later(LOGIN_SECONDS, self._too_slow, context=Context())
        self._host.accepted(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._buffer += data
        if self._is_over:
            return
        try:
            if len(self._buffer) > _MAX_BEHIND:
                raise ProtocolError("too much was sent before the login was over")
            if self._task is None:
                self._read()
        except TenantProxyError as exc:
            self.refuse(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if self._task is not None:
            self._task.cancel()
        self.leave()

    @property
    def wish(self) -> SessionWish | None:
        """What it asked for; None while it has not."""
        return self._wish

    # --- first packet ------------------------------------------------------------------------------------------------
    def _read(self) -> None:
        while self._auth is None and not self._is_over:
            has_tls = self._host.encryption.tls is not None and not self.is_tunnel
            first = read_first(self._buffer, answered=self._answered, has_tls=has_tls)
            if first is None:
                return
            if isinstance(first, Startup):
                del self._buffer[: first.size]
                self._challenge(first)
            elif isinstance(first, CancelRequest):
                # As a server does, it closes when nothing can be hit any more: its client may go on then.
                self.leave()
                self.transport.pause_reading()
                self._host.cancel(first.pid, first.secret, self.transport.close)
            elif isinstance(first, TerminateRequest):
                self.close()
            elif self._takes_tls(first):
                return
            else:
                self.transport.write(REFUSED)
        while self._auth is not None and self._task is None and not self._is_over:
            if self._buffer and is_terminate(self._buffer):  # it has no password, or no wish to go on
                if len(self._buffer) >= HEADER:
                    self.close()
                return
            message = self._auth.read(self._buffer)
            if message is None:
                return
            del self._buffer[: message.size]
            self._proof(self._auth, message.payload)

    # --- TLS ---------------------------------------------------------------------------------------------------------
    def _takes_tls(self, request: First) -> bool:
        """Answer a request for encryption; whether TLS begins. `read_first` saw to it that nothing came behind it."""
        is_direct = request is DIRECT_TLS
        self._answered += [request, SSL_REQUEST] if is_direct else [request]  # not twice
        if not is_direct:
            del self._buffer[:REQUEST_SIZE]
            if request is not SSL_REQUEST or self._host.encryption.tls is None or self.is_tunnel:
                return False
            self.transport.write(ACCEPTED)
        hello = bytes(self._buffer)
        self._buffer.clear()
        self._learn = self._host.encryption.begin(self.transport, hello, self._secured, self._not_secured)
        return True

    def _secured(self, transport: asyncio.Transport) -> None:
        if self._is_over:  # it was refused meanwhile
            transport.abort()
            return
        assert self._learn is not None
        self._channel, self._learn = self._learn(transport), None
        self.transport = transport
        transport.set_protocol(self)
        is_named = transport.get_extra_info("ssl_object").selected_alpn_protocol() == ALPN
        if DIRECT_TLS in self._answered and not is_named:
            hint = "a client that begins with TLS must ask for the protocol by ALPN, as libpq does"
            self.refuse(ProtocolError(f'TLS was begun without naming the protocol "{ALPN}"', hint=hint))

    def _not_secured(self, why: str) -> None:
        self._learn = None
        if not self._is_over:
            self._host.handshake_failed(self, why)
            self.leave()

    def _too_slow(self) -> None:
        if self._learn is not None:
            self._host.encryption.timed_out()
            self._host.handshake_failed(self, "the client stopped while TLS began")
            self.leave()
        self.transport.abort()

    # --- authentication ----------------------------------------------------------------------------------------------
    def _challenge(self, startup: Startup) -> None:
        channel = self._channel = self._channel or channel_of(self.transport)
        wish = wanted(startup)
        named = self._host.named_by(channel.server_name)
        self._wish = wish = replace(wish, tenants=tuple(dict.fromkeys([*wish.tenants, *named])))
        self._host.check_channel(channel)
        self._host.check_room(wish)
        credential = self._host.credential(wish.user, channel)
        if credential.method == "certificate":
            self.transport.write(negotiate(startup))
            self._go_on(Step(Verdict.PROVEN))
            return
        self._auth = ClientAuth(
            credential.method,
            credential.verifier,
            user=wish.user,
            binding=channel.binding,
            missing=credential.missing,
            discovery=credential.discovery,
        )
        self.transport.write(negotiate(startup) + self._auth.challenge)

    def _proof(self, auth: ClientAuth, payload: bytes) -> None:
        step = auth.feed(payload)
        if step.verdict is Verdict.MORE:
            self.transport.write(step.send)
            return
        self._go_on(step)

    def _go_on(self, step: Step) -> None:
        if self._timer is not None:
            self._timer.cancel()  # from now on it is we who take time, and a client that waits in vain is told so
        self._task = asyncio.get_running_loop().create_task(self._come_in(step), context=Context())

    async def _come_in(self, step: Step) -> None:
        wish = self._wish
        assert wish is not None
        REQUEST_ID.set(self.request_id)  # in this task alone
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                if step.verdict is Verdict.CHECK:
                    assert self._auth is not None
                    await self._host.check_password(self._auth, step.password)
                token = step.password if step.verdict is Verdict.PASSWORD else None
                target = await self._host.authorise(wish, token)
                if isinstance(target, AuthError) and self._auth is not None and self._auth.takes_bearer:
                    self._ask_again(self._auth, target)
                    return
                if not isinstance(target, Target):
                    raise target
                self.tenant = target.tenant or ""
                self.transport.write(step.send + answers.AUTHENTICATION_OK)
                await self._host.admit(self, target, wish)
        except TimeoutError:
            self.refuse(PoolTimeout("the login took too long", hint="see whether the tenant's server answers"))
        except TenantProxyError as exc:
            self.refuse(exc)
        except Exception:  # a boundary: the client must be told, and a registry may be third-party code
            logger.exception("a login failed", extra={"tenant": self.tenant})
            self.refuse(TenantProxyError("the login failed", hint="see the service's log"))

    def _ask_again(self, auth: ClientAuth, error: AuthError) -> None:
        """Its bearer token is not accepted: as RFC 7628 has it, it hears where to get one, and then that it failed."""
        self._task = None
        why = error.reason if isinstance(error, InvalidCredentials) else error.message
        self.transport.write(auth.without_token(why).send)
        self._timer = asyncio.get_running_loop().call_later(LOGIN_SECONDS, self._too_slow, context=Context())
        try:
            self._read()
        except TenantProxyError as exc:
            self.refuse(exc)

    def pass_on(self, protocol: asyncio.Protocol) -> None:
        """Let `protocol` have the transport, and what the client said behind its login."""
        rest = bytes(self._buffer)
        self.leave()
        self.transport.set_protocol(protocol)
        if rest:
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(rest)

    # --- the end -----------------------------------------------------------------------------------------------------
    def refuse(self, error: TenantProxyError) -> None:
        """Say why, and close."""
        if self._is_over:
            return
        self._host.refused(self, error)
        if self._learn is not None:  # TLS has begun, and is not there to say it by
            self.leave()
            self.transport.abort()
            return
        self.transport.write(answers.error_response(error, fatal=True))
        self.close()

    def make_room(self, limit: int) -> None:
        """See `admission.Pending`."""
        self.refuse(
            TooManyClients(
                "too many connections that have not logged in: the oldest are closed",
                detail=f"[pg] max_unauthenticated = {limit}",
                hint="log in at once after connecting, or raise [pg] max_unauthenticated",
            )
        )

    def close(self) -> None:
        """Close, after what was written."""
        self.leave()
        self.transport.close()

    def leave(self) -> None:
        """End the startup: it is closed, or a client now. Safe to call again."""
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._buffer.clear()
        self._host.startup_ended(self)
