"""What does a connection that has not logged in ask of the listener?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tenantproxy.errors import TenantProxyError
from tenantproxy.sidecar.pg.encryption import Channel, Encryption
from tenantproxy.sidecar.pg.users import Credential, Target
from tenantproxy.wire.client_auth import ClientAuth
from tenantproxy.wire.startup import SessionWish

if TYPE_CHECKING:
    from tenantproxy.sidecar.pg.login import StartupConnection

__all__ = ["LoginHost"]


class LoginHost(Protocol):
    """What a startup connection asks of the listener."""

    @property
    def encryption(self) -> Encryption:
        """Begins TLS."""
        ...

    def accepted(self, connection: StartupConnection) -> None:
        """A connection was accepted."""
        ...

    def refused(self, connection: StartupConnection, error: TenantProxyError) -> None:
        """An unauthenticated connection is told this, and closed."""
        ...

    def startup_ended(self, connection: StartupConnection) -> None:
        """Its startup is over: it is closed, or a client now."""
        ...

    def handshake_failed(self, connection: StartupConnection, why: str) -> None:
        """TLS did not come about; the connection closes."""
        ...

    def check_room(self, wish: SessionWish) -> None:
        """Raise TooManyClients where one more client cannot be admitted, of any tenant; a console is not asked."""
        ...

    def check_channel(self, channel: Channel) -> None:
        """Raise AuthError where a login is not taken on it."""
        ...

    def named_by(self, server_name: str) -> tuple[bytes, ...]:
        """The tenant that the name of the server names, if it does."""
        ...

    def credential(self, user: bytes, channel: Channel) -> Credential:
        """What this user has to prove."""
        ...

    async def check_password(self, auth: ClientAuth, password: str) -> None:
        """Raise InvalidCredentials where its verifier was made of another one, TooManyAttempts where too many wait."""
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
