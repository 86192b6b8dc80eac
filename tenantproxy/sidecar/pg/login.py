"""How does a connection become a client of a tenant? First packet, authentication, tenant, greeting; then a relay.

Nothing sent before the login reaches a server, and no answer tells whether a user or a tenant exists.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextvars import Context
from typing import Final, Protocol, cast

from tenantproxy.errors import PoolTimeout, ProtocolError, TenantProxyError, TooManyClients
from tenantproxy.sidecar.pg.admission import address_of
from tenantproxy.sidecar.pg.users import Credential, Target
from tenantproxy.wire import answers
from tenantproxy.wire.client_auth import ClientAuth, Verdict
from tenantproxy.wire.frames import HEADER
from tenantproxy.wire.startup import (
    REFUSED,
    REQUEST_SIZE,
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

__all__ = ["LoginHost", "StartupConnection"]

logger = logging.getLogger("tenantproxy")

LOGIN_SECONDS: Final = 15.0
_MAX_BEHIND: Final = 65_536  # bytes that may come before the client is admitted


class LoginHost(Protocol):
    """What a startup connection asks of the listener."""

    def accepted(self, connection: StartupConnection) -> None:
        """A connection was accepted."""
        ...

    def refused(self, connection: StartupConnection, error: TenantProxyError) -> None:
        """An unauthenticated connection is told this, and closed."""
        ...

    def startup_ended(self, connection: StartupConnection) -> None:
        """Its startup is over: it is closed, or a client now."""
        ...

    def check_room(self, wish: SessionWish) -> None:
        """Raise TooManyClients where one more client cannot be admitted, of any tenant; a console is not asked."""
        ...

    def credential(self, user: bytes) -> Credential:
        """What this user has to prove."""
        ...

    async def authorise(self, wish: SessionWish, token: str | None) -> Target | TenantProxyError:
        """Where the user of `wish` may go; `token` where the password was one."""
        ...

    def cancel(self, pid: int, secret: bytes, done: Callable[[], None]) -> None:
        """Cancel what runs for the client with this key, if there is one; `done` when the server has done with that."""
        ...

    async def admit(self, connection: StartupConnection, target: Target, wish: SessionWish) -> None:
        """Greet, and let a relay or the console have the transport (`pass_on`). Raises TenantProxyError."""
        ...


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
        self._is_over = False
        self.address = ""  # what it counts as: see `admission.address_of`

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.address = address_of(transport.get_extra_info("peername"))
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = asyncio.get_running_loop().call_later(LOGIN_SECONDS, self.transport.abort, context=Context())
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
            first = read_first(self._buffer, answered=self._answered)
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
            else:
                del self._buffer[:REQUEST_SIZE]
                self._answered.append(first)
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

    def _challenge(self, startup: Startup) -> None:
        self._wish = wish = wanted(startup)
        self._host.check_room(wish)
        credential = self._host.credential(wish.user)
        self._auth = ClientAuth(credential.method, credential.verifier, user=wish.user)
        self.transport.write(negotiate(startup) + self._auth.challenge)

    def _proof(self, auth: ClientAuth, payload: bytes) -> None:
        step = auth.feed(payload)
        if step.verdict is Verdict.MORE:
            self.transport.write(step.send)
            return
        token = step.password if step.verdict is Verdict.PASSWORD else None
        if self._timer is not None:
            self._timer.cancel()  # from now on it is we who take time, and a client that waits in vain is told so
        coming = self._come_in(step.send, token)
        self._task = asyncio.get_running_loop().create_task(coming, context=Context())

    async def _come_in(self, proven: bytes, token: str | None) -> None:
        wish = self._wish
        assert wish is not None
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                target = await self._host.authorise(wish, token)
                if not isinstance(target, Target):
                    raise target
                self.transport.write(proven + answers.AUTHENTICATION_OK)
                await self._host.admit(self, target, wish)
        except TimeoutError:
            self.refuse(PoolTimeout("the login took too long", hint="see whether the tenant's server answers"))
        except TenantProxyError as exc:
            self.refuse(exc)
        except Exception:  # a boundary: the client must be told, and a registry may be third-party code
            logger.exception("a login failed")
            self.refuse(TenantProxyError("the login failed", hint="see the service's log"))

    def pass_on(self, protocol: asyncio.Protocol) -> None:
        """Let `protocol` have the transport, and what the client said behind its login."""
        rest = bytes(self._buffer)
        self.leave()
        self.transport.set_protocol(protocol)
        if rest:
            protocol.data_received(rest)

    # --- the end -----------------------------------------------------------------------------------------------------
    def refuse(self, error: TenantProxyError) -> None:
        """Say why, and close."""
        if not self._is_over:
            self._host.refused(self, error)
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
