"""Which sockets does the process listen on? They are bound here, or handed over by systemd, a supervisor, a former one.

A socket that several processes share is listened on by each; who goes closes its own descriptor, and what waits in the
backlog is accepted by the others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from tenantproxy.config import Settings, listen_address
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["BACKLOG", "Listening", "Sockets", "bound", "close_all", "duplicates", "inherited", "listeners", "serve"]

BACKLOG: Final = 1024
_SHARED_BATCH: Final = 1  # connections that are accepted before the other processes have their chance

Sockets: TypeAlias = Mapping[str, Sequence[socket.socket]]
"""By listener: `http`, `pg`, `admin`."""

Factory: TypeAlias = Callable[[], asyncio.BaseProtocol]
"""Makes the protocol of one connection."""


class _Shared(socket.socket):
    """A listening socket of several processes: its backlog is larger than what is accepted at once."""

    def listen(self, backlog: int = BACKLOG, /) -> None:
        super().listen(max(backlog, BACKLOG))


class Listening:
    """The servers of one listener, one for each of its sockets.

    `shared`: the sockets, where other processes accept from them too; only such a listener can pause.
    """

    def __init__(
        self, factory: Factory, servers: Sequence[asyncio.Server], shared: Sequence[socket.socket] = ()
    ) -> None:
        self._factory = factory
        self._servers = servers
        self._shared = shared

    @property
    def address(self) -> tuple[str, int]:
        """Host and real port of the first socket. RuntimeError when it is closed."""
        if not self._servers or not self._servers[0].sockets:
            raise RuntimeError("the listener is not open")
        host, port = self._servers[0].sockets[0].getsockname()[:2]
        return host, port

    def is_serving(self) -> bool:
        """Whether it accepts."""
        return any(server.is_serving() for server in self._servers)

    async def take_clients(self, wanted: bool) -> None:
        """Leave what connects, and the backlog, to the other processes, or accept again. Raises OSError."""
        if not self._shared:
            raise RuntimeError("no other process would accept")
        if wanted == self.is_serving():
            return
        if wanted:
            self._servers = await _accepting(self._factory, self._shared)
            return
        self._shared = [sock.dup() for sock in self._shared]
        for server in self._servers:
            server.close()
        self._servers = ()

    def close(self) -> None:
        """Accept no more."""
        for server in self._servers:
            server.close()
        close_all({"": self._shared})


async def serve(
    factory: Factory,
    host: str,
    port: int,
    *,
    sockets: Sequence[socket.socket] = (),
) -> Listening:
    """Accept on `sockets`, which belong to the answer then, or else on `host:port` (0: a free one). Raises OSError."""
    loop = asyncio.get_running_loop()
    if not sockets:
        return Listening(factory, [await loop.create_server(factory, host, port, backlog=BACKLOG)])
    return Listening(factory, await _accepting(factory, sockets), sockets)


async def _accepting(factory: Factory, sockets: Sequence[socket.socket]) -> list[asyncio.Server]:
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    try:
        for sock in sockets:
            # asyncio accepts as many connections in one step as its backlog says; of a shared socket that would be all.
            is_fair = isinstance(sock, _Shared) and isinstance(loop, asyncio.SelectorEventLoop)
            batch = _SHARED_BATCH if is_fair else BACKLOG
            servers.append(await loop.create_server(factory, sock=sock, backlog=batch))
    except BaseException:
        for server in servers:
            server.close()
        raise
    return servers


def listeners(settings: Settings) -> dict[str, str]:
    """The listeners that `settings` ask for, and their `host:port`."""
    pg = settings.pg
    wanted = {"http": settings.http.listen, "admin": settings.admin.listen}
    if pg.listen and (pg.users or pg.jwt or pg.oauth_issuer):
        wanted["pg"] = pg.listen
    return {name: listen for name, listen in wanted.items() if listen}


def bound(name: str, listen: str) -> list[socket.socket]:
    """New sockets for `listen`, bound and not listening. Raises ConfigurationError naming the key."""
    host, port = listen_address(listen)
    made: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sock = socket.socket(family, kind, proto)
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except OSError as exc:
        close_all({name: made})
        problem = Problem(
            key=f"{name}.listen", problem=f"cannot be bound ({exc.strerror})", fix="choose a free address or port"
        )
        raise ConfigurationError([problem]) from exc
    return made


def inherited(fd: int) -> socket.socket:
    """The listening socket `fd`, which this process was started with; closed when it starts another. Raises OSError."""
    sock = _Shared(fileno=fd)
    sock.set_inheritable(False)
    return sock


def duplicates(sockets: Sockets) -> dict[str, list[socket.socket]]:
    """The same sockets for a listener of this process, which closes its own descriptors."""
    return {name: [sock.dup() for sock in each] for name, each in sockets.items()}


def close_all(sockets: Mapping[str, Iterable[socket.socket]]) -> None:
    """Close them in this process."""
    for each in sockets.values():
        for sock in each:
            sock.close()
