"""How do a supervisor, its workers and its successor talk? Questions and answers over a pair of sockets.

A message is four bytes of length and msgpack: [kind, number, verb, body]. Both ends may ask. When one end is gone,
every question is answered with LinkLost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Final, TypeVar

import msgspec

from tenantproxy import errors
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError

__all__ = ["Handler", "Link", "LinkLost", "converted"]

_MAX: Final = 256 * 1024 * 1024  # of one message: a snapshot of very many pools
_ASK, _ANSWER, _ERROR = 0, 1, 2

Handler = Callable[[str, Any], Awaitable[Any]]
"""Answers one question: its verb and body in, msgpack's plain values or dataclasses out."""

T = TypeVar("T")
logger = logging.getLogger("tenantproxy")


class LinkLost(TenantProxyError):
    """The process at the other end is gone, or does not answer."""

    http_status, sqlstate, code, retryable = 503, "57P03", "worker_lost", True


class Link:
    """One end. `on_end` is called once, when the other end is gone or `close` was called."""

    def __init__(self, sock: socket.socket, handler: Handler, *, on_end: Callable[[], None] = lambda: None) -> None:
        self._sock = sock
        self._handler = handler
        self._on_end = on_end
        self._writer: asyncio.StreamWriter | None = None  # from open on
        self._reader: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # questions that are being answered here
        self._count = 0
        self.is_lost = False

    async def open(self) -> None:
        """Begin to listen to the other end."""
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        self._reader = _task(self._read(reader), "tenantproxy link")

    async def ask(self, verb: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """The answer. Raises LinkLost (within `timeout` seconds), and the error that the other end raised.

        Cancelled, the other end goes on.
        """
        if self.is_lost or self._writer is None:
            raise LinkLost("the other process is gone", retry_after=0.5)
        self._count += 1
        number = self._count
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send([_ASK, number, verb, body])
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise LinkLost("the other process does not answer", detail=f"within {timeout:g} s") from None
        finally:
            self._asked.pop(number, None)

    def _send(self, message: list[Any]) -> None:
        if self._writer is not None and not self.is_lost:
            encoded = msgspec.msgpack.encode(message, enc_hook=_encode)
            self._writer.write(len(encoded).to_bytes(4, "big") + encoded)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                if size > _MAX:
                    raise ConnectionError(f"a message of {size} bytes")
                self._receive(*msgspec.msgpack.decode(await reader.readexactly(size), strict=False))
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            self._end()

    def _receive(self, kind: int, number: int, verb: str, body: Any) -> None:
        if kind == _ASK:
            task = _task(self._answer(number, verb, body), f"tenantproxy link {verb}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        future = self._asked.get(number)
        if future is None or future.done():
            return
        if kind == _ANSWER:
            future.set_result(body)
        else:
            future.set_exception(_error_of(body))

    async def _answer(self, number: int, verb: str, body: Any) -> None:
        try:
            answer = [_ANSWER, number, verb, await self._handler(verb, body)]
        except TenantProxyError as exc:
            answer = [_ERROR, number, verb, _told(exc)]
        except Exception as exc:
            logger.exception("a question of another process failed: %s", verb)
            answer = [_ERROR, number, verb, _told(TenantProxyError("internal error", detail=type(exc).__name__))]
        self._send(answer)

    def _end(self) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        for future in self._asked.values():
            if not future.done():
                future.set_exception(LinkLost("the other process is gone", retry_after=0.5))
        if self._writer is not None:
            self._writer.close()
        self._on_end()

    async def close(self) -> None:
        """End it; answers under way are sent first. Safe to call again."""
        current = asyncio.current_task()
        if tasks := [task for task in self._tasks if task is not current]:
            await asyncio.wait(tasks, timeout=1.0)
        if self._writer is not None and not self.is_lost:
            try:
                async with asyncio.timeout(1.0):
                    await self._writer.drain()
            except (TimeoutError, ConnectionError):
                pass
        self._end()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


def _task(work: Any, name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())


def converted(body: Any, kind: type[T]) -> T:
    """An answer as the dataclass that it was. Raises msgspec.ValidationError."""
    return msgspec.convert(body, kind, strict=False)


def _encode(value: Any) -> Any:
    if isinstance(value, frozenset | set):
        return list(value)
    raise NotImplementedError


def _told(error: TenantProxyError) -> dict[str, Any]:
    if isinstance(error, ConfigurationError):
        problems = [[each.key, each.problem, each.fix] for each in error.problems]
        return {"type": "ConfigurationError", "problems": problems, "source": error.source}
    texts = {name: getattr(error, name) for name in ("message", "detail", "hint", "retry_after")}
    return {"type": type(error).__name__, **texts}


def _error_of(body: dict[str, Any]) -> TenantProxyError:
    name = body.pop("type")
    if name == "ConfigurationError":
        problems = [Problem(key=key, problem=problem, fix=fix) for key, problem, fix in body["problems"]]
        return ConfigurationError(problems, source=body["source"])
    kind = LinkLost if name == "LinkLost" else getattr(errors, name, TenantProxyError)
    if not (isinstance(kind, type) and issubclass(kind, TenantProxyError)):
        kind = TenantProxyError
    made: TenantProxyError = kind(body.pop("message"), **body)
    return made
