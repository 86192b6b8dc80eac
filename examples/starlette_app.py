"""How does a Starlette application become multi-tenant?"""

from __future__ import annotations

import logging
import os

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import tenantproxy
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.middleware.logs import TenantFilter

handler = logging.StreamHandler()
handler.addFilter(TenantFilter())
logging.basicConfig(format="%(levelname)s %(tenant)s %(message)s", level=logging.INFO, handlers=[handler])
logger = logging.getLogger("examples")


async def projects(request: Request) -> JSONResponse:
    """The tenant's projects; what runs after the answer is the tenant's too."""
    rows = await tenantproxy.current().fetch("SELECT name FROM projects ORDER BY name")
    return JSONResponse([row["name"] for row in rows], background=BackgroundTask(counted, len(rows)))


async def counted(projects: int) -> None:
    """Logs with the tenant of the request."""
    logger.info("%d projects were read", projects)


router = tenantproxy.Router.from_file(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
app = Starlette(routes=[Route("/projects", projects)])
app.add_middleware(TenantMiddleware, router=router, tokens=Tokens(router.settings.auth, tenants=router.registry))
