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
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol, TypeVar

from multidict import MultiMapping

from tenantproxy.config import SqlSettings
from tenantproxy.errors import AuthError, TenantProxyError
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.middleware.problems import GONE, request_id
from tenantproxy.model import Route, TenantId
from tenantproxy.sidecar.pg.context import ADDRESS
from tenantproxy.sidecar.pg.listener import PgListener
from tenantproxy.sidecar.pg.port import PgPort
from tenantproxy.sidecar.pg.sources import TenantSource
from tenantproxy.sidecar.pg.users import Target
from tenantproxy.sidecar.shortcut import Peer, Shortcut
from tenantproxy.sidecar.sql.answer import answer_at_once, answering, error_body, retry_after, server_error
from tenantproxy.sidecar.sql.caller import SqlCallers, Visitor
from tenantproxy.sidecar.sql.head import REQUEST_LINE, read_head
from tenantproxy.sidecar.sql.kept import Kept
from tenantproxy.sidecar.sql.request import HEADERS, Modes, SqlRequest, modes_of, reading_request, request_at_once
from tenantproxy.sidecar.sql.run import SqlRun, SqlRuns
from tenantproxy.sidecar.sql.states import ServerSaid
from tenantproxy.sidecar.sql.written import response
from tenantproxy.slices import is_over, slice_end

__all__ = ["StraightSql"]

T = TypeVar("T")

_MOST_HEAD: Final = 8192  # bytes
_MOST_BODY: Final = 16 * 1024
_MOST_KNOWN: Final = 4096
_KEY_BYTES: Final = 32
_END: Final = b"\r\n\r\n"
_NO_MODES: Final = Modes(as_array=False, is_raw=False)

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

    @property
    def runs(self) -> SqlRuns:
        """What all requests have in common."""
        ...

    def is_elsewhere(self, route: Route) -> bool:
        """Whether another region serves the tenant."""
        ...

    def visitor(self, headers: MultiMapping[str], peer: Peer) -> Visitor:
        """What the headers show of the caller. Raises what a request with them is refused with."""
        ...


@dataclass(slots=True)
class _Framed:
    """A request by its head. `caller`: the mark of its visitor; None: aiohttp's.

    `source`: where its tenant was found by `listener`, kept for the next one.
    """

    start: int  # of the body
    size: int
    caller: bytes | None
    said: Mapping[str, str]  # of `HEADERS`
    modes: Modes
    request_id: str  # empty: it has none of its own
    source: TenantSource | None = None
    listener: PgListener | None = None

    def source_of(self, target: Target, tenant: TenantId, listener: PgListener) -> TenantSource:
        """Where the tenant of its caller is found."""
        source, wanted = self.source, (tenant, target.context, target.system, target.read_only)
        if (
            source is None
            or self.listener is not listener
            or (source.tenant, source.context, source.system, source.read_only) != wanted
        ):
            here = listener.source_of(tenant).of(target.context, target.system, read_only=target.read_only)
            source = self.source = here.reading(replica=target.replica)
            self.listener = listener
        return source


class StraightSql:
    """A `shortcut.ShortDoor`, on the callers and limits of `door` and the backends of `port`."""

    def __init__(self, door: StraightHost, port: PgPort, requests: HttpRequests) -> None:
        self._door = door
        self._port = port
        self._observe = requests.observer(route="/sql", method="POST")
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
        modes_said = {name: headers[name] for name in HEADERS if name in headers}
        modes = _NO_MODES
        try:
            modes = modes_of(modes_said)
            visitor = self._door.visitor(headers, peer)
            if visitor.connection and not visitor.authorization and self._port.has_backends:
                caller = self._door.callers.mark(visitor)
        except TenantProxyError:
            pass  # aiohttp tells it
        given = headers.getall("X-Request-ID", ())
        own = request_id(given)
        framed = _Framed(start, start + head.length, caller, modes_said, modes, own if own in given else "")
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
        listener, runs = self._port.listener, self._door.runs
        limits = runs.limits
        kept = None
        try:
            target = self._door.callers.known(framed.caller)
            if target is None or target.tenant is None or any(value == ADDRESS for _, value in target.context):
                return None
            body = data[framed.start :]
            if len(body) > limits.max_body:
                return None
            sql = request_at_once(body, limits, framed.modes)
            sql = sql or _found(reading_request(body, framed.said, limits, framed.modes))
            source = framed.source_of(target, target.tenant, listener)
            found = source.known()
            if found is None or self._door.is_elsewhere(found[1]):
                return None
            kept = Kept(source.memory)
            kept.add(len(sql.message))
        except TenantProxyError:
            if kept is not None:
                kept.end()
            return None  # the same again says it in aiohttp's answer
        request = _StraightRequest(self, sql, kept, shortcut, framed.request_id)
        run = request.run = SqlRun(target.tenant, sql, runs, listener.traffic_of(target.tenant), kept, request.told)
        run.request_id = request.id
        listener.guests.add(run)
        try:
            run.begin(*found)
        except TenantProxyError as exc:
            run.refused(exc)
        return request

    def told(self, run: SqlRun, code: int, seconds: float) -> None:
        """A request is over."""
        self._port.listener.guests.discard(run)
        self._observe(code, seconds)


class _StraightRequest:
    """One that was taken."""

    __slots__ = ("_began", "_door", "_is_lost", "_kept", "_shortcut", "_sql", "_steps", "id", "run")

    run: SqlRun

    def __init__(self, door: StraightSql, sql: SqlRequest, kept: Kept, shortcut: Shortcut, request: str) -> None:
        self._door = door
        self._sql = sql
        self._kept = kept
        self._shortcut = shortcut
        self.id = request or request_id(())
        self._is_lost = False
        self._began = monotonic()
        self._steps: Generator[None, None, bytes] | None = None

    def ended(self) -> None:
        """See `shortcut.ShortRequest`."""
        self._kept.end()

    def lost(self) -> None:
        """See `shortcut.ShortRequest`."""
        self._is_lost = True
        self.run.gone()
        self._kept.end()

    def told(self, run: SqlRun) -> None:
        """It is over."""
        self._guarded(self._heard)

    def _heard(self) -> None:
        error = self.run.error
        if self._is_lost or self.run.is_gone:
            self._over(GONE, b"")
        elif error is None:
            body = answer_at_once(self.run.results, self._sql)
            if body is not None:
                self._write(200, body, ())
            else:
                self._steps = answering(self.run.results, self._sql)
                self._answer()
        elif isinstance(error, ServerSaid):
            self._refuse(server_error(error.payload))
        else:
            self._refuse(error_body(error), retry_after(error))

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
            about = {"request_id": self.id, "tenant": self.run.tenant}
            logger.exception("request %s failed", self.id, extra=about)
            self._over(500, b"")

    def _refuse(self, body: bytes, retry: str | None = None) -> None:
        self._write(400, body, () if retry is None else (("Retry-After", retry),))

    def _write(self, code: int, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        try:
            self._kept.add(len(body))
        except TenantProxyError as exc:  # of an answer, which is larger than what it tells
            code, body, headers = 400, error_body(exc), ()
        self._over(code, response(code, body, headers, request=self.id, is_last=self._shortcut.is_last))

    def _over(self, code: int, answer: bytes) -> None:
        self._door.told(self.run, code, monotonic() - self._began)
        if not self._is_lost:
            self._shortcut.over(answer)


def _found(steps: Generator[None, None, T]) -> T:
    try:
        while True:
            next(steps)
    except StopIteration as end:
        found: T = end.value
        return found
