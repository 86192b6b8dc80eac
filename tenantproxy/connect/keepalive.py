"""When does the kernel give a silent peer up? Socket options of connections to PostgreSQL; the same for both sides."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

__all__ = ["keep_alive"]

IDLE_SECONDS: Final = 60  # then the kernel asks whether the peer is there; the system's default is two hours
_PAUSE_SECONDS: Final = 10  # between two such questions
_QUESTIONS: Final = 6


def keep_alive(transport: asyncio.BaseTransport, unacknowledged_seconds: float) -> None:
    """Ask an idle peer now and then whether it is there, and give it up when it acknowledges nothing for so long.

    TCP_USER_TIMEOUT is Linux's alone; the rest is set where the system has it. A unix socket needs none of it.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = (
        ("TCP_KEEPIDLE", IDLE_SECONDS),
        ("TCP_KEEPINTVL", _PAUSE_SECONDS),
        ("TCP_KEEPCNT", _QUESTIONS),
        ("TCP_USER_TIMEOUT", round(unacknowledged_seconds * 1000)),
    )
    for name, value in options:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
