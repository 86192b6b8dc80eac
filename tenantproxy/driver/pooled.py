"""What may a connection of the driver be asked that leads to a connection pooler? What needs no session.

A single statement has a transaction for itself; what cannot work is refused with what to do instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tenantproxy.driver.connection import Kept
from tenantproxy.driver.gated import GatedConnection
from tenantproxy.driver.handles import PooledTransaction
from tenantproxy.errors import NotSupported
from tenantproxy.wire.transaction_only import ENDS, first_words, needs_session

__all__ = ["PooledConnection"]


class PooledConnection(GatedConnection):
    """A connection to a pooler: asyncpg's calls, each in a transaction that is the tenant's."""

    __slots__ = ()

    def transaction(self, **options: Any) -> Any:
        """As asyncpg's."""
        transaction = super().transaction(**options)
        transaction.__class__ = PooledTransaction
        return transaction

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's."""
        if not self._managing:
            self._screen(query)
        return await super().execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> Any:
        """As asyncpg's."""
        self._screen(query)
        return await self.within(super().fetch, query, *args, timeout=timeout, record_class=record_class)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> Any:
        """As asyncpg's."""
        self._screen(query)
        return await self.within(super().fetchrow, query, *args, timeout=timeout, record_class=record_class)

    async def fetchval(self, query: str, *args: Any, column: int = 0, timeout: float | None = None) -> Any:
        """As asyncpg's."""
        self._screen(query)
        return await self.within(super().fetchval, query, *args, column=column, timeout=timeout)

    async def fetchmany(self, query: str, args: Any, *, timeout: float | None = None, record_class: Any = None) -> Any:
        """As asyncpg's."""
        self._screen(query)
        return await self.within(super().fetchmany, query, args, timeout=timeout, record_class=record_class)

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        """As asyncpg's."""
        self._screen(command)
        await self.within(super().executemany, command, args, timeout=timeout)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's."""
        tag: str = await self.within(super().copy_records_to_table, table_name, **options)
        return tag

    async def copy_to_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's."""
        tag: str = await self.within(super().copy_to_table, table_name, **options)
        return tag

    async def copy_from_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's."""
        tag: str = await self.within(super().copy_from_table, table_name, **options)
        return tag

    async def copy_from_query(self, query: str, *args: Any, **options: Any) -> str:
        """As asyncpg's."""
        self._screen(query)
        tag: str = await self.within(super().copy_from_query, query, *args, **options)
        return tag

    async def _prepare(self, query: str, **kwargs: Any) -> Any:
        self._screen(query)
        if isinstance(kwargs.get("name"), str):
            raise _no("named prepared statements", "leave the name out: each execution prepares it again")
        return await self.within(super()._prepare, query, **kwargs)

    async def run_kept(self, query: str, args: Sequence[object]) -> Kept:
        """See `TenantConnection.run_kept`."""
        self._screen(query)
        kept: Kept = await self.within(super().run_kept, query, args)
        return kept

    async def sync(self, timeout: float | None) -> None:
        """Nothing: a statement is prepared in a transaction. What was interrupted is not lent again."""

    async def set_type_codec(self, *args: Any, **kwargs: Any) -> None:
        """As asyncpg's; a connection that was lent is not reused afterwards."""
        await self.within(super().set_type_codec, *args, **kwargs)

    async def reset_type_codec(self, *args: Any, **kwargs: Any) -> None:
        """As asyncpg's; a connection that was lent is not reused afterwards."""
        await self.within(super().reset_type_codec, *args, **kwargs)

    async def set_builtin_type_codec(self, *args: Any, **kwargs: Any) -> None:
        """As asyncpg's; a connection that was lent is not reused afterwards."""
        await self.within(super().set_builtin_type_codec, *args, **kwargs)

    async def add_listener(self, channel: str, callback: Any) -> None:
        """Raises NotSupported."""
        raise _no("LISTEN", "listen on a server that is reached directly")

    async def reset(self, *, timeout: float | None = None) -> None:
        """Raises NotSupported."""
        raise _no("reset()", "leave it out: no session is kept")

    def _screen(self, query: str) -> None:
        """Raise NotSupported for a text that cannot work here, as far as can be seen."""
        refusal = needs_session(query)
        if refusal is not None:
            raise refusal.again()
        for words in first_words(query):
            begins = words[0] == "BEGIN" or words[:2] == ("START", "TRANSACTION")
            ends = words[0] in ENDS and words[:2] != ("ROLLBACK", "TO") and words[:3] != ("ROLLBACK", "WORK", "TO")
            if begins or ends:
                raise _no(f"{words[0]} as a statement", "use transaction(), which makes each one the tenant's")


def _no(what: str, instead: str) -> NotSupported:
    return NotSupported(
        f"not to be had behind a connection pooler: {what}", detail="a session lasts for one transaction there",
        hint=instead,
    )  # fmt: skip
