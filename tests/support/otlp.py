"""Which spans does a process export? A collector of OTLP over HTTP, with OpenTelemetry's own protobufs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

__all__ = ["CollectedSpan", "Collector", "a_collector"]


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """One span. Ids as W3C writes them; `parent` is empty without one."""

    name: str
    trace: str
    parent: str
    attributes: Mapping[str, object]
    has_failed: bool


class Collector:
    """What came so far: the spans, and all bytes of them."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[CollectedSpan] = []
        self.bytes = b""

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that exports here, a hundred milliseconds behind."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_SCHEDULE_DELAY": "100",
        }  # fmt: skip

    def of(self, trace: str) -> list[CollectedSpan]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace == trace]

    def take(self, body: bytes) -> None:
        """What an exporter posted."""
        asked = ExportTraceServiceRequest.FromString(body)
        self.bytes += body
        self.spans += [
            _collected(span)
            for resource in asked.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def _collected(span: Span) -> CollectedSpan:
    attributes = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    has_failed = span.status.code == Status.STATUS_CODE_ERROR
    return CollectedSpan(span.name, span.trace_id.hex(), span.parent_span_id.hex(), attributes, has_failed)


@contextmanager
def a_collector() -> Iterator[Collector]:
    """One that listens on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield collector
        finally:
            server.shutdown()
