"""How does asyncio run on the compiled epoll? A selector, and a loop whose plain sockets are the pump's connections.

Servers, clients, TLS, signals, timers and threads are asyncio's own.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from typing import Any

from tenantproxy._native.core import Conn, Pump

__all__ = ["NativeLoop", "PumpSelector", "pump_of"]

_IN, _OUT = 1, 4  # EPOLLIN, EPOLLOUT
_ACCEPTED_AT_ONCE = 16  # one too many is closed two steps later, and has a descriptor until then


class _Keys(Mapping[Any, selectors.SelectorKey]):
    """The registered keys by file object or descriptor."""

    def __init__(self, keys: dict[int, selectors.SelectorKey]) -> None:
        self._keys = keys

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[_number(fileobj)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class PumpSelector(selectors.BaseSelector):
    """What asyncio asks of a selector, from `pump`, which serves its own connections while it waits."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._map = _Keys(self._keys)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See selectors."""
        number = _number(fileobj)
        if number in self._keys:
            raise KeyError(f"{fileobj!r} (FD {number}) is already registered")
        key = selectors.SelectorKey(fileobj, number, events, data)
        self._pump.watch(number, _mask(events), True)
        self._keys[number] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See selectors."""
        key = self._keys.pop(_number(fileobj))
        self._pump.watch(key.fd, 0, False)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See selectors."""
        key = self._keys[_number(fileobj)]
        if events != key.events:
            self._pump.watch(key.fd, _mask(events), False)
        key = self._keys[key.fd] = key._replace(events=events, data=data)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors."""
        found = []
        for number, mask in self._pump.wait(timeout):
            key = self._keys.get(number)
            if key is not None:  # else it was unregistered meanwhile
                is_readable = selectors.EVENT_READ if mask & ~_OUT else 0
                is_writable = selectors.EVENT_WRITE if mask & ~_IN else 0
                found.append((key, (is_readable | is_writable) & key.events))
        return found

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See selectors."""
        return self._map

    def close(self) -> None:
        """See selectors."""
        self._keys.clear()
        self._pump.close()


class NativeLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a `pump`. Plain stream sockets, accepted or connected, are `core.Conn`."""

    def __init__(self) -> None:
        self.pump = Pump()
        super().__init__(PumpSelector(self.pump))
        self.pump.serve(self, self._ready)  # type: ignore[attr-defined]

    def call_at(  # type: ignore[override]  # in Python 3.11 there is no word for its signature
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio. The pump waits no longer than until then."""
        self.pump.hurry(when)
        return super().call_at(when, callback, *args, context=context)

    def _accept_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: object = None,
        server: object = None,
        backlog: int = 100,
        *more: Any,
        **options: Any,
    ) -> None:
        """What asyncio's servers accept by, without a task for each: there is nothing to wait for without its TLS."""
        for _ in range(min(backlog, _ACCEPTED_AT_ONCE) if sslcontext is None else 0):
            try:
                accepted, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                break
            accepted.setblocking(False)
            self._make_socket_transport(accepted, protocol_factory(), extra={"peername": peer})
        else:
            if sslcontext is None:
                return
        # It meets the same error, and knows what to do where descriptors are scarce.
        accept = super()._accept_connection  # type: ignore[misc]
        accept(protocol_factory, sock, sslcontext, server, backlog, *more, **options)

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        server: object = None,
        **options: Any,
    ) -> Conn:
        """What asyncio makes its transports by, for servers and clients alike."""
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn = Conn(self.pump, sock, protocol, None if extra is None else _with_shared_host(extra.get("peername")))
        self.call_soon(conn.begin, waiter)
        return conn


def pump_of(loop: asyncio.AbstractEventLoop) -> Pump | None:
    """The pump of `loop`; None: it is another one."""
    return loop.pump if isinstance(loop, NativeLoop) else None


def _with_shared_host(peer: Any) -> Any:
    """Thousands of clients come from a few hosts."""
    return (sys.intern(peer[0]), *peer[1:]) if type(peer) is tuple and type(peer[0]) is str else peer


def _number(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


def _mask(events: int) -> int:
    return (_IN if events & selectors.EVENT_READ else 0) | (_OUT if events & selectors.EVENT_WRITE else 0)
