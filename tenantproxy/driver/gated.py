"""How does a connection to a connection pooler keep to transactions that were made its tenant's?

Nothing goes out outside of such a transaction: what asyncpg says to the server passes a gate that is open within one
alone. A single statement has one for itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final

import asyncpg

from tenantproxy.connect.failures import LOST, Unconfirmed
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.overheard import overhear
from tenantproxy.errors import IsolationError, TenantProxyError
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.transaction import Rows, TransactionEntry, in_full

__all__ = ["GatedConnection"]

Refused = Callable[[BaseException, bool], BaseException]
"""The caller's error for what made a transaction not the tenant's; whether a proof was shown."""

_IN_DOUBT: Final = ""
_PLAIN: Final = in_full("")
_BUSY: Final = "cannot perform operation: another operation is in progress"
_ENDED: Final = "a statement ended the transaction that it ran in, and with it the tenant's session"


class _Phase(StrEnum):
    """Whose the transaction is that the connection is in."""

    NONE = "none"
    ENTERING = "entering"  # it begins, and is not known to be the tenant's yet
    CALLERS = "callers"  # its user began it, and ends it
    ALONE = "alone"  # of one statement
    LEAVING = "leaving"


class _RequestGate:
    """asyncpg's protocol, whose requests to the server raise InterfaceError while the gate is closed."""

    def __init__(self, protocol: Any, is_open: Callable[[], bool]) -> None:
        self._protocol = protocol
        self._is_open = is_open

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._protocol, name)
        if name in _REQUESTS and not self._is_open():
            raise asyncpg.InterfaceError(
                "cannot perform operation: there is no transaction of the tenant's to run it in"
            )
        return value


_REQUESTS: Final = frozenset(
    (
        "prepare", "bind_execute", "bind_execute_many", "bind", "execute", "query", "copy_in", "copy_out",
        "close_portal", "close_statement",
    )
)  # fmt: skip


class GatedConnection(TenantConnection):
    """A connection to a pooler. `entry`: what each of its transactions must be; set for each lease, as `signer`.

    `refused` makes the caller's error of what went wrong when one began; the connection is ended then.
    """

    __slots__ = ("_alone", "_is_proving", "_managing", "_phase", "_real", "enter_timeout", "entry", "refused", "signer")

    is_behind_pooler = True

    def __init__(self, protocol: Any, *args: Any, **kwargs: Any) -> None:
        self._real = protocol
        self._phase = _Phase.NONE
        super().__init__(protocol, *args, **kwargs)
        self._protocol = _RequestGate(protocol, self._may_ask)
        self._alone: asyncio.Task[Any] | None = None
        self._is_proving = False
        self._managing = False  # asyncpg's own BEGIN, SAVEPOINT, COMMIT or ROLLBACK comes next
        self.entry: TransactionEntry | None = None
        self.signer: Signer | None = None
        self.enter_timeout = 5.0
        self.refused: Refused = lambda exc, proven: exc

    @property
    def is_at_rest(self) -> bool:
        """Whether it is in no transaction, and nothing is under way."""
        return self._phase is _Phase.NONE and not self._real.is_in_transaction() and not self._real._is_cancelling()

    @property
    def is_busy(self) -> bool:
        """As `EnteringConnection.is_busy`."""
        return not self.is_at_rest

    def _may_ask(self) -> bool:
        return self._phase in (_Phase.CALLERS, _Phase.ALONE, _Phase.LEAVING) and self._real.is_in_transaction()

    # --- a transaction -----------------------------------------------------------------------------------------------
    async def _enter(self, mode: str, timeout: float | None, phase: _Phase) -> None:
        """Begin a transaction that is the tenant's, or end the connection and raise."""
        self._check_open()
        if self._phase is not _Phase.NONE:
            raise asyncpg.InterfaceError(_BUSY)
        self._phase, self._is_proving = _Phase.ENTERING, False
        try:
            async with asyncio.timeout(self.enter_timeout if timeout is None else min(timeout, self.enter_timeout)):
                await self._make_tenants(mode)
        except BaseException as exc:
            self.terminate()  # within a transaction: the pooler ends its session too
            if isinstance(exc, (*LOST, TimeoutError, Unconfirmed, TenantProxyError)):
                raise self.refused(exc, self._is_proving) from None
            raise
        self._phase = phase

    async def _make_tenants(self, mode: str) -> None:
        entry = self.entry
        if entry is None:
            raise IsolationError("a connection was used outside of a lease")
        nonce = secrets.token_hex(16)
        challenge = entry.opened(await self._overhear(entry.opening(mode, nonce)), mode, nonce)
        if challenge is not None:
            if self.signer is None:
                raise IsolationError("there is no key to sign the proof of a row tenant with")
            nonce, self._is_proving = secrets.token_hex(16), True
            entry.proven(await self._overhear(entry.proving(challenge, self.signer, nonce)), nonce)

    async def _overhear(self, sql: str) -> Rows:
        rows = await overhear(self._transport, self._real, sql)
        if not self._real.is_in_transaction():
            raise Unconfirmed
        return rows

    async def _leave(self, text: str, timeout: float | None = None) -> str:
        """End the transaction by COMMIT or ROLLBACK; the tag of that."""
        if not self._real.is_in_transaction():  # a statement of its caller's did
            self._phase = _Phase.NONE
            raise asyncpg.InterfaceError(_ENDED)
        self._phase = _Phase.LEAVING
        try:
            tag: str = await self._real.query(text, timeout)
        except asyncpg.PostgresError:
            if not self._real.is_in_transaction():  # refused, and so rolled back
                self._phase = _Phase.NONE
            raise
        if self._real.is_in_transaction():
            raise IsolationError("a transaction could not be ended")
        self._phase = _Phase.NONE
        return tag

    async def within(self, call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Run `call` in the transaction of its user, or in one for it alone.

        Raises what `call` raises, InterfaceError where a statement ended the transaction, and what `refused` makes.
        """
        timeout = kwargs.get("timeout")
        if self.begin is not None:
            await self.begin_now(timeout)
        if self._phase is _Phase.CALLERS or (self._phase is _Phase.ALONE and self._alone is asyncio.current_task()):
            self._check_open()
            if not self._real.is_in_transaction():
                raise asyncpg.InterfaceError(_ENDED)
            return await call(*args, **kwargs)
        await self._enter(_PLAIN, timeout, _Phase.ALONE)
        self._alone = asyncio.current_task()
        try:
            result = await call(*args, **kwargs)
        except (TimeoutError, asyncio.CancelledError):
            raise  # whether it has ended is found out when it is given back
        except Exception:
            if self._real.is_in_transaction():
                await self._leave("ROLLBACK;")
            elif not self.is_closed():
                self._phase = _Phase.NONE
            raise
        finally:
            self._alone = None
        await self._leave("COMMIT;", timeout)
        return result

    # --- a transaction of its user -----------------------------------------------------------------------------------
    def is_in_transaction(self) -> bool:
        """Whether its user began one, or one is to begin with the next statement; asyncpg asks that for cursors."""
        return self.begin is not None or (self._phase is _Phase.CALLERS and bool(self._real.is_in_transaction()))

    async def begin_now(self, timeout: float | None) -> None:
        """See `BeginningConnection.begin_now`."""
        text = self.begin
        if not text:
            raise asyncpg.InterfaceError("cannot perform operation: the transaction did not begin")
        self.begin = _IN_DOUBT
        await self._enter(_mode_of(text), timeout, _Phase.CALLERS)
        self.begin = None

    async def commit_begun(self) -> None:
        """See `BeginningConnection.commit_begun`."""
        self._top_xact = None
        begin, self.begin = self.begin, None
        if begin:  # nothing was asked of it
            return
        if begin is not None:
            raise asyncpg.InterfaceError("cannot perform operation: the transaction did not begin")
        await self._leave("COMMIT;")

    async def rollback_begun(self) -> None:
        """See `BeginningConnection.rollback_begun`."""
        begin, self._top_xact, self.begin = self.begin, None, None
        if begin is None and self._real.is_in_transaction():
            await self._leave("ROLLBACK;")
        elif begin is None:
            self._phase = _Phase.NONE

    @contextmanager
    def managing(self) -> Iterator[None]:
        """For the block, `execute` is asked by asyncpg's transaction."""
        self._managing = True
        try:
            yield
        finally:
            self._managing = False

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's."""
        if self._managing and not args:
            return await self._manage(query)
        tag: str = await self.within(super().execute, query, *args, timeout=timeout)
        return tag

    async def _manage(self, query: str) -> str:
        if query.startswith("BEGIN"):
            await self._enter(_mode_of(query), None, _Phase.CALLERS)
            return "BEGIN"
        if query == "COMMIT;":
            return await self._leave(query)
        if query == "ROLLBACK;":
            return await self._leave(query)
        return await super().execute(query)

    # --- giving it back ----------------------------------------------------------------------------------------------
    def take_back(self) -> None:
        """See `TenantConnection.take_back`: until it is lent again, no transaction can begin."""
        super().take_back()
        self.entry = None

    async def settle(self, timeout: float) -> None:
        """Wait for a cancelled command to end, then roll back an open transaction. Raises on any doubt."""
        if self._real._is_cancelling():
            await self._real._wait_for_cancellation(timeout)
        if self._real.is_in_transaction():
            await self._real.query("ROLLBACK", timeout)

    async def simple(self, sql: str, timeout: float | None) -> str:
        """See `EnteringConnection.simple`: not for what is asked of tenants' data."""
        tag: str = await self._real.query(sql, timeout)
        return tag


def _mode_of(begin: str) -> str:
    """The modes of `BEGIN ...;`, in full."""
    return in_full(begin.removeprefix("BEGIN").rstrip(";"))
