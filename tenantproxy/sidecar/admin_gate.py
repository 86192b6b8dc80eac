"""Who may ask the admin listener? Clients with the token, by a name that is this listener's own."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tenantproxy.config import Admin, listen_address
from tenantproxy.errors import InvalidCredentials, TenantProxyError

__all__ = ["MIN_TOKEN_BYTES", "admin_gate"]

MIN_TOKEN_BYTES: Final = 16
_HEALTH: Final = frozenset(("/livez", "/readyz"))  # for probes, which send any Host, and no token
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


class ForeignHost(TenantProxyError):
    """The request is addressed to another host: a browser was led here by another site's name (DNS rebinding)."""

    http_status, sqlstate, code = 421, "28000", "misdirected_request"


def admin_gate(now: Callable[[], Admin]) -> Middleware:
    """Refuses a foreign Host with 421, and a request without the token of `[admin]` with 401, before any handler runs.

    `now`: `[admin]` as it is. The token is read at each request, so that a new one needs no restart; while it cannot be
    read, all are refused.
    """

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        path, admin = _path_of(request), now()
        if path not in _HEALTH:
            _check_host(request, _names(admin))
            if admin.token is not None and not (path == "/metrics" and admin.metrics_public):
                _check_token(request, admin.token.read_bytes())
        return await handler(request)

    return gate


def _names(admin: Admin) -> set[str]:
    names = {name.lower() for name in admin.hosts} | _LOOPBACK
    if admin.listen:
        names.add(listen_address(admin.listen)[0].lower())
    return names


def _path_of(request: web.Request) -> str:
    """The path of the route that answers, as it was registered; empty when none does."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def _check_host(request: web.Request, names: set[str]) -> None:
    given = request.headers.getall("Host", [])
    host = _name_of(given[0]) if len(given) == 1 else ""
    if host not in names and host != _own_address(request):
        raise ForeignHost(
            "the request is addressed to another host",
            detail="the Host header is none of loopback, the address of [admin] listen and [admin] hosts",
            hint='name it there if it is meant: hosts = ["tenantproxy.internal"]',
        )


def _name_of(host: str) -> str:
    """`name:port` or `[v6]:port` without the port, in lower case; any port, for it may be forwarded."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()


def _own_address(request: web.Request) -> str | None:
    """The local address that the client connected to."""
    own = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(own[0]).lower() if isinstance(own, tuple) else None


def _check_token(request: web.Request, token: bytes) -> None:
    given = request.headers.getall("Authorization", [])
    scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    is_right = hmac.compare_digest(secret.strip().encode("utf-8", "surrogateescape"), token)
    if scheme.lower() != "bearer" or len(token) < MIN_TOKEN_BYTES or not is_right:
        raise InvalidCredentials(
            "the admin token is missing or wrong", hint="send the one of [admin] token_file: Authorization: Bearer ..."
        )
