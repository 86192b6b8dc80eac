"""How do live counters become values? Copies, so that a reader sees one moment."""

from __future__ import annotations

from tenantproxy.events import Histogram
from tenantproxy.pools.base import HistogramSnapshot

__all__ = ["snapshot"]


def snapshot(histogram: Histogram) -> HistogramSnapshot:
    """`histogram` as it is now."""
    return HistogramSnapshot(bounds=histogram.bounds, counts=tuple(histogram.counts), total=histogram.total)
