"""What does the lender say on a connection of the driver? Resets and entries: not in its caches, unseen by loggers."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import asyncpg

from tenantproxy.driver.leaving import LeavingConnection
from tenantproxy.driver.saying import Saying
from tenantproxy.errors import IsolationError
from tenantproxy.isolation.turn import Asked, Said

__all__ = ["EnteringConnection"]


class EnteringConnection(LeavingConnection):
    """A connection with statements of the lender's own. `is_saying`: what its server answers now is not for asyncpg."""

    __slots__ = ("_own", "_saying", "is_saying")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own: list[Any] = []  # the lender's statements, outside of the driver's cache; the first one enters
        self._saying: Saying | None = None
        self.is_saying = False

    def terminate(self) -> None:
        """As asyncpg's; what is being said has no answer any more."""
        super().terminate()
        if self._saying is not None:
            self._saying.lost()

    async def simple(self, sql: str, timeout: float | None) -> str:
        """Run `sql` in one simple query that no logger sees; the tag of its last command."""
        answer: str = await self._protocol.query(sql, timeout)
        if self._protocol.is_in_transaction():
            raise IsolationError("a transaction was left open by a reset")
        return answer

    async def has_replayed(self, position: str, timeout: float | None) -> bool:
        """Whether a standby has replayed its primary's log up to `position`, a pg_lsn that was checked."""
        asked = f"SELECT FROM pg_catalog.pg_last_wal_replay_lsn() AS l WHERE l OPERATOR(pg_catalog.>=) '{position}'"
        return await self.simple(asked, timeout) == "SELECT 1"

    async def say(self, said: Said) -> None:
        """Say what is answered in one way only; no logger sees it. Has no timer: the caller has one.

        Raises Unconfirmed, what asyncpg raises for an error of the server, or OSError. The connection must be ended
        then, and when this is cancelled.
        """
        if self._saying is None:
            self._saying = Saying(self._wire.real, self._protocol)
        if not self._is_at_rest():
            raise asyncpg.InterfaceError("another operation is in progress")
        self.is_saying = True
        try:
            await self._saying.say(said.sql, said.answer)
        except asyncpg.PostgresError:
            raise
        except BaseException:
            self.is_doubtful = True  # asyncpg must not read what comes now
            raise
        finally:
            self.is_saying = False

    async def ask(self, asked: Asked) -> None:
        """As `say`, with a fresh nonce."""
        await self.say(asked.said(secrets.token_hex(16)))

    async def prepare_entry(self, statements: Sequence[str], timeout: float) -> None:
        """Prepare what `enter` runs. Their codecs stay as they are now, whatever users set later."""
        self._own = [await self._get_statement(sql, timeout, named=True, use_cache=False) for sql in statements]
        for statement in self._own:
            statement.attach()
        await self.simple("SELECT 1", timeout)  # Parse alone leaves a transaction, in which BEGIN could set no options

    def own_name(self, at: int) -> str:
        """Under which name one of them is prepared: 128 random bits in hexadecimal digits, with a prefix."""
        name: str = self._own[at].name
        return name

    async def enter(self, args: tuple[object, ...], *, at: int = 0) -> object:
        """Run one of them; the first column of its one row. Has no timer: the caller has one."""
        rows = await self._protocol.bind_execute(self._own[at], args, "", 1, False, None)
        return rows[0][0] if rows else None

    async def enter_writing(self, args: tuple[str, ...]) -> object:
        """As `enter`, where transactions are read only by default: a binding writes, in the backend's own memory."""
        await self._protocol.query("BEGIN READ WRITE", None)
        answer = await self.enter(args)
        await self.simple("COMMIT", None)
        return answer

    async def ask_once(self, sql: str, args: tuple[str, ...], *, writing: bool = False) -> object:
        """Run a statement without a name, in no cache: nothing that a user prepared can stand in its place.

        The first column of its first row. `writing`: where transactions are read only by default. Has no timer: the
        caller has one.
        """
        if writing:
            await self._protocol.query("BEGIN READ WRITE", None)
            answer = await self.ask_once(sql, args)
            await self.simple("COMMIT", None)
            return answer
        statement = await self._get_statement(sql, None, named=False, use_cache=False)
        rows = await self._protocol.bind_execute(statement, args, "", 1, False, None)
        return rows[0][0] if rows else None

    @property
    def prepared(self) -> int:
        """How many statements are prepared that will be used again: the driver's, and those that enter a session."""
        return len(self._stmt_cache) + len(self._own)

    @property
    def is_busy(self) -> bool:
        """Whether a statement is still under way, in a task that its user left behind.

        asyncpg notes it for queries; for the rest it tells only by refusing: asked to close the entry statement, it
        does not, and says why.
        """
        if not self.runs_directly:
            return bool(self._stmt_exclusive_section._acquired)
        self.runs_directly = False
        return not self._is_at_rest()

    def _is_at_rest(self) -> bool:
        """asyncpg tells only by refusing: asked to close a statement that is in use, it does not, and says why."""
        try:
            self._protocol.close_statement(self._own[0], None).send(None)
        except asyncpg.InternalClientError:
            return True
        except asyncpg.InterfaceError:
            return False
        raise AssertionError("asyncpg closed a statement that is in use")
