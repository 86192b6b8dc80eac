"""How long does a request take at a given pace? An open loop: what waits for a connection counts that.

One thread over a selector, for a load that costs more than what it asks measures itself. It tells how late it was to
send: that is its own time and the machine's, and no request counts it.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from time import perf_counter
from typing import NamedTuple

__all__ = ["Paced", "at_pace"]

_LOOK_SECONDS = 0.001  # at most between two looks at what is due
_STALL_SECONDS = 30.0


class Paced(NamedTuple):
    """Seconds: that each request took, and that the load was late to ask it."""

    took: list[float]
    late: list[float]


class _Caller:
    """One connection, one request at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.since = 0.0
        self._got = b""

    def ask(self, request: bytes, since: float) -> None:
        self.since = since
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Reads what came. Raises RuntimeError for any answer but 200."""
        data = self.socket.recv(65536)
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not data or (end and not head.startswith(b"HTTP/1.1 200")):
            raise RuntimeError(f"a request failed: {head[:80]!r}")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return False
        self._got = b""
        return True


def at_pace(host: str, port: int, request: bytes, *, per_second: float, seconds: float, connections: int) -> Paced:
    """Blocks. Raises RuntimeError where a request failed, or nothing was answered for 30 s."""
    found = Paced([], [])
    waiting: deque[float] = deque()
    with selectors.DefaultSelector() as selector:
        free = deque(_Caller((host, port)) for _ in range(connections))
        for caller in free:
            selector.register(caller.socket, selectors.EVENT_READ, caller)
        began = last = perf_counter()
        asked = 0
        try:
            while (now := perf_counter()) - began < seconds or len(found.took) < asked:
                while now - began < seconds and asked < (now - began) * per_second:
                    found.late.append(now - began - asked / per_second)
                    asked += 1
                    if free:
                        free.popleft().ask(request, now)
                    else:
                        waiting.append(now)
                for key, _ in selector.select(_LOOK_SECONDS):
                    caller = key.data
                    if caller.is_answered():
                        last = perf_counter()
                        found.took.append(last - caller.since)
                        if waiting:
                            caller.ask(request, waiting.popleft())
                        else:
                            free.append(caller)
                if perf_counter() - last > _STALL_SECONDS:
                    raise RuntimeError("nothing is answered any more")
        finally:
            for key in list(selector.get_map().values()):
                key.data.socket.close()
    return found
