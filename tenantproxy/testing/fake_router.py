"""What stands in for a router where a unit test has no PostgreSQL? The same calls, answered by the test.

It keeps what makes code go wrong in earnest: unknown tenants fail at first use, a connection fails after its block, a
closed router lends nothing. It runs no SQL, and so proves nothing of isolation in the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from tenantproxy.config import Settings
from tenantproxy.errors import AccessDenied, PoolClosed
from tenantproxy.events import Observer, ignore
from tenantproxy.model import Isolation, Placement, PoolKey, Tenant, TenantStatus, tenant_id
from tenantproxy.pools.base import PoolStats, Stats, TenantPoolStats
from tenantproxy.registry import CachedRegistry, MemoryRegistry, cache
from tenantproxy.routes import not_served
from tenantproxy.testing.fake_scope import MAIN, FakeConnection, FakeScope
from tenantproxy.watch import Watch

__all__ = ["Answer", "FakeCall", "FakeRouter"]

_SERVER: Final = "fake"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCall:
    """One call that the code under test made. `tenant`: "" for the main database. `data`: what the tenant keeps."""

    tenant: str
    method: str
    sql: str
    args: tuple[Any, ...]
    data: dict[str, Any] = field(repr=False)


Answer = Callable[[FakeCall], Any]
"""The rows (mappings) of `fetch`, `fetchrow` and `fetchval`, the tag of `execute`; an exception is raised."""


class FakeRouter:
    """`Router`'s interface over answers of the test.

    `tenants`: identifiers, or `Tenant`s. `answer` gets each call that no `on` answers; without one such a call is an
    AssertionError. `calls` is all that was asked; `data[tenant]` is a dict that answers may keep things in, one for
    each tenant. It is open from the start, and `open`, `close` and `async with` work as a router's.
    """

    def __init__(
        self,
        tenants: Iterable[str | Tenant],
        *,
        answer: Answer | None = None,
        settings: Settings | None = None,
        observer: Observer = ignore,
    ) -> None:
        self.settings = settings if settings is not None else _settings()
        self.observer = observer
        self.calls: list[FakeCall] = []
        self.data: dict[str, dict[str, Any]] = {}
        self.is_open = True
        self.is_abandoned = False
        self.lent = 0  # connections that blocks hold
        self.lease_watch: Watch | None = None
        self._answer = answer
        self._answers: list[tuple[str | None, str, Answer]] = []
        self._tenants = MemoryRegistry(each if isinstance(each, Tenant) else _tenant(each) for each in tenants)
        self.registry: CachedRegistry = cache(self._tenants, self.settings)

    # --- what the test says ------------------------------------------------------------------------------------------
    def on(
        self, sql: str, rows: Iterable[Mapping[str, Any]] | Answer | BaseException, tenant: str | None = None
    ) -> None:
        """Answer each statement that has `sql` in it (spaces and case do not count), of one `tenant` or of all.

        The last one that fits is asked. `rows`: the rows, an error to raise, or a function of the call.
        """
        answer = rows if callable(rows) else _always(rows)
        self._answers.insert(0, (tenant, _plain(sql), answer))

    def add(self, tenant: str | Tenant) -> None:
        """Register one more tenant."""
        self._tenants.add(tenant if isinstance(tenant, Tenant) else _tenant(tenant))
        self.registry.invalidate(None)

    # --- Router ------------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """See `Router.open`."""
        self.is_open = True

    async def close(self, *, timeout: float = 5.0) -> None:
        """See `Router.close`."""
        self.is_open = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def tenant(
        self,
        tenant: str,
        *,
        system: str | None = None,
        replica: bool = False,
        after: str | None = None,
        context: Mapping[str, str] | None = None,
        read_only: bool = False,
    ) -> FakeScope:
        """See `Router.tenant`."""
        given = tuple(context.items()) if context else ()
        return FakeScope(
            self, tenant_id(tenant), system=system, replica=replica, after=after, context=given, read_only=read_only
        )

    def main(self) -> FakeScope:
        """See `Router.main`."""
        return FakeScope(self, MAIN)

    async def tenants(self, *, status: TenantStatus | str | None = None) -> AsyncIterator[Tenant]:
        """See `Router.tenants`."""
        self._check_open()
        async for tenant in self._tenants.tenants(status=TenantStatus(status) if status is not None else None):
            yield tenant

    async def tenants_after(self, after: str) -> AsyncIterator[Tenant]:
        """See `Router.tenants_after`."""
        self._check_open()
        async for tenant in self._tenants.tenants_after(after):
            yield tenant

    @asynccontextmanager
    async def admin(self, tenant: str, *, reason: str) -> AsyncIterator[FakeConnection]:
        """See `Router.admin`."""
        if not reason.strip():
            raise AccessDenied("a reason is needed for this way in", hint='say why: router.admin(id, reason="...")')
        async with self.tenant(tenant).connection() as conn:
            yield conn

    async def expire_connections(self, tenant: str) -> list[str]:
        """See `Router.expire_connections`: it has none of its own."""
        await self.registry.get(tenant_id(tenant))
        return []

    def stats(self) -> Stats:
        """See `Router.stats`: one pool, with the connections that blocks hold; all else is zero."""
        return _stats(self.lent)

    # --- what its scopes ask -----------------------------------------------------------------------------------------
    async def ask(self, tenant: str, method: str, sql: str, args: Sequence[Any]) -> Any:
        """Record the call, and answer it. Raises TenantNotFound, PoolClosed, what `on` says, AssertionError."""
        await self.check(tenant)
        call = FakeCall(tenant=tenant, method=method, sql=sql, args=tuple(args), data=self.data.setdefault(tenant, {}))
        self.calls.append(call)
        plain = _plain(sql)
        for whose, fits, answer in self._answers:
            if whose in (None, tenant) and fits in plain:
                return _answered(answer, call)
        if self._answer is None:
            raise AssertionError(
                f"FakeRouter has no answer to {method}({sql!r}) of {tenant or 'main'}: say router.on(...)"
            )
        return _answered(self._answer, call)

    async def said(self, tenant: str, command: str) -> None:
        """Record what a block said by itself: BEGIN, COMMIT, ROLLBACK."""
        data = self.data.setdefault(tenant, {})
        self.calls.append(FakeCall(tenant=tenant, method="execute", sql=command, args=(), data=data))

    async def check(self, tenant: str) -> None:
        """Whether a connection could be lent. Raises TenantNotFound, TenantPaused, TenantSuspended, PoolClosed."""
        self._check_open()
        if tenant == MAIN:
            return
        found = await self._tenants.get(tenant_id(tenant))
        if found.status is not TenantStatus.ACTIVE:
            raise not_served(found.status)

    def _check_open(self) -> None:
        if not self.is_open:
            raise PoolClosed("the router is closed", hint="open it: async with router, or await router.open()")


def _answered(answer: Answer, call: FakeCall) -> Any:
    said = answer(call)
    if isinstance(said, BaseException):
        raise said
    return said


def _always(rows: Iterable[Mapping[str, Any]] | BaseException) -> Answer:
    if isinstance(rows, BaseException):
        return lambda call: rows
    kept = [dict(row) for row in rows]
    return lambda call: [dict(row) for row in kept]


def _plain(sql: str) -> str:
    return " ".join(sql.split()).lower()


def _tenant(name: str) -> Tenant:
    place = Placement(isolation=Isolation.DATABASE, server=_SERVER, database=name)
    return Tenant(id=tenant_id(name), placement=place)


def _settings() -> Settings:
    return Settings.from_mapping(
        {
            "main": {"server": _SERVER, "database": "main"},
            "servers": {_SERVER: {"user": "fake", "password": "", "ssl": "disable"}},
            "registry": {"source": "file"},
        },
        secrets=False,
    )


def _stats(lent: int) -> Stats:
    key = PoolKey(server=_SERVER, database="tenants")
    pool = PoolStats(
        key=key, label="fake", limit=0, idle=0, used=lent, opening=0, resetting=0, retiring=0, waiting=0,
        tenants=(TenantPoolStats(tenant="fake", leased=lent, waiting=0, oldest_wait_seconds=0.0, max_size=0),),
    )  # fmt: skip
    nothing: dict[Any, Any] = {}
    return Stats(
        pools=(pool,), servers=(), pools_limit=0, acquires=nothing, exhaustions=nothing, acquire_wait=nothing,
        hold=nothing, closed=nothing, opened=nothing, evicted=nothing, resets=nothing, violations=nothing,
        lookups=nothing, lookup_seconds=nothing, registry_last_success=None,
    )  # fmt: skip
