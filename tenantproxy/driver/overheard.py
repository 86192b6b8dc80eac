"""What are the rows of a simple query? asyncpg drops them: they are read here as they pass on to it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.isolation.transaction import Rows
from tenantproxy.wire.frames import DATA_ROW, HEADER
from tenantproxy.wire.rows import values_of

__all__ = ["overhear"]

_MOST: Final = 65_536  # bytes of an answer: nothing that is asked so has more


class _Overheard(asyncio.Protocol):
    """Stands between a transport and asyncpg's protocol for one answer, and keeps its rows."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._partial = b""
        self.rows: list[list[str | None]] = []
        self.is_too_long = False

    def data_received(self, data: bytes) -> None:
        """Read, and pass on: asyncpg may end its query then."""
        self._read(self._partial + data)
        self._driver.data_received(data)

    def _read(self, data: bytes) -> None:
        at, size = 0, len(data)
        while size - at >= HEADER:
            end = at + 1 + int.from_bytes(data[at + 1 : at + HEADER])
            if end > size:
                break
            if data[at] == DATA_ROW:
                cells = values_of(data[at + HEADER : end])
                self.rows.append([None if cell is None else cell.decode("utf-8", "replace") for cell in cells])
            at = end
        self._partial = data[at:]
        if len(self._partial) > _MOST or len(self.rows) > _MOST:
            self._partial, self.is_too_long = b"", True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._driver.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """See asyncio."""
        keep: bool | None = self._driver.eof_received()
        return keep

    def pause_writing(self) -> None:
        """See asyncio."""
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._driver.resume_writing()


async def overhear(transport: asyncio.Transport, protocol: Any, sql: str) -> Rows:
    """Run the simple query `sql` by asyncpg's `protocol`, at rest; all its rows. Has no timer: the caller has one.

    Raises what asyncpg raises. After any exception the connection must be ended, and when this is cancelled.
    """
    overheard = _Overheard(transport.get_protocol())
    transport.set_protocol(overheard)
    try:
        await protocol.query(sql, None)
    finally:
        if transport.get_protocol() is overheard:
            transport.set_protocol(overheard._driver)
    if overheard.is_too_long:
        raise Unconfirmed(DATA_ROW)
    return overheard.rows
