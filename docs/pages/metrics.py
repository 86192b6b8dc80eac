"""The page of the metrics: every family that the collectors yield, asked for with nothing in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from tenantproxy.metrics.fleet import FleetCollector
from tenantproxy.metrics.listeners import ProcessCollector
from tenantproxy.metrics.logins import LoginCollector
from tenantproxy.metrics.pg import PgCollector
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.sidecar.workers.metrics import WorkerCollector

__all__ = ["families", "page"]

_HEAD: Final = """# Metrics

Every family of `/metrics` on the admin listener (`[admin] listen`); an application that uses the library shows the
first group with `tenantproxy.metrics.asgi_app(router)`. Rules for alerts: `tenantproxy metrics rules`; a dashboard:
`tenantproxy metrics dashboard`.
Labels `tenant` and `pool` have at most `[metrics] max_tenants` values, the rest is under `_other`.
"""


class Nothing:
    """A snapshot without anything in it: any attribute, call and item of it is the same, and as a number it is 0."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def __int__(self) -> int:
        return 0

    __float__ = __index__ = __int__

    def __or__(self, other: Any) -> Any:
        return other


def families() -> dict[str, list[Any]]:
    """The families by what they are about."""
    nothing: Any = Nothing()
    collectors: dict[str, Any] = {
        "The router: pools, servers, sessions, tenants": RouterCollector(nothing, version="", tenants=nothing),
        "Logins": LoginCollector(lambda: None, nothing, nothing),
        "The sidecar's process and HTTP": ProcessCollector(nothing, nothing),
        "The PostgreSQL port": PgCollector(nothing),
        "Many processes": FleetCollector(nothing),
        "Workers": WorkerCollector(nothing, nothing),
    }
    return {about: list(collector.collect()) for about, collector in collectors.items()}


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_group(about, found) for about, found in families().items())


def _group(about: str, found: Iterable[Any]) -> str:
    rows = "".join(f"| `{_name(each)}` | {each.type} | {_labels(each)} | {each.documentation} |\n" for each in found)
    return f"\n## {about}\n\n| series | type | labels | what |\n|---|---|---|---|\n{rows}"


def _name(family: Any) -> str:
    name: str = family.name
    return {"counter": f"{name}_total", "histogram": f"{name}_bucket, _sum, _count"}.get(family.type, name)


def _labels(family: Any) -> str:
    labels: Iterable[str] = getattr(family, "_labels", None) or getattr(family, "_labelnames", ()) or ()
    return ", ".join(f"`{label}`" for label in labels)
