"""How does a Litestar application become multi-tenant?"""

from __future__ import annotations

import os
from typing import Any

from litestar import Litestar, Request, Response, get

import tenantproxy
from tenantproxy import Router, TenantProxyError
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.asgi import TenantMiddleware, answer_to


@get("/projects")
async def projects() -> list[str]:
    """The tenant's projects."""
    rows = await tenantproxy.current().fetch("SELECT name FROM projects ORDER BY name")
    return [row["name"] for row in rows]


def problem(request: Request[Any, Any, Any], error: TenantProxyError) -> Response[bytes]:
    """Litestar answers errors of its handlers itself: so that ours look like those of the middleware."""
    answer = answer_to(request.scope, error)
    return Response(answer.body, status_code=answer.status, headers=dict(answer.headers))


router = Router.from_file(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
app = TenantMiddleware(
    Litestar([projects], exception_handlers={TenantProxyError: problem}),
    router=router,
    tokens=Tokens(router.settings.auth, tenants=router.registry),
)
