"""What passed through the PostgreSQL port? Plain counters, written by relays and read at scrape."""

from __future__ import annotations

__all__ = ["Traffic"]


class Traffic:
    """One tenant's: all its clients add to it, and it outlives them, so that no counter ever goes back."""

    __slots__ = ("queries", "received", "sent", "transactions")

    def __init__(self) -> None:
        self.received = 0  # bytes from clients
        self.sent = 0  # bytes to clients
        self.queries = 0  # answered with ReadyForQuery
        self.transactions = 0  # ended
