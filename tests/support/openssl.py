"""How does a test say by TLS what Python's ssl cannot: new keys, any server name, an early end? By OpenSSL itself."""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
from typing import Any, Final, Self

__all__ = ["Peer"]

_CHUNK: Final = 65536
_SERVER_NAME: Final = 55  # SSL_CTRL_SET_TLSEXT_HOSTNAME
_ALERT: Final = 21


def _function(library: ctypes.CDLL, name: str, result: Any, *args: Any) -> Any:
    found = getattr(library, name)
    found.restype, found.argtypes = result, args
    return found


class _OpenSsl:
    """The functions of it that are needed. Raises OSError where it is not installed."""

    def __init__(self) -> None:
        ssl, crypto = (ctypes.CDLL(ctypes.util.find_library(name) or f"lib{name}.so.3") for name in ("ssl", "crypto"))
        pointer, number, data = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        self.method = _function(ssl, "TLS_client_method", pointer)
        self.new_context = _function(ssl, "SSL_CTX_new", pointer, pointer)
        self.free_context = _function(ssl, "SSL_CTX_free", None, pointer)
        self.new = _function(ssl, "SSL_new", pointer, pointer)
        self.free = _function(ssl, "SSL_free", None, pointer)
        self.set_bio = _function(ssl, "SSL_set_bio", None, pointer, pointer, pointer)
        self.be_client = _function(ssl, "SSL_set_connect_state", None, pointer)
        self.handshake = _function(ssl, "SSL_do_handshake", number, pointer)
        self.key_update = _function(ssl, "SSL_key_update", number, pointer, number)
        self.write = _function(ssl, "SSL_write", number, pointer, data, number)
        self.read = _function(ssl, "SSL_read", number, pointer, data, number)
        self.shutdown = _function(ssl, "SSL_shutdown", number, pointer)
        self.control = _function(ssl, "SSL_ctrl", ctypes.c_long, pointer, number, ctypes.c_long, pointer)
        self.new_bio = _function(crypto, "BIO_new", pointer, pointer)
        self.memory = _function(crypto, "BIO_s_mem", pointer)
        self.bio_read = _function(crypto, "BIO_read", number, pointer, data, number)
        self.bio_write = _function(crypto, "BIO_write", number, pointer, data, number)


class Peer:
    """A client on a blocking socket, which verifies nothing. Only `handshake` sends: `take` what is to go out."""

    def __init__(self, sock: socket.socket, *, server_name: bytes = b"") -> None:
        self._sock = sock
        self._lib = lib = _OpenSsl()
        self._context = lib.new_context(lib.method())
        self._ssl = lib.new(self._context)
        self._in, self._out = lib.new_bio(lib.memory()), lib.new_bio(lib.memory())
        self._buffer = ctypes.create_string_buffer(_CHUNK)
        lib.set_bio(self._ssl, self._in, self._out)
        lib.be_client(self._ssl)
        if server_name:
            assert lib.control(self._ssl, _SERVER_NAME, 0, ctypes.cast(ctypes.c_char_p(server_name), ctypes.c_void_p))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lib.free(self._ssl)
        self._lib.free_context(self._context)

    def take(self) -> bytes:
        """What TLS wants to send."""
        out = b""
        while (size := self._lib.bio_read(self._out, self._buffer, _CHUNK)) > 0:
            out += self._buffer.raw[:size]
        return out

    def handshake(self) -> None:
        """All of it but what goes out last. Raises ConnectionError with what the server answers instead."""
        while self._lib.handshake(self._ssl) != 1:
            self._sock.sendall(self.take())
            data = self._sock.recv(_CHUNK)
            if not data or data[0] == _ALERT:
                raise ConnectionError(f"the handshake failed: {data!r}")
            self._lib.bio_write(self._in, data, len(data))

    def seal(self, data: bytes) -> bytes:
        """`data` as it is to go out, with what else is."""
        assert self._lib.write(self._ssl, data, len(data)) == len(data)
        return self.take()

    def end(self) -> bytes:
        """That nothing more comes."""
        self._lib.shutdown(self._ssl)
        return self.take()

    def new_keys(self, count: int, *, for_both: bool = True) -> bytes:
        """So many messages that there is a new key: `for_both` sides, or the own one alone."""
        out = []
        for _ in range(count):
            assert self._lib.key_update(self._ssl, int(for_both)) == 1
            assert self._lib.handshake(self._ssl) == 1
            out.append(self.take())
        return b"".join(out)

    def unseal(self, data: bytes) -> bytes:
        """What the server says by `data`."""
        assert not data or self._lib.bio_write(self._in, data, len(data)) == len(data)
        out = b""
        while (size := self._lib.read(self._ssl, self._buffer, _CHUNK)) > 0:
            out += self._buffer.raw[:size]
        return out
