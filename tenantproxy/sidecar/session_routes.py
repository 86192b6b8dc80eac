"""How does an operator see and end the sessions of a person? Under the tenant and the user that they are of."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from aiohttp import web

from tenantproxy.auth.user_sessions import UserSession
from tenantproxy.errors import ConfigurationError, TenantNotFound, TenantProxyError
from tenantproxy.router import Router
from tenantproxy.sidecar.acted_on import session_thing
from tenantproxy.sidecar.admin_gate import ACTED_ON
from tenantproxy.sidecar.bodies import is_text

__all__ = ["session_routes"]

_USER: Final = "/v1/tenants/{tenant}/users/{user}/sessions"
_MAX_USER: Final = 1024  # bytes: of what a session can be
T = TypeVar("T")


class SessionsNotKept(TenantProxyError):
    """The main database keeps no sessions, or not so that they can be listed."""

    http_status, sqlstate, code = 409, "55000", "sessions_not_kept"


class SessionNotFound(TenantProxyError):
    """The tenant cannot be, or the user has no such session."""

    http_status, sqlstate, code = 404, "42704", "session_not_found"


def session_routes(router: Router) -> list[web.RouteDef]:
    """The routes of the admin listener; its gate looks at roles, and tells of each change."""

    async def listed(request: web.Request) -> web.Response:
        tenant, user = _whose(request)
        found = await _told(router.sessions(tenant, user))
        return web.json_response({"sessions": [_shown(each) for each in found]})

    async def ended(request: web.Request) -> web.Response:
        tenant, user = _whose(request)
        session = request.match_info.get("session")
        found = await _told(router.sessions(tenant, user))  # says what is not installed
        count = await _told(router.end_sessions(tenant, user, session=session))
        if count:
            request[ACTED_ON] = ("", [session_thing(each) for each in found if session in (None, each.id)])
        if not count and session is not None:
            raise SessionNotFound("the user has no such session")
        return web.json_response({"ended": count})

    return [
        web.get(_USER, listed),
        web.delete(_USER, ended),
        web.delete(_USER + "/{session}", ended),
    ]


def _whose(request: web.Request) -> tuple[str, str]:
    tenant, user = request.match_info["tenant"], request.match_info["user"]
    if not is_text(user) or len(user.encode()) > _MAX_USER:
        raise SessionNotFound("no user can have this identifier")
    if not is_text(request.match_info.get("session", "")):
        raise SessionNotFound("no session can have this identifier")
    return tenant, user


def _shown(session: UserSession) -> dict[str, Any]:
    return {
        "id": session.id,
        "last_used": session.last_used.isoformat(),
        "idle_until": session.idle_until.isoformat(),
        "expires_at": session.expires_at.isoformat(),
    }


async def _told(work: Awaitable[T]) -> T:
    try:
        return await work
    except TenantNotFound as exc:
        raise SessionNotFound(exc.message, detail=exc.detail, hint=exc.hint) from exc
    except ConfigurationError as exc:
        raise SessionsNotKept("the main database keeps no sessions that can be listed", detail=exc.message) from exc
