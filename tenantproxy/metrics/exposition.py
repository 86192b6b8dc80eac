"""How are families written for Prometheus? As its text format or as OpenMetrics, at once or in slices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from tenantproxy.metrics.families import Family
from tenantproxy.slices import Slices

__all__ = ["exposition", "exposition_in_slices", "registry_of"]

_SAMPLES_A_STEP: Final = 20
_EOF: Final = b"# EOF\n"
_OPENMETRICS: Final = "application/openmetrics-text"
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """A registry of its own: what other libraries register globally is not ours to show."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The body and its content type: OpenMetrics when `accept`, the request's header, asks for it, else plain text."""
    modern = _is_openmetrics(accept)
    return _generate(registry, modern=modern), openmetrics.CONTENT_TYPE_LATEST if modern else _TEXT


async def exposition_in_slices(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The same without holding the event loop; each family is of one moment."""
    modern, slices = _is_openmetrics(accept), Slices()
    parts: list[bytes] = []
    for family in registry.collect():
        await slices.pause()  # to collect is a step too
        for part in _in_steps(family, modern=modern):
            parts.append(part)
            await slices.pause()
    if modern:
        parts.append(_EOF)
    return b"".join(parts), openmetrics.CONTENT_TYPE_LATEST if modern else _TEXT


def _in_steps(family: Metric, *, modern: bool) -> Iterator[bytes]:
    """The text of a family, some samples in a step. What prometheus-client takes 15 µs for, `Family` does in one."""
    yield _text(family, (), modern=modern)
    if isinstance(family, Family):
        for lines in family.lines():
            yield lines.encode()
        return
    for first in range(0, len(family.samples), _SAMPLES_A_STEP):
        text = _text(family, family.samples[first : first + _SAMPLES_A_STEP], modern=modern)
        while text.startswith(b"# "):
            text = text.partition(b"\n")[2]
        yield text


def _text(family: Metric, samples: Iterable[Sample], *, modern: bool) -> bytes:
    """The head of a family and some of its samples."""
    part = Metric(family.name, family.documentation, family.type, family.unit)
    part.samples = list(samples)
    return _generate(_One(part), modern=modern).removesuffix(_EOF)


class _One:
    """Something to collect a single family from."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _generate(registry: Any, *, modern: bool) -> bytes:
    if not modern:
        return generate_latest(registry)
    body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return body


def _is_openmetrics(accept: str) -> bool:
    # Not prometheus_client's choose_encoder: it raises on versions that it cannot parse, and any client may send those.
    wanted = _quality(accept, _OPENMETRICS)
    return wanted > 0 and wanted >= _quality(accept, "text/plain")


def _quality(accept: str, wanted: str) -> float:
    """How much a media type is wanted (RFC 9110 12.5.1), from 0 to 1; what cannot be read counts as not wanted."""
    best = 0.0
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        if kind != wanted:
            continue
        given = [part[2:].strip() for part in parameters if part.startswith("q=")]
        try:
            best = max(best, float(given[0]) if given else 1.0)
        except ValueError:
            continue
    return best
