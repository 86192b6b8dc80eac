"""What does the public listener serve? Login where it is configured, and what the embedding program mounts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from aiohttp import web

from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.sidecar.answers import MAX_BODY_BYTES, answering
from tenantproxy.sidecar.http_protocol import unmarked

__all__ = ["public_app"]


def public_app(
    requests: HttpRequests,
    routes: Iterable[web.AbstractRouteDef] = (),
    *,
    mismatch_text: Callable[[], str] = str,
    own_limits: Collection[str] = (),
) -> web.Application:
    """The application of the public listener with `routes`; the code that mounts a route also says who may call it.

    `own_limits`: see `answering`.
    """
    answers = answering(requests, mismatch_text=mismatch_text, own_limits=own_limits)
    app = web.Application(middlewares=[answers], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(unmarked)
    app.add_routes(list(routes))
    return app
