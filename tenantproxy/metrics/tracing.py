"""How does a lease or a statement become a span of OpenTelemetry? Made when it is over, with its times.

Only who makes a `Tracer` needs the extra `otel`; nothing else of the package imports it. State: the trace that was last
seen in each bucket of the histograms of waits and holds (`exemplars`).
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Mapping
from importlib.metadata import entry_points
from time import time, time_ns
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tenantproxy.config.version import VERSION
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.events import LATENCY_BUCKETS
from tenantproxy.watch import PARENT, LeaseOver, SeenTrace, StatementOver
from tenantproxy.wire.fingerprint import fingerprint
from tenantproxy.wire.traceparent import traceparent_in, traceparent_of

__all__ = ["Tracer", "export_spans"]

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_NANO: Final = 1_000_000_000


class Tracer:
    """A watch (see `watch.Watch`) that makes spans of `provider`, by default the global one.

    A span's parent is the current span, or what W3C's trace context of the request, or of the SQL comment, names.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("tenantproxy", VERSION, provider)
        self.exemplars: dict[tuple[str, str], dict[int, SeenTrace]] = {}
        """By ("wait" or "hold", isolation) and bucket."""

    def lease(self, lease: LeaseOver) -> None:
        """See `watch.Watch`: a span of the wait and the hold, and the trace as an exemplar of both."""
        end = time_ns()
        begin = end - int((lease.waited + lease.held) * _NANO)
        span = self._tracer.start_span(
            "tenantproxy lease", _parent(lease.parent), attributes=_place(lease), start_time=begin
        )
        if span.is_recording():
            span.set_attribute("tenantproxy.wait", lease.waited)
            span.set_attribute("tenantproxy.hold", lease.held)
            span.add_event("lent", timestamp=begin + int(lease.waited * _NANO))
        span.end(end)
        context = span.get_span_context()
        if context.trace_flags.sampled:
            seen = trace.format_trace_id(context.trace_id)
            for kind, seconds in (("wait", lease.waited), ("hold", lease.held)):
                buckets = self.exemplars.setdefault((kind, lease.isolation), {})
                buckets[bisect_left(LATENCY_BUCKETS, seconds)] = SeenTrace(seen, seconds, time())

    def seen(self, kind: str, isolation: str) -> Mapping[int, SeenTrace]:
        """The last trace of each bucket of the waits, or holds, of this isolation."""
        return self.exemplars.get((kind, isolation), {})

    def statement(self, statement: StatementOver) -> None:
        """See `watch.Watch`: a span with the fingerprint, never the text."""
        end = time_ns()
        told = fingerprint(statement.text)
        span = self._tracer.start_span(
            told.partition(" ")[0].upper()[:30] or "statement",
            _parent(statement.parent or traceparent_in(statement.text)),
            kind=SpanKind.CLIENT,
            attributes={**_place(statement), "db.query.text": told},
            start_time=end - int(statement.seconds * _NANO),
        )
        if statement.error:
            span.set_attribute("error.type", statement.error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)


def _place(over: LeaseOver | StatementOver) -> dict[str, str]:
    return {
        "db.system.name": "postgresql",
        "tenantproxy.tenant": over.tenant,
        "tenantproxy.pool": over.pool,
        "tenantproxy.server": over.server,
    }


def _parent(told: str) -> Context | None:
    """The context in which a span begins; None: the current one."""
    if trace.get_current_span().get_span_context().is_valid:
        return None
    parent = traceparent_of([told or PARENT.get()])
    return _PROPAGATOR.extract({"traceparent": parent}, Context()) if parent else None


def export_spans(environment: Mapping[str, str] = os.environ) -> Any:
    """The SDK's provider, which sends spans to where OTEL_TRACES_EXPORTER and the other variables say.

    Returns None where the process has a provider already (`opentelemetry-instrument` makes one). Raises
    ConfigurationError when the exporter that is named is not installed. `shutdown` of the provider sends what is left.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    asked = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    name = {"otlp": "otlp_proto_http"}.get(asked, asked)
    provider = TracerProvider(
        resource=Resource.create({"service.name": environment.get("OTEL_SERVICE_NAME", "tenantproxy")})
    )
    if name != "none":
        found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
        if found is None:
            raise ConfigurationError(
                [
                    Problem(
                        key="traces.enabled",
                        problem=f"the exporter of OTEL_TRACES_EXPORTER={asked} is not installed",
                        fix="install it (pip install opentelemetry-exporter-otlp-proto-http), or name another",
                    )
                ]
            )
        provider.add_span_processor(BatchSpanProcessor(found.load()()))
    trace.set_tracer_provider(provider)
    return provider
