"""How fast does a server shake hands? One thread, many connections, and little besides them: one line of JSON.

`seconds`: so long, `at` connections at a time; 0: each of them once, all at once.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import struct
import sys
import time
from typing import Final

_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_TERMINATE: Final = b"X\0\0\0\4"
_SILENT: Final = 10.0  # seconds without a sign of any connection


class Shaker:
    """One connection after the other: asks for TLS, shakes hands, says Terminate, and waits for the end."""

    def __init__(self, selector: selectors.BaseSelector, context: ssl.SSLContext, port: int, *, resumes: bool) -> None:
        self._selector = selector
        self._context = context
        self._port = port
        self._resumes = resumes
        self._session: ssl.SSLSession | None = None
        self.done = self.resumed = 0
        self.connect()

    def connect(self) -> None:
        """Begin the next one."""
        self._sock = socket.socket()
        self._sock.connect(("127.0.0.1", self._port))  # loopback: at once
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._in, self._out, session=self._session)
        self._is_asked = self._is_shaken = False
        self._sock.sendall(_SSL_REQUEST)
        self._selector.register(self._sock, selectors.EVENT_READ, self)

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended."""
        return self._sock.fileno() < 0

    def hear(self) -> None:
        """Something came. Raises RuntimeError, OSError, ssl.SSLError."""
        data = self._sock.recv(16384)
        if not self._is_asked:
            if data != b"S":
                raise RuntimeError("it has no TLS")
            self._is_asked = True
        elif data:
            self._in.write(data)
        if not self._is_shaken:
            if not data:
                raise RuntimeError("it closed the connection")
            self._shake()
        elif self._is_over(data):
            self._end()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._sock.sendall(self._out.read())
            return
        self._is_shaken = True
        self._tls.write(_TERMINATE)
        self._sock.sendall(self._out.read())

    def _is_over(self, data: bytes) -> bool:
        try:
            return not self._tls.read(1)  # the ticket comes before the end
        except ssl.SSLWantReadError:
            return not data
        except ssl.SSLError:
            return True

    def _end(self) -> None:
        self.done += 1
        self.resumed += bool(self._tls.session_reused)
        kept = self._tls.session
        self._session = kept if self._resumes and kept is not None and kept.has_ticket else None
        self._selector.unregister(self._sock)
        self._sock.close()


def main() -> None:
    """Do what the first argument says."""
    asked = json.loads(sys.argv[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what it would cost is the client's
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    begun, begun_at = time.monotonic(), time.time()
    until = begun + asked["seconds"]
    with selectors.DefaultSelector() as selector:
        shakers = [Shaker(selector, context, asked["port"], resumes=asked["resumes"]) for _ in range(asked["at"])]
        left = len(shakers) if not asked["seconds"] else 0  # of a herd
        while left or time.monotonic() < until:
            ready = selector.select(_SILENT)
            if left and not ready:
                raise RuntimeError(f"{left} of {len(shakers)} connections hear nothing any more")
            for key, _ in ready:
                key.data.hear()
                if key.data.is_over and left:
                    left -= 1
                elif key.data.is_over:
                    key.data.connect()
        seconds = time.monotonic() - begun
    done, resumed = sum(each.done for each in shakers), sum(each.resumed for each in shakers)
    print(json.dumps({"done": done, "resumed": resumed, "seconds": seconds, "begun_at": begun_at}))


if __name__ == "__main__":
    main()
