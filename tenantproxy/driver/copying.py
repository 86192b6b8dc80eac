"""How does COPY run on a lent connection? Bounded also while its source or sink is slow, and in its own lease only."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from tenantproxy.driver.tracking import TrackedConnection

__all__ = ["CopyingConnection"]


class CopyingConnection(TrackedConnection):
    """A connection whose COPY ends with its timeout, and never reaches into another lease."""

    __slots__ = ()

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's, but `timeout` bounds the source of the records too, and ends the connection."""
        self.runs_directly = True
        timeout = options.pop("timeout", None)
        with self._noting_read_only():
            async with self._in_time(timeout):
                tag: str = await super().copy_records_to_table(table_name, **options)
                return tag

    async def _copy_in(self, copy_stmt: Any, source: Any, timeout: float | None) -> Any:
        self.runs_directly = True
        with self._noting_read_only():
            async with self._opened(source, "rb") as data, self._in_time(timeout):
                return await super()._copy_in(copy_stmt, data, None)

    async def _copy_out(self, copy_stmt: Any, output: Any, timeout: float | None) -> Any:
        self.runs_directly = True
        async with self._opened(output, "wb") as file:
            try:
                async with self._in_time(timeout):
                    return await super()._copy_out(copy_stmt, file, None)
            except asyncpg.PostgresError:
                raise
            except BaseException:
                self.is_doubtful = (
                    True  # asyncpg leaves rows unread that no call waits for, and then waits for their end
                )
                if not self.is_closed():
                    self._transport.pause_reading()  # or it fails on those that come
                raise

    @contextmanager
    def _noting_read_only(self) -> Iterator[None]:
        try:
            yield
        except asyncpg.ReadOnlySQLTransactionError:
            self.saw_read_only = True
            raise

    @asynccontextmanager
    async def _opened(self, file: Any, mode: str) -> AsyncIterator[Any]:
        """`file`, opened here when it is a path: that may take long, and nothing runs on the connection meanwhile.

        asyncpg would then copy from whatever session is there by now, which may be another tenant's.
        """
        try:
            path = os.fspath(file)
        except TypeError:
            yield file
            return
        lease = self._pool_release_ctr
        opened = await self._loop.run_in_executor(None, open, path, mode)
        try:
            self._check_lease(lease)
            yield opened
        finally:
            await self._loop.run_in_executor(None, opened.close)
