"""Where else is a tenant served? Requests for servers of another region are answered with its address, or asked there.

Addresses are the configuration's alone. A request that another region has sent here is sent nowhere: where two disagree
about a tenant's region, its caller hears so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple, cast
from urllib.parse import quote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tenantproxy.config import Server, Settings
from tenantproxy.errors import ConnectFailed, NotSupported, PoolFull
from tenantproxy.middleware.aiohttp import REQUEST_ID
from tenantproxy.middleware.problems import GONE
from tenantproxy.model import TenantId
from tenantproxy.sidecar.http_protocol import HttpProtocol
from tenantproxy.sidecar.sql.answer import error_body
from tenantproxy.sidecar.sql.request import HEADERS

__all__ = ["Elsewhere", "Regions", "RequestOrigin"]

_SENT_ON: Final = "Tenantproxy-Region"  # by a sidecar that asks in another region
_REDIRECTED: Final = "region"  # of the query of an address that a client was sent to
_PATH: Final = "/sql"
_ASKED: Final = ("Neon-Connection-String", "Authorization", *HEADERS)
_TOLD: Final = ("Content-Type", "Content-Length", "Retry-After", *HEADERS)
_CONNECT_SECONDS: Final = 5.0
_SLACK_SECONDS: Final = 30.0  # for a place in a pool there, and the way
_CONNECTIONS: Final = 100  # to one other region: nothing waits for one, see `_share`


class Elsewhere(NamedTuple):
    """Another region, and the address of its sidecar."""

    region: str
    url: str


class RequestOrigin(NamedTuple):
    """Who asks: from where, and whether others could read it on the way here."""

    address: str
    is_encrypted: bool


class Regions:
    """The other regions of `settings`. `close` it."""

    def __init__(self, settings: Settings) -> None:
        self._http: aiohttp.ClientSession | None = None  # from the first request for another region on
        self._running: dict[str, Counter[TenantId]] = {}  # by region: what is asked there now
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Go by these from now on."""
        self._sql = settings.sql
        self._servers: Mapping[str, Server] = settings.servers

    async def close(self) -> None:
        """End what is asked elsewhere."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def find(self, server: str) -> Elsewhere | None:
        """Where requests for tenants of `server` go; None: here."""
        region = self._servers[server].region
        if region is None or self._sql.region is None or region == self._sql.region:
            return None
        return Elsewhere(region, self._sql.regions[region])

    async def answer(
        self, request: web.Request, body: bytes, there: Elsewhere, tenant: TenantId, client: RequestOrigin
    ) -> web.StreamResponse:
        """The answer for a caller who may reach the tenant. Raises NotSupported for one who was sent here already.

        A caller with a token is not sent elsewhere: clients take it along to no other address. Raises PoolFull where
        the tenant has its share of the connections to the region.
        """
        if _SENT_ON in request.headers or _REDIRECTED in request.query:
            raise NotSupported(
                "two regions disagree about where the tenant is",
                detail=f"here, {self._sql.region}, its server is in {there.region}",
                hint="give [servers.NAME] region the same value in all regions",
            )
        if self._sql.elsewhere == "redirect" and "Authorization" not in request.headers:
            return _moved(there)
        with self._share(there.region, tenant):
            return await self._answered(request, body, there, client)

    @contextmanager
    def _share(self, region: str, tenant: TenantId) -> Iterator[None]:
        """One connection for the tenant, which gets no more than it leaves free: others find some, however slow it is.

        Raises PoolFull.
        """
        running = self._running.setdefault(region, Counter())
        if running[tenant] + 1 > _CONNECTIONS - running.total() - 1:
            raise PoolFull(
                f"the tenant asks too much of the region {region} at once", hint="try again", retry_after=1.0
            )
        running[tenant] += 1
        try:
            yield
        finally:
            running[tenant] -= 1
            if not running[tenant]:
                del running[tenant]

    async def _answered(
        self, request: web.Request, body: bytes, there: Elsewhere, client: RequestOrigin
    ) -> web.StreamResponse:
        protocol = cast("HttpProtocol", request.protocol)
        asking = asyncio.ensure_future(self._asked(request, body, there, client))
        protocol.on_gone = partial(_end, asking)
        try:
            return await asking
        except asyncio.CancelledError:
            asking.cancel()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return web.Response(status=GONE)  # no one reads it
        finally:
            protocol.on_gone = None

    async def _asked(
        self, request: web.Request, body: bytes, there: Elsewhere, client: RequestOrigin
    ) -> web.StreamResponse:
        """Asks there, and passes the answer on as it comes."""
        sent = CIMultiDict((name, value) for name in _ASKED for value in request.headers.getall(name, ()))
        sent[_SENT_ON] = self._sql.region or ""
        if client.address:  # believed there where this one is among its trusted proxies
            sent["X-Forwarded-For"] = client.address
            sent["X-Forwarded-Proto"] = "https" if client.is_encrypted else "http"
        sent["Accept-Encoding"], sent["X-Request-Id"] = "identity", request[REQUEST_ID]
        seconds = self._sql.statement_timeout + _SLACK_SECONDS
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        response: web.StreamResponse | None = None
        try:
            asked = self._session().post(
                f"{there.url}{_PATH}", data=body, headers=sent, timeout=timeout, allow_redirects=False
            )
            async with asked as answer:
                if answer.status not in (200, 400):  # of what stands in between
                    raise _unreachable(there, f"it answered {answer.status}")
                told = {name: answer.headers[name] for name in _TOLD if name in answer.headers}
                response = web.StreamResponse(status=answer.status, headers={**told, "Cache-Control": "no-store"})
                response.headers["X-Request-Id"] = request[REQUEST_ID]
                await response.prepare(request)
                async for part in answer.content.iter_any():
                    await response.write(part)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if response is None:
                raise _unreachable(there, type(exc).__name__) from None
            if request.transport is not None:
                request.transport.abort()  # half an answer must not look like a whole one
            return response

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._http


def _end(asking: asyncio.Future[web.StreamResponse]) -> None:
    asking.cancel()


def _moved(there: Elsewhere) -> web.Response:
    error = NotSupported(f"the tenant is in the region {there.region}", hint=f"ask {there.url}{_PATH}")
    response = web.Response(status=307, body=error_body(error), content_type="application/json")
    response.headers["Location"] = f"{there.url}{_PATH}?{_REDIRECTED}={quote(there.region, safe='')}"
    response.headers["Cache-Control"] = "no-store"
    return response


def _unreachable(there: Elsewhere, why: str) -> ConnectFailed:
    return ConnectFailed(
        f"the region {there.region} did not answer",
        detail=f"{why}; whether what was asked has taken effect is unknown if it changes something",
        hint="try again",
    )
