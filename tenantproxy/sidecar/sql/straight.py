"""Which requests of `POST /sql` are answered without aiohttp? Those that come whole, of callers that are known.

State: heads that were read, by a keyed hash of them and of the peer: nothing that they say of a password is kept.
Whatever else a request has or lacks, it is left to aiohttp before anything is done for it, and refused there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from email.utils import formatdate
from functools import partial
from time import monotonic, time
from typing import Final, NamedTuple, Protocol, TypeVar

from multidict import MultiMapping

from tenantproxy.config import SqlSettings
from tenantproxy.errors import AuthError, TenantProxyError
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.middleware.problems import GONE, request_id
from tenantproxy.model import Route
from tenantproxy.sidecar.pg.port import PgPort
from tenantproxy.sidecar.shortcut import Peer, Shortcut
from tenantproxy.sidecar.sql.answer import answering, error_body, retry_after, server_error
from tenantproxy.sidecar.sql.caller import SqlCallers, Visitor
from tenantproxy.sidecar.sql.head import REQUEST_LINE, read_head
from tenantproxy.sidecar.sql.kept import Kept
from tenantproxy.sidecar.sql.request import HEADERS, SqlRequest, reading_request
from tenantproxy.sidecar.sql.run import SqlRun
from tenantproxy.sidecar.sql.states import ServerSaid
from tenantproxy.slices import is_over, slice_end
from tenantproxy.wire.results import StatementResult

__all__ = ["StraightSql"]

T = TypeVar("T")

_MOST_HEAD: Final = 8192  # bytes
_MOST_BODY: Final = 16 * 1024
_MOST_KNOWN: Final = 4096
_KEY_BYTES: Final = 32
_END: Final = b"\r\n\r\n"
_STATUS: Final = {
    200: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n",
    400: b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n",
}

logger = logging.getLogger("tenantproxy")


class StraightHost(Protocol):
    """The routes that have all other requests."""

    @property
    def limits(self) -> SqlSettings:
        """What one request may ask for."""
        ...

    @property
    def callers(self) -> SqlCallers:
        """Who is known."""
        ...

    def is_elsewhere(self, route: Route) -> bool:
        """Whether another region serves the tenant."""
        ...

    def visitor(self, headers: MultiMapping[str], peer: Peer) -> Visitor:
        """What the headers show of the caller. Raises what a request with them is refused with."""
        ...


class _Framed(NamedTuple):
    """A request by its head. `caller`: the mark of its visitor; None: aiohttp's."""

    start: int  # of the body
    size: int
    caller: bytes | None
    modes: Mapping[str, str]
    request_id: str  # empty: it has none of its own


class StraightSql:
    """A `shortcut.ShortDoor`, on the callers and limits of `door` and the backends of `port`."""

    def __init__(self, door: StraightHost, port: PgPort, requests: HttpRequests) -> None:
        self._door = door
        self._port = port
        self._requests = requests
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._known: dict[bytes, _Framed] = {}

    def forget(self) -> None:
        """Proxies, limits or callers are others now."""
        self._known.clear()

    def read(self, data: bytes, peer: Peer) -> _Framed | None:
        """See `shortcut.ShortDoor`."""
        end = data.find(_END, 0, _MOST_HEAD)
        if end < 0 or not data.startswith(REQUEST_LINE):
            return None
        said = b"%d %b %b" % (peer.is_encrypted, (peer.remote or "").encode(), data[:end])
        mark = hashlib.blake2b(said, key=self._key, digest_size=32).digest()
        return self._known.get(mark) or self._read(data[len(REQUEST_LINE) : end], end + len(_END), peer, mark)

    def _read(self, said: bytes, start: int, peer: Peer, mark: bytes) -> _Framed | None:
        head = read_head(said)
        if head is None:
            return None
        caller: bytes | None = None
        headers = head.headers
        if "traceparent" in headers and self._port.lender.watch is not None:
            return None  # what is its own in each request is for aiohttp
        try:
            visitor = self._door.visitor(headers, peer)
            if visitor.connection and not visitor.authorization and self._port.has_backends:
                caller = self._door.callers.mark(visitor)
        except TenantProxyError:
            pass  # aiohttp tells it
        modes = {name: headers[name] for name in HEADERS if name in headers}
        given = headers.getall("X-Request-ID", ())
        own = request_id(given)
        framed = _Framed(start, start + head.length, caller, modes, own if own in given else "")
        if caller is not None and self._is_known(caller):  # who is a stranger fills no table
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[mark] = framed
        return framed

    def _is_known(self, caller: bytes) -> bool:
        try:
            return self._door.callers.known(caller) is not None
        except AuthError:
            return False

    def take(self, data: bytes, framed: _Framed, shortcut: Shortcut) -> _StraightRequest | None:
        """See `shortcut.ShortDoor`."""
        if framed.caller is None or framed.size - framed.start > _MOST_BODY or not self._port.has_backends:
            return None
        listener, limits = self._port.listener, self._door.limits
        kept = None
        try:
            target = self._door.callers.known(framed.caller)
            if target is None or target.tenant is None:
                return None
            body = data[framed.start :]
            if len(body) > limits.max_body:
                return None
            sql = _found(reading_request(body, framed.modes, limits))
            source = listener.source_of(target.tenant).reading(replica=target.replica)
            found = source.known()
            if found is None or self._door.is_elsewhere(found[1]):
                return None
            kept = Kept(source.memory)
            kept.add(len(sql.message))
        except TenantProxyError:
            if kept is not None:
                kept.end()
            return None  # the same again says it in aiohttp's answer
        run = SqlRun(target.tenant, sql, self._port.lender, limits, listener.traffic_of(target.tenant), kept)
        request = _StraightRequest(self, run, sql, kept, shortcut, framed.request_id)
        listener.guests.add(run)
        try:
            run.begin(*found)
        except TenantProxyError as exc:
            run.future.set_exception(exc)
        return request

    def told(self, run: SqlRun, code: int, seconds: float) -> None:
        """A request is over."""
        self._port.listener.guests.discard(run)
        self._requests.observe(route="/sql", method="POST", code=code, seconds=seconds)


class _StraightRequest:
    """One that was taken."""

    __slots__ = ("_began", "_door", "_id", "_is_lost", "_kept", "_run", "_shortcut", "_sql", "_steps")

    def __init__(
        self, door: StraightSql, run: SqlRun, sql: SqlRequest, kept: Kept, shortcut: Shortcut, request: str
    ) -> None:
        self._door = door
        self._run = run
        self._sql = sql
        self._kept = kept
        self._shortcut = shortcut
        self._id = run.request_id = request or request_id(())
        self._is_lost = False
        self._began = monotonic()
        self._steps: Generator[None, None, bytes] | None = None
        run.future.add_done_callback(self._told)

    def ended(self) -> None:
        """See `shortcut.ShortRequest`."""
        self._kept.end()

    def lost(self) -> None:
        """See `shortcut.ShortRequest`."""
        self._is_lost = True
        self._run.gone()
        self._kept.end()

    def _told(self, future: asyncio.Future[list[StatementResult]]) -> None:
        self._guarded(partial(self._heard, future))

    def _heard(self, future: asyncio.Future[list[StatementResult]]) -> None:
        if future.cancelled():
            self._over(GONE, b"")
            return
        error = future.exception()
        if self._is_lost:
            self._over(GONE, b"")
        elif error is None:
            self._steps = answering(future.result(), self._sql)
            self._answer()
        elif isinstance(error, ServerSaid):
            self._refuse(server_error(error.payload))
        elif isinstance(error, TenantProxyError):
            self._refuse(error_body(error), retry_after(error))
        else:
            raise error

    def _answer(self) -> None:
        """Write the answer, in as many slices as it takes."""
        assert self._steps is not None
        end = slice_end()
        try:
            while not is_over(end):
                next(self._steps)
        except StopIteration as done:
            self._write(200, done.value, self._sql.echo)
            return
        if self._is_lost:
            self._over(GONE, b"")
        else:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._guarded(self._answer)

    def _guarded(self, act: Callable[[], None]) -> None:
        """A boundary: what fails ends this connection, and nothing else."""
        try:
            act()
        except Exception:
            about = {"request_id": self._id, "tenant": self._run.tenant}
            logger.exception("request %s failed", self._id, extra=about)
            self._over(500, b"")

    def _refuse(self, body: bytes, retry: str | None = None) -> None:
        self._write(400, body, () if retry is None else (("Retry-After", retry),))

    def _write(self, code: int, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        try:
            self._kept.add(len(body))
        except TenantProxyError as exc:  # of an answer, which is larger than what it tells
            code, body, headers = 400, error_body(exc), ()
        parts = [_STATUS[code]]
        parts += [b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in headers]
        if self._shortcut.is_last:
            parts.append(b"Connection: close\r\n")
        parts.append(b"Content-Length: %d\r\nX-Request-Id: %b\r\n%b\r\n" % (len(body), self._id.encode(), _date()))
        parts.append(body)
        self._over(code, b"".join(parts))

    def _over(self, code: int, answer: bytes) -> None:
        self._door.told(self._run, code, monotonic() - self._began)
        if not self._is_lost:
            self._shortcut.over(answer)


def _found(steps: Generator[None, None, T]) -> T:
    try:
        while True:
            next(steps)
    except StopIteration as end:
        found: T = end.value
        return found


class _Clock:
    """The Date of answers, made once a second."""

    second = 0
    line = b""


def _date() -> bytes:
    now = int(time())
    if now != _Clock.second:
        _Clock.second, _Clock.line = now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
    return _Clock.line
