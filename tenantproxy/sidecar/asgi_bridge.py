"""How does an application of aiohttp answer in an ASGI server? Message by message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

__all__ = ["AsgiBridge"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_MAX_BODY: Final = 1024 * 1024
_BODY_SECONDS: Final = 10.0
_OF_THE_CONNECTION: Final = frozenset(("connection", "transfer-encoding", "keep-alive", "date", "server"))


class AsgiBridge:
    """An ASGI application around `app`. It starts with its first request; `close` ends it."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None)
        self._starting: asyncio.Lock | None = None
        self._server: web.Server | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """See ASGI. Only HTTP is spoken; a lifespan is answered, for servers that run this alone."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(await self._running(), scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def close(self) -> None:
        """Let all streams end. Safe to call again."""
        if self._server is not None:
            self._server = None
            await self._runner.cleanup()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _running(self) -> web.Server:
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._server is None:
                await self._runner.setup()
                self._server = self._runner.server
        assert self._server is not None
        return self._server

    async def _answer(self, server: web.Server, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        protocol = server()
        body = StreamReader(protocol, _MAX_BODY, loop=asyncio.get_running_loop())
        writer = _Writer(send)
        task = asyncio.current_task()
        assert task is not None
        request = server.request_factory(_message_of(scope), body, protocol, writer, task)
        request = request.clone(scheme=scope.get("scheme", "http"))
        if client := scope.get("client"):
            request = request.clone(remote=str(client[0]))
        if not await _take(receive, body):
            return
        watching = asyncio.create_task(_watch(receive, task), name="tenantproxy asgi")
        try:
            try:
                response = await server.request_handler(request)
            except web.HTTPException as exc:
                response = exc
            await response.prepare(request)
            await response.write_eof()
        except asyncio.CancelledError:
            if not watching.done() or watching.cancelled() or not watching.result():
                raise  # and not because the client is gone
            task.uncancel()
        finally:
            watching.cancel()


async def _take(receive: Receive, body: StreamReader) -> bool:
    """The whole body, before it is asked for: aiohttp waits for none without a connection of its own. False: gone."""
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while (message := await receive())["type"] == "http.request":
                size += len(message.get("body", b""))
                if size <= _MAX_BODY:
                    body.feed_data(message.get("body", b""))
                if not message.get("more_body", False):
                    if size > _MAX_BODY:
                        body.set_exception(web.RequestPayloadError("the body is too large"))
                    else:
                        body.feed_eof()
                    return True
    except TimeoutError as exc:
        body.set_exception(exc)  # who reads it is told; who is refused before, why
        return True
    return False


async def _watch(receive: Receive, task: asyncio.Task[Any]) -> bool:
    """Wait for the client to go, and end its request."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
    return True


def _message_of(scope: MutableMapping[str, Any]) -> RawRequestMessage:
    raw = tuple((bytes(name), bytes(value)) for name, value in scope["headers"])
    path, query = _path_of(scope)
    headers = CIMultiDict(
        (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
        for name, value in raw
        if name.lower() != b"expect"  # the server in front has answered it: the body is here
    )
    return RawRequestMessage(
        method=scope["method"],
        path=f"{path}?{query}" if query else path,
        version=HttpVersion11,
        headers=CIMultiDictProxy(headers),
        raw_headers=raw,
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=headers.get(hdrs.TRANSFER_ENCODING, "").lower() == "chunked",
        url=URL.build(path=path, query_string=query, encoded=True),  # never read as one with a host in it
    )


def _path_of(scope: MutableMapping[str, Any]) -> tuple[str, str]:
    """The rest of the path, behind what the application is mounted at, as it came over the wire; and the query."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or path.encode()
    root = scope.get("root_path", "")
    text = raw.partition(b"?")[0].decode("ascii", "replace")
    if root and path.startswith(root):
        text = text.removeprefix(root)
    query: bytes = scope.get("query_string", b"")
    return text or "/", query.decode("latin-1")


class _Writer(AbstractStreamWriter):
    """What aiohttp writes, as messages of ASGI. State: whether the answer has begun, and ended."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_ended = False
        self.length = None

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """See aiohttp."""
        sent = [
            (name.lower().encode("latin-1"), value.encode("utf-8", "surrogateescape"))
            for name, value in headers.items()
            if name.lower() not in _OF_THE_CONNECTION
        ]
        await self._send({"type": "http.response.start", "status": int(status_line.split()[1]), "headers": sent})

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See aiohttp."""
        self.output_size += len(chunk)
        await self._send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})

    async def write_eof(self, chunk: bytes = b"") -> None:
        """See aiohttp."""
        if not self._has_ended:
            self._has_ended = True
            await self._send({"type": "http.response.body", "body": bytes(chunk), "more_body": False})

    async def drain(self) -> None:
        """See aiohttp: each message has been taken by the server already."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """See aiohttp; the server in front may compress."""

    def enable_chunking(self) -> None:
        """See aiohttp; how a body is framed is the server's."""
