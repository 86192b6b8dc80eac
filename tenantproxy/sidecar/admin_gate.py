"""Who may ask the admin listener? Clients with a token that may do it, in private, by a name of this listener's own.

No cookie is ever taken: what a web page of another site makes a browser send carries no token, and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tenantproxy.config import Admin, listen_address
from tenantproxy.errors import AccessDenied, TenantProxyError
from tenantproxy.events import AdminActedOn, AdminChangeAnswered, Observer, ignore
from tenantproxy.middleware.problems import GONE
from tenantproxy.sidecar.acted_on import Thing, told_of
from tenantproxy.sidecar.admin_roles import ANYONE, AdminCaller, Role, bearer_of, check_may_change, check_role, known_by
from tenantproxy.sidecar.admin_routes import INDEX, AdminRoute, route_for
from tenantproxy.sidecar.answers import REQUEST_ID
from tenantproxy.sidecar.http_protocol import HttpProtocol

__all__ = [
    "ACTED_ON",
    "AUDITED",
    "CALLER",
    "ForeignOrigin",
    "admin_gate",
    "audited",
    "check_own_origin",
    "own_pattern",
    "pattern_of",
]

CALLER: Final = web.RequestKey("tenantproxy_admin_caller", AdminCaller)
"""Who asks, for handlers."""

AUDITED: Final = web.RequestKey("tenantproxy_audited", bool)
"""Whether the change has been told already."""

ACTED_ON: Final = web.RequestKey("tenantproxy_acted_on", tuple[str, list[Thing]])
"""What the change acted upon, and whose that was where the path does not say so."""

_ORIGIN: Final = re.compile(r"[a-z0-9._\-]+(:[0-9]+)?|\[[0-9a-f:.]+\](:[0-9]+)?")
_SAYS_TLS: Final = re.compile(r"(?:^|[,;=\s\"])https(?:[,;\s\"]|$)", re.IGNORECASE)
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


class ForeignHost(TenantProxyError):
    """The request is addressed to another host: a browser was led here by another site's name (DNS rebinding)."""

    http_status, sqlstate, code = 421, "28000", "misdirected_request"


class ForeignOrigin(AccessDenied):
    """A web page of another origin asks."""

    code = "foreign_origin"


class TooManyReaders(TenantProxyError):
    """Those who may only look hold all the places that there are for them; the others have more."""

    http_status, sqlstate, code, retryable = 503, "53300", "too_many_readers", True


class TokenInClear(AccessDenied):
    """Another machine asks without TLS for what needs the token: it could be read on its way."""

    code = "token_in_clear"


def admin_gate(now: Callable[[], Admin], observer: Observer = ignore) -> Middleware:
    """Lets a request through to its handler when the table of routes and its token say so.

    Before any handler runs it refuses a foreign Host with 421, a web page of another origin with 403, a request without
    one of the tokens of `[admin]` with 401, and one whose token has too weak a role with 403. What needs the token is
    refused with 403 where others could read it, right or wrong (see `Admin.token_in_clear`). Each change that a known
    caller asks for is told to `observer` with its answer.
    `now`: `[admin]` as it is. Tokens are read at each request, so that a new one needs no restart.
    """

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        admin, pattern = now(), pattern_of(request)
        route = route_for(request.method, pattern, request.match_info)
        if route is not None and route.any_host:
            return await handler(request)
        names = _names(admin)
        _check_host(request, names)
        check_own_origin(request, admin.hosts)
        caller = request[CALLER] = _caller(request, admin, route)
        if caller.by or not admin.each_token:
            _check_place(request, caller)
        needed = _needed(pattern, route)
        if request.method in ("GET", "HEAD") or not pattern:
            check_role(caller, needed)
            return await handler(request)
        check_may_change(admin)
        return await audited(request, handler, pattern, caller, needed, observer)

    return gate


async def audited(
    request: web.Request, handler: Handler, pattern: str, caller: AdminCaller, needed: Role, observer: Observer
) -> web.StreamResponse:
    """The answer of `handler` to a change, if `caller` may ask for it; `observer` is told of either.

    Unless another process, which did it, was told: the handler sets AUDITED then.
    """
    code = GONE
    try:
        check_role(caller, needed)
        response = await handler(request)
        code = response.status
    except web.HTTPException as exc:
        code = exc.status
        raise
    except TenantProxyError as exc:
        code = exc.http_status
        raise
    except Exception:
        code = 500
        raise
    finally:
        if not request.get(AUDITED, False):
            for event in _acted_on(request, pattern, caller):
                observer(event)
            observer(_answered(request, pattern, caller, code))
    return response


def _check_place(request: web.Request, caller: AdminCaller) -> None:
    """Its connection is not among those any more that make room for others. Raises TooManyReaders."""
    is_reader = not caller.role.includes(Role.OPERATE)
    if isinstance(request.protocol, HttpProtocol) and not request.protocol.on_known(is_reader):
        raise TooManyReaders(
            "too many connections of those who may only look",
            hint="close some, or ask with a token of the role operate: there are places for it",
            retry_after=5.0,
        )


def _needed(pattern: str, route: AdminRoute | None) -> Role:
    """What no table knows is for the strongest role; what does not exist, for any."""
    if route is None:
        return Role.ADMIN if pattern else Role.READ
    return route.role or Role.READ


def _answered(request: web.Request, pattern: str, caller: AdminCaller, code: int) -> AdminChangeAnswered:
    found = request.match_info
    return AdminChangeAnswered(
        by=caller.by,
        change=_change(request, pattern),
        tenant=found.get("tenant", ""),
        user=found.get("user", ""),
        address=request.remote or "",
        status=code,
        request_id=request.get(REQUEST_ID, ""),
    )


def _acted_on(request: web.Request, pattern: str, caller: AdminCaller) -> Iterator[AdminActedOn]:
    """What the handler says that it did it to; also where the answer did not reach its client."""
    tenant, things = request.get(ACTED_ON, ("", []))
    return told_of(
        things, by=caller.by, change=_change(request, pattern), tenant=tenant or request.match_info.get("tenant", ""),
        user=request.match_info.get("user", ""), address=request.remote or "", request_id=request.get(REQUEST_ID, ""),
    )  # fmt: skip


def _change(request: web.Request, pattern: str) -> str:
    return f"{request.method} {pattern.replace('{verb}', request.match_info.get('verb', ''))}"


def _caller(request: web.Request, admin: Admin, route: AdminRoute | None) -> AdminCaller:
    if not admin.each_token:
        return ANYONE
    if route is not None and route.path == "/metrics" and admin.metrics_public:
        return ANYONE
    if not admin.token_in_clear:
        _check_private(request)
    if route is not None and route.role is None:
        return ANYONE
    return known_by(admin, bearer_of(request.headers.getall("Authorization", [])))


def _names(admin: Admin) -> set[str]:
    names = {name.lower() for name in admin.hosts} | _LOOPBACK
    if admin.listen:
        names.add(listen_address(admin.listen)[0].lower())
    return names


def pattern_of(request: web.Request) -> str:
    """The path of the route that answers, as `own_pattern` has it; empty when none does."""
    resource = request.match_info.route.resource
    return "" if resource is None else own_pattern(request.app, resource)


def own_pattern(app: web.Application, resource: web.AbstractResource) -> str:
    """As it was registered: where `app` is part of another one, without the path that it is at."""
    index = app.router.get(INDEX)
    return resource.canonical.removeprefix("" if index is None else index.canonical.removesuffix("/"))


def _check_host(request: web.Request, names: set[str]) -> None:
    given = request.headers.getall("Host", [])
    host = _name_of(given[0]) if len(given) == 1 else ""
    if host not in names and host != _own_address(request):
        raise ForeignHost(
            "the request is addressed to another host",
            detail="the Host header is none of loopback, the address of [admin] listen and [admin] hosts",
            hint='name it there if it is meant: hosts = ["tenantproxy.internal"]',
        )


def check_own_origin(request: web.Request, hosts: Iterable[str]) -> None:
    """A browser says whose page asks. It must be this listener's own, or be at one of `hosts`: else ForeignOrigin.

    A page that came in clear text is not that of the same name by TLS: anyone on its way could have written it. One by
    TLS may ask a listener without: a proxy that ends TLS is in front, and may not say so.
    """
    for given in request.headers.getall("Origin", []):
        scheme, origin = _origin_of(given)
        is_own = bool(origin) and origin == request.headers.get("Host", "").lower()
        is_known = is_own or _name_of(origin) in {name.lower() for name in hosts}
        if not is_known or (scheme == "http" and _was_asked_by_tls(request)) or not _is_same_origin(request):
            raise ForeignOrigin("a web page of another origin may not ask the admin listener")


def _origin_of(text: str) -> tuple[str, str]:
    """Scheme, and host with port, of an origin; empty for what is none (`null`)."""
    scheme, found, rest = text.lower().partition("://")
    return (scheme, rest) if found and scheme in ("http", "https") and _ORIGIN.fullmatch(rest) else ("", "")


def _was_asked_by_tls(request: web.Request) -> bool:
    """As far as is known: by the server, or by what any proxy says. Who lies with that is refused, no more."""
    headers = request.headers
    told = (*headers.getall("X-Forwarded-Proto", []), *headers.getall("Forwarded", []))
    return request.scheme == "https" or any(_SAYS_TLS.search(each) for each in told)


def _is_same_origin(request: web.Request) -> bool:
    """By a browser's own word, which it gives to who it reaches by TLS, whatever is between."""
    return all(each.strip().lower() == "same-origin" for each in request.headers.getall("Sec-Fetch-Site", []))


def _name_of(host: str) -> str:
    """`name:port` or `[v6]:port` without the port, in lower case; any port, for it may be forwarded."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()


def _own_address(request: web.Request) -> str | None:
    """The local address that the client connected to."""
    own = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(own[0]).lower() if isinstance(own, tuple) else None


def _check_private(request: web.Request) -> None:
    if not _is_private(request):
        raise TokenInClear(
            "the admin token is not taken in clear text from another machine",
            hint="give [admin] a certificate, ask from the machine itself (kubectl port-forward does), or say that a"
            " proxy on a trusted network ends TLS: [admin] token_in_clear = true",
        )


def _is_private(request: web.Request) -> bool:
    """Whether it came by TLS, or from this machine, as what `kubectl port-forward` brings does."""
    transport = request.transport
    peer = None if transport is None else transport.get_extra_info("peername")
    if transport is None or not isinstance(peer, tuple):
        return False
    if transport.get_extra_info("ssl_object") is not None:
        return True
    host = str(peer[0]).lower()
    return host == _own_address(request) or ip_address(host.partition("%")[0]).is_loopback
