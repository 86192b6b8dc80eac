"""What encrypts where the compiled path does not? A transport on another one, after the handshake."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

__all__ = ["TlsTransport"]


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
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self._error: ssl.SSLError | None = None  # why it was given up
        self._is_ended = False  # the peer was told that nothing more comes
        below.set_protocol(self)

    # --- asyncio.Protocol, of `below` --------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._incoming.write(data)
        plain: list[bytes] = []
        is_over = False
        try:
            while self._incoming.pending or self._session.pending():
                plain.append(self._session.read(65536))
                if not plain[-1]:
                    is_over = True
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            is_over = True
        except ssl.SSLError as exc:
            self._error = exc
            self.flush()
            self._below.abort()
            return
        self.flush()  # the answer to a new key
        if said := b"".join(plain):
            self._protocol.data_received(said)  # type: ignore[attr-defined]
        if is_over and not self.is_closing() and not self._protocol.eof_received():  # type: ignore[attr-defined]
            self.close()

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
        try:
            self._session.write(data)
        except ssl.SSLError:
            self._below.abort()
            return
        self.flush()

    def flush(self) -> None:
        """Send what TLS has to say for itself."""
        if self._outgoing.pending and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    def write_eof(self) -> None:
        """See asyncio: tell the peer, by TLS and by TCP."""
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
