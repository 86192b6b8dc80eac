"""Does the holder of a backend that ends hear of it, whatever has become of its socket?"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, cast

from tenantproxy.raw.backend import RawBackend, discard
from tenantproxy.raw.close import End
from tests.support.fake_wire import FakeTransport


class ResetTransport(FakeTransport):
    """As asyncio's of a socket that its peer has reset, which was not read yet."""

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


class Owner:
    """Remembers whether what has ended may live on."""

    def __init__(self) -> None:
        self.silent: list[bool] = []

    def cancel(self, backend: RawBackend, done: Callable[[], None] | None = None) -> None:
        """See `EndOwner`."""

    def ended(self, backend: RawBackend, *, silent: bool, sock: socket.socket | None) -> None:
        """See `EndOwner`."""
        self.silent.append(silent)


async def test_a_backend_that_its_server_has_reset_ends_and_its_holder_is_told() -> None:
    backend, owner, heard = RawBackend(cast("Any", None)), Owner(), list[Exception | None]()
    backend.use(ResetTransport())
    backend.sink, backend.on_lost = discard, heard.append
    End(owner, backend).begin()
    await asyncio.sleep(0)
    assert [type(each) for each in heard] == [ConnectionAbortedError]
    backend.connection_lost(ConnectionResetError())
    assert owner.silent == [False]
