"""How does a Django project become multi-tenant? Under ASGI, with raw SQL; its ORM does not go through tenantproxy."""

from __future__ import annotations

import os
from typing import Any

import django
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

import tenantproxy
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.middleware.problems import OURS, answer_to

NAMES = "SELECT name FROM projects ORDER BY name"


class Problems:
    """Django answers errors of its views itself: so that ours look like those of the middleware around it."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Nothing of its own, in either mode."""
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """The answer to one of our errors."""
        if not isinstance(error, OURS):
            return None
        answer = answer_to(error, request.scope["state"]["request_id"])
        headers = {name: value for name, value in answer.headers if name != "content-length"}
        return HttpResponse(answer.body, status=answer.status, headers=headers)


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
    MIDDLEWARE=[f"{__name__}.Problems"],
)
django.setup()
urlpatterns = [path("projects", projects), path("projects/sync", projects_sync)]

router = tenantproxy.Router.from_file(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
app = TenantMiddleware(
    get_asgi_application(), router=router, tokens=Tokens(router.settings.auth, tenants=router.registry)
)
