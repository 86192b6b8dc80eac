"""Which Prometheus series does the PostgreSQL port have, in addition to those of every listener?

Read from one snapshot at each scrape; nothing is counted here. The tenant label is bounded by the code that counts
(`metrics.max_tenants`, the rest under `_other`). Waits, holds and resets are the router's own series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from prometheus_client.core import Metric

from tenantproxy.metrics.families import counter, counter_of, gauge

__all__ = [
    "HANDSHAKE_RESULTS",
    "LOGIN_RESULTS",
    "HandshakeResult",
    "LimitUsage",
    "LoginResult",
    "PgCollector",
    "PgStats",
]

LoginResult = Literal["ok", "refused", "not_served", "limited", "error"]
"""How a startup packet ended. `refused`: user, password or tenant (28P01, 3D000); `not_served`: a tenant that is paused
or suspended; `limited`: a limit of clients was met (53300); `error`: the protocol broken, a time-out, a registry or
server that was down."""

LOGIN_RESULTS: Final[tuple[LoginResult, ...]] = ("ok", "refused", "not_served", "limited", "error")

HandshakeResult = Literal["ok", "certificate", "version", "cipher", "not_tls", "closed", "timeout", "other"]
"""How a TLS handshake ended. `certificate`: a client's was not accepted, or the client did not accept that of the port;
`version`, `cipher`: none in common; `not_tls`: something else; `closed`: by the client; `timeout`: it stopped."""

HANDSHAKE_RESULTS: Final[tuple[HandshakeResult, ...]] = (
    "ok", "certificate", "version", "cipher", "not_tls", "closed", "timeout", "other",
)  # fmt: skip


class LimitUsage(NamedTuple):
    """A limit of `[pg]` by its key, now; 0: no limit. `refused`: how often it was met since the start.

    `used`: of a limit that many have, by the one that uses most of it, `holder`, which no metric names.
    """

    name: str
    limit: int
    used: int
    holder: str
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PgStats:
    """The port, now; counts since the start, which never go back. `waiting`: clients that wait for a backend.

    `is_compiled`: whether the compiled data path is used, which has `carried` so many transactions without Python.
    `pinned`: clients in transaction mode that keep theirs; `pins`: how often one began to for what it left there.
    `encrypted`: clients with TLS.
    """

    queries: Mapping[str, int]
    transactions: Mapping[str, int]
    logins: Mapping[LoginResult, int] = field(default_factory=dict)
    waiting: int = 0
    paused: int = 0
    pinned: int = 0
    pins: Mapping[str, int] = field(default_factory=dict)
    limits: Sequence[LimitUsage] = ()
    is_compiled: bool = False
    carried: int = 0
    encrypted: int = 0
    handshakes: Mapping[HandshakeResult, int] = field(default_factory=dict)


class PgCollector:
    """A collector for prometheus-client over a function that gives snapshots; None: there is no such port."""

    def __init__(self, stats: Callable[[], PgStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """All families of one snapshot."""
        now = self._stats()
        if now is None:
            return
        tenant = ("tenant",)
        queries = (((name,), count) for name, count in now.queries.items())
        transactions = (((name,), count) for name, count in now.transactions.items())
        logins = {(result,): count for result, count in now.logins.items()}
        yield counter_of("pg_queries", "Queries that clients of the PostgreSQL port got an answer to.", tenant, queries)
        yield counter_of("pg_transactions", "Transactions of those clients that ended.", tenant, transactions)
        yield counter("pg_logins", "Startup packets, by how they ended.", ("result",), logins, known=LOGIN_RESULTS)
        yield gauge("pg_waiting_clients", "Clients that wait for a backend.", (), {(): now.waiting})
        pins = (((name,), count) for name, count in now.pins.items())
        yield gauge("pg_pinned_clients", "Clients in transaction mode that keep their backend.", (), {(): now.pinned})
        yield counter_of("pg_pins", "Clients that began to, for what they left in its session.", tenant, pins)
        limit = ("limit",)
        limits = {(each.name,): each.limit for each in now.limits}
        used = {(each.name,): each.used for each in now.limits}
        met = {(each.name,): each.refused for each in now.limits}
        yield gauge("pg_limit", "Limits of [pg] by their keys; 0: no limit.", limit, limits)
        yield gauge("pg_limit_used", "Used of them, by the one that uses most of it.", limit, used)
        yield counter("pg_limit_refused", "How often a limit of [pg] was met.", limit, met)
        path = "compiled" if now.is_compiled else "python"
        yield gauge("pg_data_path", "Which data path the PostgreSQL port uses.", ("path",), {(path,): 1})
        carried = "Transactions that the compiled data path carried without Python."
        yield counter_of("pg_carried_transactions", carried, (), [((), now.carried)])
        yield gauge("pg_paused_tenants", "Tenants that the console paused.", (), {(): now.paused})
        shaken = {(result,): count for result, count in now.handshakes.items()}
        what = "TLS handshakes with clients, by how they ended."
        yield counter("pg_tls_handshakes", what, ("result",), shaken, known=HANDSHAKE_RESULTS)
        yield gauge("pg_tls_clients", "Clients that are connected with TLS.", (), {(): now.encrypted})
