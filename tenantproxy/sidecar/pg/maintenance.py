"""How does a tool's client of the database `postgres` become a client of a tenant? Its texts are changed on the way in.

Everything else of it is any client's: the relay behind this transport sees the changed texts alone.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from tenantproxy.errors import ProtocolError
from tenantproxy.sidecar.pg.database_list import LONGEST, DatabaseList
from tenantproxy.wire.frames import HEADER, PARSE, QUERY, frame, length_of

__all__ = ["MaintenanceTransport"]

_MOST: Final = LONGEST + 1024  # bytes of a message that is held back until it has come whole: a name and types too
_GROWN: Final = 64 * 1024  # bytes that texts may have become longer, before others have their turn


class MaintenanceTransport(asyncio.Transport):
    """`real`, whose protocol gets what comes with the texts in it changed by `databases`."""

    def __init__(self, real: asyncio.Transport, databases: DatabaseList) -> None:
        super().__init__()
        self._real = real
        self._databases = databases
        self._changing: _Changing | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio."""
        return self._real.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio."""
        self._changing = _Changing(cast("asyncio.Protocol", protocol), self._databases, self._real)
        self._real.set_protocol(self._changing)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """What came with the login goes this way too."""
        return self._real.get_protocol() if self._changing is None else self._changing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        self._real.write(data)

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self._real.get_write_buffer_size()

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._real.is_closing()

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return self._real.can_write_eof()

    def write_eof(self) -> None:
        """See asyncio."""
        self._real.write_eof()

    def close(self) -> None:
        """See asyncio."""
        self._real.close()

    def abort(self) -> None:
        """See asyncio."""
        self._real.abort()

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._real.is_reading()

    def pause_reading(self) -> None:
        """See asyncio."""
        if self._changing is None:
            self._real.pause_reading()
        else:
            self._changing.pause()

    def resume_reading(self) -> None:
        """See asyncio."""
        if self._changing is None:
            self._real.resume_reading()
        else:
            self._changing.resume()


class _Changing(asyncio.Protocol):
    """Passes on what comes in whole messages where one holds a text, and as it comes elsewhere.

    A few bytes may become a thousand times as many: so what `inner` does not want to read yet is not changed yet.
    """

    def __init__(self, inner: asyncio.Protocol, databases: DatabaseList, real: asyncio.Transport) -> None:
        self._inner = inner
        self._databases = databases
        self._real = real
        self._held = b""  # the beginning of a message; more while `_is_due`
        self._passing = 0  # bytes to come of a message that holds no text
        self._is_over = False  # what comes is no protocol, for the relay to refuse
        self._is_paused = False  # `inner` does not read
        self._is_due = False  # whole messages wait: for the next turn, or until `inner` reads
        self._turn: asyncio.Handle | None = None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._held += data
        if not self._is_due:
            self._go_on()

    def pause(self) -> None:
        """Read nothing, and change nothing."""
        self._is_paused = True
        self._real.pause_reading()

    def resume(self) -> None:
        """Read again; what came before that comes first."""
        self._is_paused = False
        if self._is_due:
            self._soon()
        else:
            self._real.resume_reading()

    def _soon(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        if self._is_due and not self._is_paused:
            self._is_due = False
            self._go_on()
            self._read_on()

    def _read_on(self) -> None:
        if not (self._is_due or self._is_paused or self._real.is_closing()):
            self._real.resume_reading()

    def _go_on(self) -> None:
        if self._real.is_closing():
            self._held = b""
            return
        out = self._taken()
        if self._is_due:
            self._real.pause_reading()
            self._soon()
        if out:
            self._inner.data_received(out)

    def _taken(self) -> bytes:
        """What may be passed on now. `_is_due`: there is more."""
        data, self._held = self._held, b""
        if self._is_over:
            return data
        out = bytearray()
        at = min(self._passing, len(data))
        out += data[:at]
        self._passing -= at
        while len(data) - at >= HEADER:
            if len(out) - at > _GROWN:
                self._is_due = True
                break
            try:
                kind, size = data[at], length_of(data, at)
            except ProtocolError:
                self._is_over = True
                return bytes(out) + data[at:]
            end = at + size
            if kind not in (QUERY, PARSE) or size > _MOST:
                self._passing = max(0, end - len(data))
                end = min(end, len(data))
                out += data[at:end]
            elif end > len(data):
                break
            else:
                out += frame(kind, self._changed(kind, data[at + HEADER : end]))
            at = end
        self._held = data[at:]
        return bytes(out)

    def _changed(self, kind: int, payload: bytes) -> bytes:
        name = payload.find(b"\0") + 1 if kind == PARSE else 0
        end = payload.find(b"\0", name)
        if end < 0 or (kind == PARSE and not name):
            return payload  # for the relay to refuse
        return payload[:name] + self._databases.changed(payload[name:end]) + payload[end:]

    def eof_received(self) -> bool | None:
        """See asyncio."""
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._held, self._is_due = b"", False
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._inner.resume_writing()
