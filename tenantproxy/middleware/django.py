"""How does Django answer our errors, and tell which route it took? Inside of `asgi.TenantMiddleware`.

MIDDLEWARE = ["tenantproxy.middleware.django.TenantErrors", ...]
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse

from tenantproxy.middleware.asgi import ANSWER, PATTERN
from tenantproxy.middleware.problems import OURS, answer_to, request_id

__all__ = ["TenantErrors"]


class TenantErrors:
    """Turns errors of tenantproxy that a view raises into problem+json: Django answers what its views raise itself.

    It also leaves the pattern that matched (`/projects/<int:id>`) where requests are counted, for sync and async views.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """The answer, or in async mode what gives it."""
        if self._is_async:
            return self._call(request)
        response = self.get_response(request)
        _leave_pattern(request)
        return response

    async def _call(self, request: HttpRequest) -> Any:
        # Not in a process_view, which costs each request a turn in Django's one thread.
        response = await self.get_response(request)
        _leave_pattern(request)
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """The answer to one of our errors."""
        if not isinstance(error, OURS):
            return None
        scope = _scope(request)
        asked: str = scope.get("state", {}).get("request_id") or request_id([request.headers.get("X-Request-ID") or ""])
        answer = scope.get(ANSWER, answer_to)(error, asked)
        headers = {name: value for name, value in answer.headers if name != "content-length"}
        return HttpResponse(answer.body, status=answer.status, headers=headers)


def _scope(request: HttpRequest) -> MutableMapping[str, Any]:
    """The ASGI scope of a request. WSGI has none, nor has Django's `test.Client`: an empty one."""
    scope: MutableMapping[str, Any] | None = getattr(request, "scope", None)
    return {} if scope is None else scope


def _leave_pattern(request: HttpRequest) -> None:
    if request.resolver_match is not None:
        _scope(request)[PATTERN] = f"/{request.resolver_match.route}"
