"""What is known of a request, and who may say whose it is? Values and protocols only: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tenantproxy.model import TenantId

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

__all__ = ["AnyConnection", "AuthDatabase", "Identity", "RequestContext", "Resolver", "TokenVerifier"]

AnyConnection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What a listener or a middleware knows of a request; the same for HTTP and websockets.

    `path` is percent-decoded and without the query. `host` has no port and is in lower case. `headers` have lower-case
    names and values as latin-1 text, in order, duplicates kept. `client_ip` is what trusted proxies say in
    `X-Forwarded-For`, else the peer; `is_trusted_proxy`: the peer itself is one of `[http] trusted_proxies`.
    `claims` are the verified access token's; None: no token came.
    """

    method: str
    path: str
    host: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)  # cookies and tokens are among them
    client_ip: str | None
    is_trusted_proxy: bool = False
    claims: Mapping[str, object] | None = field(default=None, repr=False)

    def header_values(self, name: str) -> tuple[str, ...]:
        """The values of every header of that name (in any case), in order."""
        wanted = name.lower()
        return tuple(value for key, value in self.headers if key == wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks, for which tenant: the outcome of authorisation. `user` is the token's subject; None: no token came."""

    tenant: TenantId
    user: str | None
    claims: Mapping[str, object] = field(repr=False)


class Resolver(Protocol):
    """One source that names the tenant of a request. Pure: it decides from the request alone."""

    def resolve(self, request: RequestContext) -> str | None:
        """The tenant that this source names, unchecked; None: it names none.

        Raises TenantUnresolved (400) for a source that is malformed or given twice, AccessDenied (403) where sources
        disagree.
        """
        ...


class TokenVerifier(Protocol):
    """Says whether an access token is good; `tokens.Tokens` is one."""

    async def verify(self, token: str) -> Mapping[str, object]:
        """The claims of a good token; may answer from a cache.

        Raises TokenExpired or another AuthError; strangers cannot learn from it which check failed.
        """
        ...


class AuthDatabase(Protocol):
    """The main database, as login and revocation need it; the router's main scope is one."""

    async def fetch(self, sql: str, /, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """The rows of one statement."""
        ...

    def connection(self) -> AbstractAsyncContextManager[AnyConnection]:
        """One connection for the length of the block."""
        ...
