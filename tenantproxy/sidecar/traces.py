"""Does this process make spans? With `[traces] enabled` alone is anything of OpenTelemetry imported."""

from __future__ import annotations

from dataclasses import dataclass

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.metrics.prometheus import Seen, no_traces
from tenantproxy.watch import Watch

__all__ = ["ProcessTraces"]


@dataclass(frozen=True, slots=True)
class ProcessTraces:
    """What a router is watched by, and what its metrics show of that; nothing where traces are off."""

    watch: Watch | None = None
    seen: Seen = no_traces

    @classmethod
    def configured(cls, settings: Settings) -> ProcessTraces:
        """Begins to export. Raises ConfigurationError when the extra, or the exporter that is asked for, is missing."""
        if not settings.traces.enabled:
            return cls()
        try:
            from tenantproxy.metrics.tracing import Tracer, export_spans
        except ModuleNotFoundError as exc:
            if not (exc.name or "").startswith("opentelemetry"):
                raise
            problem = Problem(
                key="traces.enabled", problem="OpenTelemetry is not installed", fix='pip install "tenantproxy[otel]"'
            )
            raise ConfigurationError([problem]) from None
        export_spans()
        tracer = Tracer()
        return cls(tracer, tracer.seen)
