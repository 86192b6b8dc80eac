"""What passed through the PostgreSQL port? Plain counters, written by relays and read at scrape."""

from __future__ import annotations

__all__ = ["Traffic"]


class Traffic:
    """One tenant's: all its clients add to it, and it outlives them, so that no counter ever goes back."""

    __slots__ = (
        "leases",
        "logins",
        "pins",
        "queries",
        "query_seconds",
        "received",
        "sent",
        "transaction_seconds",
        "transactions",
        "wait_seconds",
    )

    def __init__(self) -> None:
        self.logins = 0  # clients that were let in
        self.received = 0  # bytes from clients
        self.sent = 0  # bytes to clients
        self.queries = 0  # answered with ReadyForQuery
        self.query_seconds = 0.0  # from the first message to that
        self.transactions = 0  # ended
        self.transaction_seconds = 0.0  # that their backends were held
        self.leases = 0  # of backends
        self.pins = 0  # how often a client began to keep its backend for what it had left there
        self.wait_seconds = 0.0  # for them
