"""What happened? Rare things are events; frequent things are counters, kept where they happen and read at scrape."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "LATENCY_BUCKETS",
    "AdminAccess",
    "AdminActedOn",
    "AdminChangeAnswered",
    "BackendLingers",
    "CloseReason",
    "ConnectFailure",
    "ConnectionClosed",
    "ConnectionOpened",
    "Event",
    "EvictReason",
    "ExhaustCause",
    "Exhausted",
    "FleetAlone",
    "FleetFenced",
    "FleetJoined",
    "FleetSkipped",
    "FleetUncounted",
    "FunctionsNotVerified",
    "Histogram",
    "HostRefused",
    "IsolationViolation",
    "KeysFetchFailed",
    "LeaseEnded",
    "LimitLowered",
    "LoggedOut",
    "LoginFailed",
    "LoginFollowFailed",
    "LoginFollowing",
    "LoginLocked",
    "LoginSearchFailed",
    "LoginSucceeded",
    "LookFailed",
    "Observer",
    "Observers",
    "OpenReason",
    "OperationEnded",
    "PasswordHashUnusable",
    "PoolEvicted",
    "PoolOpened",
    "PortHandshakeFailed",
    "PortLoginRefused",
    "RefreshTokenReused",
    "RegistryCacheDown",
    "RegistryCacheRefused",
    "RegistryCacheUp",
    "RegistryDegraded",
    "RegistryRecovered",
    "ResetFailed",
    "RightsGiven",
    "ServerDown",
    "ServerMovedTo",
    "ServerUp",
    "ServiceCommanded",
    "SessionEnded",
    "SlowLease",
    "SlowStatement",
    "TenantChangeAsked",
    "TenantUnusable",
    "UntrustedForwardedFor",
    "ignore",
    "tolerant",
]

_log = logging.getLogger(__name__)

CloseReason = Literal[
    "idle", "lifetime", "evicted", "max_hold", "fenced", "failover", "reset_failed", "error", "shutdown"
]
OpenReason = Literal["cold", "reopen"]
EvictReason = Literal["lru", "idle", "removed", "failed"]
ExhaustCause = Literal["tenant_limit", "server_budget", "queue_full", "connect", "registry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOpened(Event):
    """A connection is open, checked and ready; `seconds` is how long that took."""

    server: str
    pool: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosed(Event):
    """A connection was closed by us or found dead."""

    server: str
    pool: str
    reason: CloseReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectFailure(Event):
    """A connection could not be opened; `error` is its class and SQLSTATE, never its text."""

    server: str
    pool: str
    error: str
    retry_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDown(Event):
    """The breaker of a server opened: until it answers again, callers fail at once."""

    server: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUp(Event):
    """The server answers again."""

    server: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMovedTo(Event):
    """Another of a server's `hosts` serves now: a failover, or the first one that was found ("" as `former`)."""

    server: str
    host: str
    former: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRefused(Event):
    """A host must not serve although it answers; told when that begins.

    `reason`: it is of another cluster (`another_cluster`), was the primary before a failover (`former_primary`), or
    is one of two primaries of which neither is the other's successor (`split_brain`).
    """

    server: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOpened(Event):
    """A pool came to be: `cold` for the first time, `reopen` after an eviction."""

    pool: str
    reason: OpenReason


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEvicted(Event):
    """A pool is gone, with its connections."""

    pool: str
    reason: EvictReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted(Event):
    """A caller got no connection. `limit` is the value of the limit that was met, `waiting` how many wait behind it."""

    cause: ExhaustCause
    tenant: str
    pool: str
    limit: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetFailed(Event):
    """A session could not be reset, so its connection was destroyed; `error` is a class and SQLSTATE."""

    server: str
    pool: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationViolation(Event):
    """A check of isolation failed: `check` names it. Something tried, or something is misconfigured."""

    check: str
    server: str
    database: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionsNotVerified(Event):
    """The role of tenants may call SECURITY DEFINER functions, whose code is not looked into; told once a pool."""

    server: str
    database: str
    functions: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RightsGiven(Event):
    """The tenant whose role is `giver` lets `role`, as whom other tenants' SQL runs, use `relations` of its own.

    They are served, as it would stop them else. Told when it is first seen, and when it changes.
    """

    server: str
    database: str
    role: str
    giver: str
    relations: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLowered(Event):
    """PostgreSQL allows fewer connections than configured, so `limit` holds. `pool` is "" for the whole server.

    `by` says whose limit it is: "max_connections" (less those reserved for others), "role" or "database".
    """

    server: str
    pool: str
    configured: int
    limit: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAlone(Event):
    """The main database could not be asked for a fleet, so this process uses `1/size` of each server's budget.

    `size` is TENANTPROXY_FLEET_SIZE; `assumed`: it is not set, and 1 was assumed.
    """

    error: str
    size: int
    assumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFenced(Event):
    """This process has not reached the main database of its fleet for a third of the ttl: it keeps `floor`."""

    fleet: str
    error: str
    floor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetUncounted(Event):
    """A census of a server is due and cannot be taken: what dead processes had there stays reserved. Told once."""

    server: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetJoined(Event):
    """This process shares the budgets of its servers with a fleet, for the first time or again after `FleetFenced`."""

    fleet: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSkipped(Event):
    """The main database keeps a fleet's budget, and this process has no key to take part in it."""

    fleet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEnded(Event):
    """A lease was ended by us, after `seconds`: it was older than `max_hold` while others waited, or fenced."""

    server: str
    pool: str
    tenant: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowLease(Event):
    """A caller waited for its connection, or held it, for longer than `[log] slow_lease`; both in seconds.

    `untold`: slow ones since the last that was told, which were not, because there were too many in a second.
    `request_id`: of whom it was for; empty: that of the context.
    """

    server: str
    pool: str
    tenant: str
    waited: float
    held: float
    untold: int
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStatement(Event):
    """A statement was answered later than `[log] slow_statement`. `statement` has neither its literals nor comments.

    `error` is an SQLSTATE or the name of an exception, empty without one; `untold`, `request_id` as in SlowLease.
    """

    server: str
    pool: str
    tenant: str
    seconds: float
    statement: str
    error: str
    untold: int
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendLingers(Event):
    """A connection was closed and its backend did not end: its permit stays taken until the server says it is gone.

    `tenant` used it last and is charged for it ("" where none did); `pid` is 0 where the server had not told it yet.
    """

    server: str
    pool: str
    tenant: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LookFailed(Event):
    """A server could not be asked which backends are gone: so many permits stay taken. Told once until it answers."""

    server: str
    error: str
    lingering: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryDegraded(Event):
    """The registry cannot be asked; known tenants are served from what was last known, for `seconds_left` more."""

    source: str
    error: str
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRecovered(Event):
    """The registry answers again after `seconds`."""

    source: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCacheDown(Event):
    """The Redis of `[registry.redis]` does not answer in time; the source is asked alone meanwhile."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCacheUp(Event):
    """It answers again after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCacheRefused(Event):
    """Redis has an entry that no process with this key wrote for `tenant`: another client writes there. It is not used.

    Told once a minute at most; `count` of them since it was told last.
    """

    tenant: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUnusable(Event):
    """An entry of the registry cannot be used, so its tenant is not served; told once for each reason it has."""

    tenant: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAccess(Event):
    """An operator took the audited way into a tenant."""

    tenant: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChangeAsked(Event):
    """An operator's program asked the admin listener to make, change or remove a tenant; `change` is the verb.

    `by` is the name of its token.
    """

    tenant: str
    change: str
    address: str
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminChangeAnswered(Event):
    """A change that was asked of the admin listener (`POST /v1/reload`) was done or refused: `status` is the answer's.

    `by` is the name of the token, `tenant` and `user` who is concerned. 499: the client went away, the work goes on.
    """

    by: str
    change: str
    tenant: str
    user: str
    address: str
    status: int
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminActedOn(Event):
    """What exactly an operator acted upon at `tenant`: clients of the port, requests of SQL, connections, sessions.

    Told by the process that did it, before the answer (`AdminChangeAnswered` of the same `request_id`), or the
    `ServiceCommanded` of the console. `acted_on`: a mapping for each, with its number, whose it was and the moment
    since which it was there; so many of `count` at once that a line of the log and a row of the table stay readable.
    """

    by: str
    change: str
    tenant: str
    address: str
    request_id: str
    count: int
    user: str = ""
    acted_on: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCommanded(Event):
    """An operator did something by a signal or on the console of the port, and not over the admin listener.

    `by`: the signal's name, or `console`, with its `user` and the client's `address`. `change`: reload, restart,
    upgrade, drain, or what was done to `tenant`: pause, resume, kill. `outcome`: done, refused (its user may not) or
    failed.
    """

    by: str
    change: str
    outcome: str
    tenant: str = ""
    user: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFollowing(Event):
    """From now on it is this process that makes the login directory follow what applications write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFollowFailed(Event):
    """The outbox of a database, or the main one where both are empty, could not be read; it is tried again."""

    server: str
    database: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationEnded(Event):
    """Long work that a program had asked the admin listener for is over.

    `outcome`: done, failed, cancelled or interrupted.

    `by` is the name of the token that had asked.
    """

    operation: int
    tenant: str
    change: str
    outcome: str
    by: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysFetchFailed(Event):
    """The key set of an issuer of tokens could not be fetched; `error` is a class and what it says."""

    url: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshTokenReused(Event):
    """A refresh token that was spent came again, so one of two who had it is a thief: the session was ended.

    Says in which tenant, and nothing of the person or the session.
    """

    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSearchFailed(Event):
    """A tenant, or a database of row tenants, could not be asked for an account; `error` is a class and SQLSTATE.

    While `is_down`, logins that fail are told that login is unavailable; else the tenant counts as having no account.
    """

    place: str
    error: str
    is_down: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSucceeded(Event):
    """A password was right, and this is the account; one event for each of a person in several tenants.

    `account` is a keyed hash of the e-mail address: the same for the same address, and nothing can be computed from it.
    `address` is the client's, empty where the caller named none.
    """

    account: str
    address: str
    tenant: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLoginRefused(Event):
    """The PostgreSQL port refused a login. `reason` is the true one, which the client is not told.

    `user` and `database` are what the client asked for, cut to 63 characters; `tenant` is whose it was proven to be,
    empty without a proof. `untold`: refusals before this one that were not told, because there were too many in a
    second.
    """

    user: str
    database: str
    tenant: str
    address: str
    reason: str
    untold: int
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortHandshakeFailed(Event):
    """TLS with a client of the PostgreSQL port did not come about; `untold` as in PortLoginRefused."""

    address: str
    reason: str
    untold: int
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailed(Event):
    """An attempt to log in ended without an account; `account` and `address` as in LoginSucceeded."""

    account: str
    address: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginLocked(Event):
    """Attempts are refused by a limit; told once a minute for an account or an address.

    `limit`: of the account, of the address's networks, or of all together (`total`). `retry_after` in seconds.
    """

    account: str
    address: str
    limit: str
    retry_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedOut(Event):
    """A person ended a session."""

    tenant: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """Sessions of a person were ended by another than that person; `sessions` is how many there were."""

    tenant: str
    user: str
    reason: Literal["ended", "reused", "account_gone", "tenant_gone"]
    sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordHashUnusable(Event):
    """An account has a stored hash that no password can match; told once for a tenant and format, never with the hash.

    `format`: which one it is, or that it is malformed or would cost too much to compute.
    """

    tenant: str
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UntrustedForwardedFor(Event):
    """`peer`, which is not in `[http] trusted_proxies`, sent X-Forwarded-For, and it was not believed; told once.

    If that is your proxy, all its clients share one allowance of attempts to log in until you name it there.
    """

    peer: str


Observer = Callable[[Event], None]
"""Called in the event loop, at once; must not block. What it raises is logged and swallowed by the emitter."""


def ignore(event: Event) -> None:
    """The observer of those who do not want to know."""


def tolerant(observer: Observer) -> Observer:
    """`observer`, with what it raises logged and swallowed: who looks on must not break what is looked at."""

    def tell(event: Event) -> None:
        try:
            observer(event)
        except Exception:  # noqa: BLE001 - a boundary: an observer of the user's own may raise anything
            _log.exception("an observer failed")

    return tell


class Observers:
    """An observer that tells others, which may come and go."""

    __slots__ = ("_others",)

    def __init__(self, *others: Observer) -> None:
        self._others = others

    def __call__(self, event: Event) -> None:
        """Tell each of them."""
        for each in self._others:
            each(event)

    def add(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` too, until what this returns is called; what it raises is logged and swallowed."""
        told = tolerant(observer)
        self._others = (*self._others, told)

        def remove() -> None:
            self._others = tuple(each for each in self._others if each is not told)

        return remove


LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts in fixed buckets of seconds: `counts[i]` values <= `bounds[i]`, the last beyond all. Not cumulative."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
