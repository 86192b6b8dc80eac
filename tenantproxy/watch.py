"""What is told of every lease and statement, to those who look at each: lines on slow ones, and traces.

Where none looks, nothing is made of this: one comparison for a lease is what that costs.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, NamedTuple, Protocol

__all__ = ["PARENT", "LeaseOver", "SeenTrace", "StatementOver", "Watch"]

PARENT: Final[ContextVar[str]] = ContextVar("tenantproxy_traceparent", default="")
"""W3C's traceparent of the HTTP request that is being answered. Set by the middlewares, where leases are looked at."""


class LeaseOver(NamedTuple):
    """A lease has ended: `waited` seconds for it, `held` seconds. `parent`: W3C's traceparent, where one was told.

    `request`: the id of the request that it was for; empty: that of the context, if there is one.
    """

    server: str
    pool: str
    tenant: str
    waited: float
    held: float
    isolation: str
    parent: str = ""
    request: str = ""


class StatementOver(NamedTuple):
    """A statement was answered after `seconds`. `text` is as its client sent it: no one but a fingerprint may see it.

    `error`: SQLSTATE or the name of an exception; empty: there was none. `request` as in LeaseOver.
    """

    server: str
    pool: str
    tenant: str
    text: str
    seconds: float
    error: str = ""
    parent: str = ""
    request: str = ""


class SeenTrace(NamedTuple):
    """A trace in which a value was seen, `seconds` long; `at`: unix time."""

    trace_id: str
    seconds: float
    at: float


class Watch(Protocol):
    """Called in the event loop, at once, in the context of who had the lease; must not block or raise."""

    def lease(self, lease: LeaseOver) -> None:
        """See LeaseOver."""
        ...

    def statement(self, statement: StatementOver) -> None:
        """See StatementOver."""
        ...
