"""How does a Django project become multi-tenant? Under ASGI, with raw SQL; its ORM does not go through tenantproxy."""

from __future__ import annotations

import os

import django
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

import tenantproxy
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.asgi import TenantMiddleware

NAMES = "SELECT name FROM projects ORDER BY name"


async def projects(request: HttpRequest) -> JsonResponse:
    """An async view."""
    rows = await tenantproxy.current().fetch(NAMES)
    return JsonResponse([row["name"] for row in rows], safe=False)


def projects_sync(request: HttpRequest) -> JsonResponse:
    """A sync view: Django runs it in a thread, and the query in the event loop of the server."""
    rows = async_to_sync(tenantproxy.current().fetch)(NAMES)
    return JsonResponse([row["name"] for row in rows], safe=False)


settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or os.urandom(32).hex(),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["tenantproxy.middleware.django.TenantErrors"],
)
django.setup()
urlpatterns = [path("projects", projects), path("projects/sync", projects_sync)]

router = tenantproxy.Router.from_file(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
app = TenantMiddleware(
    get_asgi_application(), router=router, tokens=Tokens(router.settings.auth, tenants=router.registry)
)
