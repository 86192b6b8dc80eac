"""What was revoked? Sessions, single tokens, all of a tenant: kept in the main database, known in every process.

State: what this process has heard. A revocation reaches it through NOTIFY, and what was not heard by asking every few
seconds. A notification carries nothing: it says that there is something to read, so that a forged one does no harm.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import asyncpg

from tenantproxy.auth.base import AuthDatabase
from tenantproxy.auth.user_sessions import UserSession, end_sessions, not_installed, sessions_of
from tenantproxy.config import Auth
from tenantproxy.errors import PoolClosed
from tenantproxy.notifications import Heard

__all__ = ["CHANNEL", "Hearing", "Revocations", "lasting"]

CHANNEL: Final = "tenantproxy_revocations"
"""Where it is announced that something was revoked."""

# Rows of transactions that are over by now come in this snapshot; whatever comes later has a number from `seen` on.
_READ: Final = """
SELECT 'seen' AS kind, pg_snapshot_xmin(pg_current_snapshot())::text AS id, 0::float8 AS value
UNION ALL SELECT 'tenant', tenant, epoch::float8 FROM tenantproxy.tenant_epochs WHERE changed >= $1::text::xid8
UNION ALL SELECT kind, id, extract(epoch FROM until)::float8 FROM tenantproxy.revoked
          WHERE changed >= $1::text::xid8 AND until > now()
"""
# Not so where the tables are there and the functions of this release are not; without tables `_READ` says more.
_IS_UPGRADED: Final = """
SELECT to_regclass('tenantproxy.revoked') IS NULL OR to_regclass('tenantproxy.session_ends') IS NOT NULL
"""
_EVERYTHING: Final = "0"
_TIMEOUT: Final = 5.0
_SWEPT_AT_ONCE: Final = 1000


class Hearing(Protocol):
    """Who listens on the main database; the router's `listener` is one."""

    def hear(self, channel: str, heard: Heard, /) -> Callable[[], None]:
        """Call `heard` with what is announced; returns how to stop that."""
        ...


def lasting(settings: Auth) -> float:
    """Seconds after which no access token of today is good any more; another issuer's lasts `max_lifetime` at most."""
    issued = [issuer.max_lifetime for issuer in settings.issuers]
    if settings.jwks_url or settings.public_key_file:
        issued.append(settings.max_lifetime)
    return max(settings.access_ttl, *issued, 0.0) + 2 * settings.leeway + 1.0


class Revocations:
    """Asked at each verification, without waiting; see `tokens.Revoked`. Between `open` and `close` it is up to date.

    `poll_interval`: how often it asks, whatever it hears. When the main database cannot be reached, what was known
    last stays in force.
    """

    def __init__(
        self,
        database: AuthDatabase,
        settings: Auth,
        *,
        hearing: Hearing | None = None,
        poll_interval: float = 5.0,
        sweep_interval: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._seconds = lasting(settings)
        self._hearing = hearing
        self._poll_interval = poll_interval
        self._sweep_interval = sweep_interval
        self._clock = clock
        self._epochs: dict[str, int] = {}  # tenant -> epoch; never less than it was
        self._until: dict[tuple[str, str], float] = {}  # (kind, id) -> when it need not be known any more
        self._ends: list[tuple[float, tuple[str, str]]] = []  # the same as a heap, so that the oldest go first
        self._seen = _EVERYTHING  # transactions before it have been read
        self._gaps = 0  # how often announcements may have been lost
        self._news = asyncio.Event()  # there is something to read
        self._unhear: Callable[[], None] | None = None
        self._opening: asyncio.Future[None] | None = None  # while it is being opened
        self._closes = 0  # how often it was closed
        self._task: asyncio.Task[None] | None = None  # there is one from open to close
        self.last_success: float | None = None
        """When it was last known to be up to date, on the wall clock."""

    def adopt(self, settings: Auth) -> None:
        """Keep what is revoked for as long as tokens of `settings` may live, and those of before."""
        self._seconds = max(self._seconds, lasting(settings))

    # --- what is known -----------------------------------------------------------------------------------------------
    def epoch(self, tenant: str) -> int:
        """See `tokens.Revoked`."""
        return self._epochs.get(tenant, 0)

    def is_revoked(self, *, jti: str | None, session: str | None) -> bool:
        """See `tokens.Revoked`."""
        until = self._until
        return bool(until) and (("session", session) in until or ("token", jti) in until)

    def __len__(self) -> int:
        """How many sessions and tokens are remembered as revoked."""
        return len(self._until)

    # --- revoking ----------------------------------------------------------------------------------------------------
    async def revoke_session(self, session: str) -> None:
        """No access token of the session is good any more; `refresh.Sessions` ends the session itself."""
        await self._revoke("session", session, self._seconds)

    async def revoke_token(self, jti: str, *, expires_in: float | None = None) -> None:
        """This one token is not good any more. `expires_in`: its seconds left; by default those of a new one."""
        await self._revoke("token", jti, self._seconds if expires_in is None else max(expires_in, 0.0) + 60.0)

    async def revoke_tenant(self, tenant: str) -> int:
        """No token and no session of the tenant is good any more; returns its new epoch.

        Call it when a tenant is deleted, suspended or moved. Where tenants are registered in our own table, its
        triggers do.
        """
        rows = await self._database.fetch("SELECT tenantproxy.revoke_tenant($1)", tenant, timeout=_TIMEOUT)
        self._learn("tenant", tenant, float(rows[0][0]))
        return self.epoch(tenant)

    async def end_user(self, tenant: str, user: str) -> int:
        """End all sessions of one user; how many. None of their refresh and access tokens is good any more."""
        ended = await end_sessions(self._database, self._seconds, tenant=tenant, user=user)
        for session in ended:
            self.note("session", session, self._seconds)
        return len(ended)

    async def end_session(self, tenant: str, user: str, session: str) -> bool:
        """End one session of this user; whether there was one. Raises as `sessions_of`."""
        if session not in {each.id for each in await self.sessions_of(tenant, user)}:
            return False
        for ended in await end_sessions(self._database, self._seconds, session=session):
            self.note("session", ended, self._seconds)
        return True

    async def sessions_of(self, tenant: str, user: str) -> list[UserSession]:
        """The sessions of one user, the last used first, 1000 at most. Raises ConfigurationError: not installed."""
        return await sessions_of(self._database, tenant, user)

    async def _revoke(self, kind: str, name: str, seconds: float) -> None:
        await self._database.fetch("SELECT tenantproxy.revoke($1, $2, $3)", kind, name, seconds, timeout=_TIMEOUT)
        self.note(kind, name, seconds)

    def note(self, kind: str, name: str, seconds: float) -> None:
        """Know at once, in this process, what it has just written itself."""
        self._learn(kind, name, self._clock() + seconds)

    # --- keeping up --------------------------------------------------------------------------------------------------
    @property
    def is_open(self) -> bool:
        """Whether it follows what is revoked."""
        return self._task is not None

    async def open(self) -> None:
        """Read what was revoked, then follow. Again after `close` it may be opened again.

        Raises ConfigurationError where the tables are not installed, PoolClosed when it is closed meanwhile. A caller
        that comes while it is being opened waits for that, and tries again when it failed.
        """
        loop = asyncio.get_running_loop()
        while self._opening is not None and self._opening.get_loop() is loop:
            await asyncio.wait([self._opening])
        if self._task is not None:
            return
        self._opening = opening = loop.create_future()
        try:
            await self._open(loop)
        finally:
            self._opening = None
            opening.set_result(None)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        closes = self._closes
        if not (await self._database.fetch(_IS_UPGRADED, timeout=_TIMEOUT))[0][0]:
            raise not_installed("the main database keeps sessions as an older release did")
        self._news = asyncio.Event()  # it belongs to the loop in which it was first waited for
        self._seen = _EVERYTHING
        if self._hearing is not None:
            self._unhear = self._hearing.hear(CHANNEL, self._heard)
        try:
            await self._read()
            if closes != self._closes:
                raise PoolClosed("what is revoked is not followed: it was closed while it opened")
        except BaseException:
            self._stop_hearing()
            raise
        self._task = loop.create_task(self._follow(), name="tenantproxy revocations", context=contextvars.Context())

    async def close(self) -> None:
        """Follow no longer. Safe to call again."""
        self._closes += 1
        self._stop_hearing()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def forget_loop(self) -> None:
        """The event loop in which it was open has ended, and its task with it: be as closed. What is known stays."""
        self._closes += 1
        self._task = self._opening = self._unhear = None

    def _stop_hearing(self) -> None:
        if self._unhear is not None:
            self._unhear()
            self._unhear = None

    def _heard(self, payload: str | None) -> None:
        if payload is None:
            self._gaps += 1  # after a failover the transactions may restart their numbers
            self._seen = _EVERYTHING
        self._news.set()

    async def _follow(self) -> None:
        swept = self._clock()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval):
                    await self._news.wait()
            try:
                # Also while we listen: a pooler that takes LISTEN and passes nothing on looks just like silence.
                self._news.clear()
                await self._read()
                self._forget()
                if self._clock() - swept >= self._sweep_interval:
                    swept = self._clock()
                    await self.sweep()
            except Exception:  # noqa: BLE001  # a boundary: what is known stays in force, and it is asked again
                self._seen = _EVERYTHING
                await asyncio.sleep(min(1.0, self._poll_interval))
                self._news.set()

    async def _read(self) -> None:
        gaps = self._gaps
        try:
            rows = await self._database.fetch(_READ, self._seen, timeout=_TIMEOUT)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError):
            raise not_installed("the main database does not keep sessions yet") from None
        for row in rows:
            if row["kind"] != "seen":
                self._learn(row["kind"], row["id"], row["value"])
            elif self._gaps == gaps:
                self._seen = row["id"]
        self.last_success = self._clock()

    def _learn(self, kind: str, name: str, value: float) -> None:
        if kind == "tenant":
            self._epochs[name] = max(int(value), self._epochs.get(name, 0))
            return
        key = (kind, name)
        if value > self._until.get(key, 0.0):
            self._until[key] = value
            heapq.heappush(self._ends, (value, key))

    def _forget(self) -> None:
        """Drop what concerns only tokens that have expired, a little later than needed: clocks differ."""
        before = self._clock() - 60.0
        while self._ends and self._ends[0][0] < before:
            until, key = heapq.heappop(self._ends)
            if self._until.get(key) == until:
                del self._until[key]

    async def sweep(self) -> int:
        """Delete sessions and revocations that have ended by themselves; how many. Done by itself every minute."""
        total = 0
        while True:
            rows = await self._database.fetch("SELECT tenantproxy.sweep_auth($1)", _SWEPT_AT_ONCE, timeout=_TIMEOUT)
            swept = int(rows[0][0])
            total += swept
            if swept < _SWEPT_AT_ONCE:
                return total
