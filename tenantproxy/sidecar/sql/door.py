"""What answers `POST /sql` and `GET /v2`? The routes: who calls, what is asked, a run of it, its answer.

Every refusal is a 400 with the fields of PostgreSQL's error: of another status Neon's clients drop the code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

from aiohttp import web
from multidict import MultiMapping

from tenantproxy.auth.caller import TrustedProxies, host_of
from tenantproxy.config import Settings, SqlSettings
from tenantproxy.context import SERVED_TENANT
from tenantproxy.errors import (
    AuthError,
    PoolClosed,
    PoolTimeout,
    ProtocolError,
    TenantPaused,
    TenantProxyError,
)
from tenantproxy.events import Observer
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.middleware.aiohttp import REQUEST_ID
from tenantproxy.middleware.problems import GONE
from tenantproxy.model import Route, TenantId
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.sidecar.http_protocol import HttpProtocol
from tenantproxy.sidecar.pg.context import placed
from tenantproxy.sidecar.pg.encryption import Channel, is_loopback_host
from tenantproxy.sidecar.pg.port import PgPort
from tenantproxy.sidecar.pg.sources import TenantSource
from tenantproxy.sidecar.pg.users import Target
from tenantproxy.sidecar.shortcut import Peer
from tenantproxy.sidecar.sql.answer import error_body, retry_after, server_error
from tenantproxy.sidecar.sql.bodies import body_of, refusal, written
from tenantproxy.sidecar.sql.caller import SqlCallers, Visitor
from tenantproxy.sidecar.sql.deadlines import Deadlines
from tenantproxy.sidecar.sql.kept import Kept
from tenantproxy.sidecar.sql.regions import Regions, RequestOrigin
from tenantproxy.sidecar.sql.request import reading_request
from tenantproxy.sidecar.sql.run import SqlRun, SqlRuns, compiled_reader
from tenantproxy.sidecar.sql.states import ServerSaid
from tenantproxy.sidecar.sql.straight import StraightSql
from tenantproxy.sidecar.sql.texts import SqlTexts
from tenantproxy.sidecar.sql.tunnel import tunnel
from tenantproxy.slices import found_in_slices
from tenantproxy.wire.results import StatementResult
from tenantproxy.wire.statements import Definitions
from tenantproxy.wire.traceparent import traceparent_of

__all__ = ["SQL", "SqlDoor"]

SQL: Final = "/sql"
_TUNNEL: Final = "/v2"
_CONNECTION: Final = "Neon-Connection-String"


class SqlDoor:
    """The routes of SQL over HTTP, on the users and backends of `port`, which is open before they are called."""

    def __init__(self, port: PgPort, settings: Settings, observer: Observer, requests: HttpRequests) -> None:
        self._port = port
        self._settings = settings
        self._observer = observer
        self._proxies = TrustedProxies.configured(settings.http, observer=observer)
        self._callers: SqlCallers | None = None  # from the first request on
        self._regions = Regions(settings)
        self._texts = SqlTexts(self._definitions_of)
        self._runs: SqlRuns | None = None  # as `_callers`
        self.straight = StraightSql(self, port, requests)

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """What the public listener mounts."""
        return [web.post(SQL, self._sql), web.get(_TUNNEL, self._v2)]

    def prepare(self, new: Settings) -> Callable[[], None]:
        """Get ready for the limits and proxies of `new`; what this returns takes them over, and forgets who called."""
        proxies = TrustedProxies.configured(new.http, observer=self._observer)

        def commit() -> None:
            self._settings, self._proxies, self._callers, self._runs = new, proxies, None, None
            self._regions.adopt(new)
            self.straight.forget()

        return commit

    async def close(self) -> None:
        """End what is asked in other regions. Nothing runs here any more."""
        if self._runs is not None:
            self._runs.deadlines.close()
        await self._regions.close()

    # --- what `StraightSql` asks -------------------------------------------------------------------------------------
    @property
    def limits(self) -> SqlSettings:
        """See `straight.StraightHost`."""
        return self._settings.sql

    @property
    def callers(self) -> SqlCallers:
        """See `straight.StraightHost`."""
        if self._callers is None:
            attempts = self._settings.login.attempts_per_address
            port = self._port
            self._callers = SqlCallers(
                port.users, named=port.listener.named_by, attempts=attempts, check=port.passwords.is_right
            )
        return self._callers

    @property
    def runs(self) -> SqlRuns:
        """See `straight.StraightHost`."""
        lender, limits = self._port.lender, self._settings.sql
        if self._runs is None or self._runs.lender is not lender:
            deadlines = Deadlines(limits.statement_timeout)
            self._runs = SqlRuns(lender, limits, self._texts, deadlines, compiled_reader())
        return self._runs

    def _definitions_of(self, pool: Pool[RawBackend], route: Route) -> Definitions:
        return self._port.listener.definitions_of(pool, route)

    def is_elsewhere(self, route: Route) -> bool:
        """See `straight.StraightHost`."""
        return self._regions.find(route.pool.server) is not None

    def visitor(self, headers: MultiMapping[str], peer: Peer) -> Visitor:
        """See `straight.StraightHost`."""
        client, channel = self._channel(headers, peer)
        if not channel.is_private and self._settings.http.ssl_required != "never":
            raise AuthError(
                "passwords and tokens are taken on encrypted connections alone",
                detail=f'[http] ssl_required = "{self._settings.http.ssl_required}"',
                hint="call it by https",
            )
        strings = headers.getall(_CONNECTION, ())
        if len(strings) > 1:
            raise ProtocolError(f"the header {_CONNECTION} is there twice")
        return Visitor(strings[0] if strings else "", headers.getall("Authorization", ()), client, channel)

    # --- POST /sql ---------------------------------------------------------------------------------------------------
    async def _sql(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answered(request)
        except ServerSaid as exc:
            return refusal(server_error(exc.payload))
        except TenantProxyError as exc:
            return refusal(error_body(exc), retry_after(exc))

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        target, client = await self._caller(request)
        limits = self._settings.sql
        body = await body_of(request, limits.max_body)
        sql = await found_in_slices(reading_request(body, request.headers, limits))
        listener = self._port.listener
        assert target.tenant is not None
        SERVED_TENANT.set(target.tenant)
        context = placed(target.context, client.address)
        source = (
            listener.source_of(target.tenant)
            .of(context, target.system, read_only=target.read_only)
            .reading(replica=target.replica)
        )
        if request.transport is None:
            return web.Response(status=GONE)  # no one reads it
        kept = Kept(source.memory)
        future: asyncio.Future[Sequence[StatementResult]] = asyncio.get_running_loop().create_future()
        try:
            kept.add(len(sql.message))
            traffic = listener.traffic_of(target.tenant)
            run = SqlRun(target.tenant, sql, self.runs, traffic, kept, partial(_settle, future))
            run.request_id = request[REQUEST_ID]
            if self._port.lender.watch is not None:
                run.parent = traceparent_of(request.headers.getall("traceparent", ()))
            results = await self._run(request, run, future, source, body, client)
            if isinstance(results, web.StreamResponse):
                return results
            return await written(request, sql, results, kept)
        finally:
            kept.end()

    async def _run(
        self,
        request: web.Request,
        run: SqlRun,
        future: asyncio.Future[Sequence[StatementResult]],
        source: TenantSource,
        asked: bytes,
        client: RequestOrigin,
    ) -> Sequence[StatementResult] | web.StreamResponse:
        """Its results, or another answer."""
        listener = self._port.listener
        protocol = cast("HttpProtocol", request.protocol)
        protocol.on_gone = run.gone
        listener.guests.add(run)
        try:
            pool, route = source.known() or await self._found(source, run.tenant, future)
            if (there := self._regions.find(route.pool.server)) is not None:
                return await self._regions.answer(request, asked, there, run.tenant, client)
            run.begin(pool, route)
            return await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                run.gone()
                raise
            return web.Response(status=GONE)  # no one reads it
        finally:
            protocol.on_gone = None
            listener.guests.discard(run)

    async def _found(
        self, source: TenantSource, tenant: TenantId, future: asyncio.Future[Sequence[StatementResult]]
    ) -> tuple[Pool[RawBackend], Route]:
        """Asks the registry, for as long as one may wait for a connection. A paused tenant may go on by then."""
        finding = asyncio.ensure_future(source.find())
        finding.add_done_callback(_heard)  # where no one waits for it any more
        try:
            either: set[asyncio.Future[Any]] = {finding, future}
            timeout = self._port.lender.acquire_timeout
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            finding.cancel()
            raise
        if future.done():  # first: who has gone, or was ended, in the same turn must lease nothing
            finding.cancel()
            future.result()
        if finding.done():
            return finding.result()
        finding.cancel()
        if tenant in self._port.listener.paused():
            raise TenantPaused("the tenant is paused", hint="try again later", retry_after=1.0)
        raise PoolTimeout("the tenant could not be looked up in time", hint="try again", retry_after=1.0)

    async def _caller(self, request: web.Request) -> tuple[Target, RequestOrigin]:
        """Where the request may go, and from which address it comes. Raises AuthError and what else ends a login."""
        if not self._port.has_backends:  # while it drains, the next request of a busy client is served
            raise PoolClosed("the service is shutting down", hint="try again", retry_after=1.0)
        visitor = self.visitor(request.headers, _peer(request))
        callers = self.callers
        client = RequestOrigin(visitor.address or "", visitor.channel.is_encrypted)
        return callers.recall(visitor) or await callers.verify(visitor), client

    def _channel(
        self, headers: MultiMapping[str], peer: Peer, *, is_tunnel: bool = False
    ) -> tuple[str | None, Channel]:
        """The address of the client, and whether others could read what it sends.

        Behind a trusted proxy, what that says of its own side.
        """
        client, is_proxied = self._proxies.client(peer.remote, headers.getall("X-Forwarded-For", ()))
        is_encrypted = peer.is_encrypted
        if is_proxied:
            is_encrypted = headers.get("X-Forwarded-Proto", "").lower() == "https"
        is_local = client is not None and is_loopback_host(client)
        name = host_of(headers.getall("Host", [])) if is_tunnel else ""
        return client, Channel(is_encrypted=is_encrypted, is_local=is_local, is_tunnel=is_tunnel, server_name=name)

    # --- GET /v2 -----------------------------------------------------------------------------------------------------
    async def _v2(self, request: web.Request) -> web.StreamResponse:
        """The port's protocol in a WebSocket. `address`, which older clients send, is left out: the database counts."""
        if not self._port.is_open:
            raise PoolClosed("the service is shutting down", hint="try again", retry_after=1.0)
        client, channel = self._channel(request.headers, _peer(request), is_tunnel=True)
        return await tunnel(
            request,
            self._port.listener.connect,
            max_message=self._settings.sql.max_body,
            channel=channel,
            client=client or "",
        )


def _peer(request: web.Request) -> Peer:
    is_encrypted = request.transport is not None and request.transport.get_extra_info("ssl_object") is not None
    return Peer(request.remote, is_encrypted)


def _settle(future: asyncio.Future[Sequence[StatementResult]], run: SqlRun) -> None:
    if future.done():
        return
    if run.is_gone:
        future.cancel()
    elif run.error is not None:
        future.set_exception(run.error)
    else:
        future.set_result(run.results)


def _heard(finding: asyncio.Future[Any]) -> None:
    if not finding.cancelled():
        finding.exception()
