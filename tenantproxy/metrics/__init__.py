"""Who hears of what happened? Prometheus and the log: the only readers of events and counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenantproxy.metrics.app import aiohttp_handler, asgi_app

__all__ = ["aiohttp_handler", "asgi_app"]


def __getattr__(name: str) -> Any:
    """Only who asks for them needs prometheus-client."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tenantproxy.metrics import app

    return getattr(app, name)
