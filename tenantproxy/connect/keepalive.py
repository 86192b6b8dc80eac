"""When does the kernel give a silent peer up? Socket options of connections, to PostgreSQL and from clients."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

__all__ = ["keep_alive"]

IDLE_SECONDS: Final = 60  # then the kernel asks whether the peer is there; the system's default is two hours
_PAUSE_SECONDS: Final = 10  # between two such questions
_QUESTIONS: Final = 6
_LONGEST: Final = 32_767  # seconds that Linux takes


def keep_alive(
    transport: asyncio.BaseTransport, unacknowledged_seconds: float | None, *, idle_seconds: float = IDLE_SECONDS
) -> None:
    """Ask an idle peer now and then whether it is there, and give it up when it acknowledges nothing for so long.

    `unacknowledged_seconds` None: what was sent to it may wait for longer, for it may take nothing because it is busy.
    TCP_USER_TIMEOUT is Linux's alone; the rest is set where the system has it. A unix socket needs none of it.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = (
        ("TCP_KEEPIDLE", min(max(1, round(idle_seconds)), _LONGEST)),
        ("TCP_KEEPINTVL", _PAUSE_SECONDS),
        ("TCP_KEEPCNT", _QUESTIONS),
        ("TCP_USER_TIMEOUT", None if unacknowledged_seconds is None else round(unacknowledged_seconds * 1000)),
    )
    for name, value in options:
        if value is not None and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
