"""Do leases and statements become spans with their times and parents, and nothing of their literals?"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tenantproxy.errors import ConfigurationError
from tenantproxy.events import LATENCY_BUCKETS
from tenantproxy.metrics.exposition import exposition, registry_of
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.metrics.tracing import Tracer, export_spans
from tenantproxy.model import Isolation
from tenantproxy.pools.base import HistogramSnapshot
from tenantproxy.watch import PARENT, LeaseOver, StatementOver
from tests.unit.metrics.test_prometheus import OPENMETRICS, STATS

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
LEASE = LeaseOver("primary", "acme", "acme", 0.02, 0.3, "row")


class Traces:
    def __init__(self, **options: object) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)  # type: ignore[arg-type]
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = Tracer(self.provider)

    @property
    def only(self) -> ReadableSpan:
        (span,) = self.exporter.get_finished_spans()
        return span


def statement(text: str, **kept: str) -> StatementOver:
    return StatementOver("primary", "acme", "acme", text, 0.25, **kept)


def parent_of(span: ReadableSpan) -> tuple[str, str]:
    assert span.parent is not None
    return trace.format_trace_id(span.parent.trace_id), trace.format_span_id(span.parent.span_id)


def test_a_lease_is_a_span_of_its_wait_and_its_hold() -> None:
    traces = Traces()
    traces.tracer.lease(LEASE)
    span = traces.only
    assert span.name == "tenantproxy lease"
    assert span.end_time is not None
    assert span.start_time is not None
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(0.32, abs=1e-6)
    assert dict(span.attributes or {}) == {
        "db.system.name": "postgresql",
        "tenantproxy.tenant": "acme",
        "tenantproxy.pool": "acme",
        "tenantproxy.server": "primary",
        "tenantproxy.wait": 0.02,
        "tenantproxy.hold": 0.3,
    }
    (lent,) = span.events
    assert (lent.timestamp - span.start_time) / 1e9 == pytest.approx(0.02, abs=1e-6)


def test_a_statement_is_a_span_with_its_fingerprint_and_error() -> None:
    traces = Traces()
    traces.tracer.statement(statement("select 's3cr3t' /* s3cr3t */", error="57014"))
    span = traces.only
    assert (span.name, span.kind, span.status.is_ok) == ("SELECT", trace.SpanKind.CLIENT, False)
    assert span.attributes is not None
    assert (span.attributes["db.query.text"], span.attributes["error.type"]) == ("select ?", "57014")
    assert "s3cr3t" not in span.to_json()


def test_a_comment_of_sqlcommenter_names_the_parent() -> None:
    traces = Traces()
    traces.tracer.statement(statement(f"SELECT 1 /*controller='a',traceparent='{TRACEPARENT}'*/"))
    assert parent_of(traces.only) == (TRACE, SPAN)


def test_the_current_span_comes_before_all_else() -> None:
    traces = Traces()
    with trace.use_span(traces.provider.get_tracer("app").start_span("request")) as request:
        traces.tracer.lease(LEASE._replace(parent=TRACEPARENT))
    lease, outer = (
        traces.exporter.get_finished_spans()
        if len(traces.exporter.get_finished_spans()) == 2
        else (traces.only, request)
    )
    assert parent_of(lease)[0] == trace.format_trace_id(request.get_span_context().trace_id)
    assert outer is not None


def test_the_request_that_is_answered_is_the_parent_where_no_span_is_current() -> None:
    traces = Traces()
    token = PARENT.set(TRACEPARENT)
    try:
        traces.tracer.lease(LEASE)
    finally:
        PARENT.reset(token)
    assert parent_of(traces.only) == (TRACE, SPAN)


@pytest.mark.parametrize("parent", ["", "00-zz", f"00-{'0' * 32}-{SPAN}-01", "x" * 10_000])
def test_a_parent_that_is_none_is_no_parent(parent: str) -> None:
    traces = Traces()
    traces.tracer.lease(LEASE._replace(parent=parent))
    assert traces.only.parent is None


def scraped(traces: Traces, accept: str) -> str:
    counts = tuple(1 for _ in range(len(LATENCY_BUCKETS) + 1))
    seconds = {Isolation.ROW: HistogramSnapshot(bounds=LATENCY_BUCKETS, counts=counts, total=9.0)}
    stats = replace(STATS, acquire_wait=seconds, hold=seconds)
    collector = RouterCollector(lambda: stats, version="1", seen=traces.tracer.seen)
    return exposition(registry_of(collector), accept)[0].decode()


def test_a_trace_is_an_exemplar_in_the_bucket_of_its_wait_and_hold() -> None:
    traces = Traces()
    traces.tracer.lease(LEASE._replace(parent=TRACEPARENT))
    lines = [line for line in scraped(traces, OPENMETRICS).splitlines() if "trace_id" in line]
    assert [(line.split(" # ")[0], TRACE in line) for line in lines] == [
        ('tenantproxy_pool_acquire_wait_seconds_bucket{isolation="row",le="0.025"} 6.0', True),
        ('tenantproxy_pool_hold_seconds_bucket{isolation="row",le="0.5"} 10.0', True),
    ]
    assert "trace_id" not in scraped(traces, "")


def test_a_trace_that_is_not_kept_is_no_exemplar() -> None:
    traces = Traces(sampler=ALWAYS_OFF)
    traces.tracer.lease(LEASE)
    assert "trace_id" not in scraped(traces, OPENMETRICS)


def test_an_exporter_that_is_not_installed_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER=carrier-pigeon"):
        export_spans({"OTEL_TRACES_EXPORTER": "carrier-pigeon"})


def test_nothing_of_opentelemetry_is_imported_where_traces_are_off() -> None:
    code = "import sys, tenantproxy.cli.process; print(any('opentelemetry' in name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
