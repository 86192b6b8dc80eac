"""What encrypts where the compiled path does not? A transport on another one, after the handshake."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

from tenantproxy.connect.tls_records import LONGEST_RECORD, OwnRecords, first_record

__all__ = ["TlsTransport"]

_PLAIN: Final = 16384  # bytes that fit into one record


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """An asyncio.Transport that encrypts onto `below`, whose protocol it is. Its own protocol is set by its user.

    What is written is encrypted at once: the buffer below is the only one, and its limits are ours.
    """

    def __init__(
        self, below: asyncio.Transport, session: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        super().__init__({"ssl_object": session, "sslcontext": session.context})
        self._below = below
        self._session = session
        self._incoming = incoming
        self._outgoing = outgoing
        self._protocol: asyncio.BaseProtocol = below.get_protocol()
        self._error: ssl.SSLError | None = None  # why it was given up
        self._unread = bytearray()  # the beginning of a record
        self._own = OwnRecords()
        self._is_over = False  # the peer has said that nothing more comes
        self._is_ended = False  # the peer was told so
        below.set_protocol(self)

    # --- asyncio.Protocol, of `below` --------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self.received(data)

    def received(self, data: bytes) -> None:
        """Take what has come. One record at a time: of OpenSSL's buffers none shrinks again."""
        if self._is_over or self._below.is_closing():
            return
        self._unread += data
        plain: list[bytes] = []
        self._own.begin()
        is_over = False
        try:
            while not is_over and (size := first_record(self._unread)):
                self._incoming.write(self._unread[:size])
                del self._unread[:size]
                is_over = self._read(plain)
        except ssl.SSLError as exc:
            self._error = exc
            self.flush()
            self._below.abort()
            return
        self.flush()  # the answer to a new key
        if said := b"".join(plain):
            self._protocol.data_received(said)  # type: ignore[attr-defined]
        self._is_over = is_over
        if is_over and not self.is_closing() and not self._protocol.eof_received():  # type: ignore[attr-defined]
            self.close()

    def _read(self, plain: list[bytes]) -> bool:
        """What is in a whole record; whether nothing comes behind it. Raises ssl.SSLError."""
        try:
            plain.append(self._session.read(LONGEST_RECORD))
        except ssl.SSLWantReadError:
            self._own.add()
            return False
        except ssl.SSLZeroReturnError:
            return True
        return not plain[-1]

    def eof_received(self) -> bool | None:
        """See asyncio."""
        return self._protocol.eof_received()  # type: ignore[attr-defined, no-any-return]

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._protocol.connection_lost(self._error or exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._protocol.resume_writing()

    # --- asyncio.Transport -------------------------------------------------------------------------------------------
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        if not data or self._below.is_closing() or self._is_ended:
            return
        whole = memoryview(data)
        try:
            for at in range(0, len(whole), _PLAIN):
                self._session.write(whole[at : at + _PLAIN])
                self.flush()
        except ssl.SSLError:
            self._below.abort()

    def flush(self) -> None:
        """Send what TLS has to say for itself."""
        if self._outgoing.pending and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    def write_eof(self) -> None:
        """See asyncio: tell the peer, by TLS; what it says to that may still have to be answered."""
        if self._is_ended or self._below.is_closing():
            return
        self._is_ended = True
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # it was told; what it says to that is read as anything else
        self.flush()

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return True

    def close(self) -> None:
        """See asyncio."""
        self.write_eof()
        self._below.close()

    def abort(self) -> None:
        """See asyncio."""
        self._below.abort()

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._below.is_closing()

    def pause_reading(self) -> None:
        """See asyncio."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio."""
        self._below.resume_reading()

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._below.is_reading()

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """See asyncio."""
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio."""
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio: `ssl_object`, and what the transport below knows."""
        found = super().get_extra_info(name)
        return self._below.get_extra_info(name, default) if found is None else found

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio."""
        return self._protocol
