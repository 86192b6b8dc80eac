"""What does systemd hand over, and what is it told? Sockets by LISTEN_FDS, states by NOTIFY_SOCKET, and the watchdog.

See sd_listen_fds(3), sd_notify(3). Without these variables nothing is done.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

from tenantproxy.config import listen_address
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.sidecar.sockets import inherited

__all__ = ["Notifier", "activated"]

_FIRST: Final = 3  # SD_LISTEN_FDS_START

logger = logging.getLogger("tenantproxy")


class Notifier:
    """Tells systemd how the service is. `watchdog`: seconds between signs of life; None: it asks for none."""

    def __init__(self, address: str = "", *, watchdog: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog

    @classmethod
    def of_environment(
        cls, variables: MutableMapping[str, str] = os.environ, *, is_successor: bool = False
    ) -> Notifier:
        """As the environment says. `is_successor`: WATCHDOG_PID names the process before this one."""
        pid = variables.get("WATCHDOG_PID", "")
        micros = variables.get("WATCHDOG_USEC", "")
        is_meant = is_successor or pid in ("", str(os.getpid()))
        watchdog = int(micros) / 2e6 if micros.isdecimal() and int(micros) > 0 and is_meant else None
        return cls(variables.get("NOTIFY_SOCKET", ""), watchdog=watchdog)

    def tell(self, *states: str) -> None:
        """Send `states`, such as READY=1. That systemd cannot be told is logged, and no more."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(self._address)
                sock.sendall("\n".join(states).encode())
        except OSError as exc:
            logger.warning("systemd could not be told %s: %s", states[0], exc)

    def reloading(self) -> None:
        """A reload began; followed by READY=1."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def activated(
    wanted: Mapping[str, str], variables: MutableMapping[str, str] = os.environ
) -> dict[str, list[socket.socket]]:
    """The sockets of socket activation, by listener; the variables are removed.

    `wanted`: listeners and their addresses. A socket belongs to the listener that FileDescriptorName= names, or else
    to the one of its port. Raises ConfigurationError for one that is no listener's, and for what is no TCP socket that
    listens: a descriptor that was not handed over may be one of this process.
    """
    pid, count = variables.pop("LISTEN_PID", ""), variables.pop("LISTEN_FDS", "")
    names = variables.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, list[socket.socket]] = {}
    strangers: list[Problem] = []
    for number in range(int(count)):
        name = names[number] if number < len(names) else ""
        sock, wrong = _checked(_FIRST + number)
        if sock is None:
            fix = "hand over what ListenStream=ADDRESS:PORT of a socket unit opens, and as many as LISTEN_FDS says"
            raise ConfigurationError(
                [Problem(key=f"LISTEN_FDS={count}, descriptor {_FIRST + number}", problem=wrong, fix=fix)]
            )
        listener = name if name in wanted else _by_port(wanted, sock)
        if listener is None:
            problem = f"was handed over by systemd, and no listener of the configuration is meant by it: {name!r}"
            fix = f"write FileDescriptorName= with one of {', '.join(sorted(wanted))} in its socket unit"
            strangers.append(Problem(key=_told(sock), problem=problem, fix=fix))
            sock.close()
        else:
            found.setdefault(listener, []).append(sock)
    if strangers:
        raise ConfigurationError(strangers)
    return found


def _checked(fd: int) -> tuple[socket.socket | None, str]:
    """The socket, or what is wrong with `fd`, which is left as it is then."""
    try:
        sock = inherited(fd)
    except OSError as exc:
        return None, f"is no socket ({exc.strerror})"
    wrong = ""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        wrong = "is no TCP socket"
    elif sock.type is not socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "is no socket that listens"
    if wrong:
        sock.detach()
        return None, wrong
    return sock, ""


def _by_port(wanted: Mapping[str, str], sock: socket.socket) -> str | None:
    name = sock.getsockname()
    port = name[1] if isinstance(name, tuple) else None
    return next((listener for listener, listen in wanted.items() if listen_address(listen)[1] == port), None)


def _told(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"the socket {name[0]}:{name[1]}" if isinstance(name, tuple) else f"the socket {name}"
