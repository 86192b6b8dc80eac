"""Which Prometheus series does login have? Its results, how long it took, how far it searched; no names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from tenantproxy.auth.audit import AuditTable
from tenantproxy.auth.login import RESULTS, LoginCounts
from tenantproxy.metrics.families import Labels, counter, histogram
from tenantproxy.pools.base import HistogramSnapshot
from tenantproxy.pools.snapshot import snapshot

__all__ = ["LoginCollector"]


class LoginCollector:
    """A collector for prometheus-client over `router.login_counts`; before the first login all results are 0.

    `reuses`: how often a spent refresh token came again, each of them a session that was ended.
    """

    def __init__(
        self,
        counts: Callable[[], LoginCounts | None],
        reuses: Callable[[], int],
        audit: Callable[[], AuditTable | None] = lambda: None,
    ) -> None:
        self._counts = counts
        self._reuses = reuses
        self._audit = audit

    def collect(self) -> Iterator[Metric]:
        """The families of login, of this moment."""
        counts = self._counts() or LoginCounts()
        results: dict[Labels, float] = {(result,): count for result, count in counts.results.items()}
        yield counter("logins", "Attempts to log in, by how they ended.", ("result",), results, known=RESULTS)
        seconds: dict[Labels, HistogramSnapshot] = {
            (result,): snapshot(taken) for result, taken in counts.seconds.items() if sum(taken.counts)
        }
        yield histogram("login_seconds", "How long an attempt took, without padding.", ("result",), seconds)
        yield histogram(
            "login_databases_searched",
            "Databases and schemas that an attempt asked beyond the directory.",
            (),
            {(): snapshot(counts.searched)},
        )
        yield counter(
            "login_unusable_hashes",
            "Stored password hashes that no password can match, by format.",
            ("format",),
            {(kind,): count for kind, count in counts.unusable.items() if count},
        )
        text = "Spent refresh tokens that came again: one of two who had each is a thief."
        yield counter("refresh_token_reuses", text, (), {(): self._reuses()})
        if (audit := self._audit()) is not None:
            yield counter("audit_written", "Audit events in their table.", (), {(): audit.written})
            yield counter("audit_lost", "Audit events that never came there.", (), {(): audit.lost})
