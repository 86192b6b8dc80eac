"""What does Redis keep under these names? Asks it for a short time only, and leaves it alone for a while when it fails.

State: the client, the state of the breaker, and the entries that wait to be written; changed in the event loop's
thread alone.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenantproxy.config.redis_section import RedisCacheSettings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.events import Event, RegistryCacheDown, RegistryCacheUp
from tenantproxy.registry.sealed import MAX_BYTES

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Breaker", "BreakerState", "RedisEntries"]

_PAUSE: Final = 5.0  # seconds for which a Redis that failed is left alone
_MAX_WAITING: Final = 1_000  # entries to be written: what is more is not, and costs a lookup elsewhere
_AT_ONCE: Final = 100
_CONNECTIONS: Final = 4
_T = TypeVar("_T")


class BreakerState(Enum):
    """See `Breaker`."""

    CLOSED = auto()
    OPEN = auto()
    TRYING = auto()


class Breaker:
    """May it be asked? CLOSED: by all; OPEN: by none until `pause` is over; TRYING: one asks, and decides."""

    def __init__(self, *, pause: float, clock: Callable[[], float]) -> None:
        self.state = BreakerState.CLOSED
        self._pause = pause
        self._clock = clock
        self._until = 0.0

    def admits(self) -> bool:
        """Whether the caller may ask; it calls `worked` or `failed` then."""
        if self.state is BreakerState.OPEN and self._clock() >= self._until:
            self.state = BreakerState.TRYING
            return True
        return self.state is BreakerState.CLOSED

    def worked(self) -> bool:
        """It answered; whether it had failed before."""
        was_down, self.state = self.state is not BreakerState.CLOSED, BreakerState.CLOSED
        return was_down

    def failed(self) -> bool:
        """It did not; whether that is news."""
        is_news, self.state = self.state is BreakerState.CLOSED, BreakerState.OPEN
        self._until = self._clock() + self._pause
        return is_news


class RedisEntries:
    """Bytes by name in one Redis. Nothing that it does, or leaves undone, is an error of the caller's."""

    def __init__(
        self,
        settings: RedisCacheSettings,
        *,
        ttl: float,
        clock: Callable[[], float],
        tell: Callable[[Event], None],
        pause: float = _PAUSE,
    ) -> None:
        """`ttl`: seconds after which Redis forgets an entry. Raises ConfigurationError without the extra [redis]."""
        try:
            import redis.asyncio  # noqa: F401
        except ImportError as exc:
            problem = "needs redis-py, which is not installed"
            raise ConfigurationError(
                [Problem(key="registry.redis", problem=problem, fix="install tenantproxy[redis]")]
            ) from exc
        self._settings = settings
        self.ttl = ttl
        self._milliseconds = max(1, int(ttl * 1000))
        self._clock = clock
        self._tell = tell
        self.breaker = Breaker(pause=pause, clock=clock)
        self._down_since = 0.0
        self._client: Redis | None = None
        self._waiting: dict[str, bytes] = {}
        self._writer: asyncio.Task[None] | None = None

    async def read(self, names: Sequence[str]) -> Sequence[object] | None:
        """What is kept under each of `names`: bytes, of which all but the first are cut off that are too many.

        Empty bytes: nothing; another object: an error of this name. None: Redis could not be asked.
        """

        async def ask(client: Redis) -> list[object]:
            async with client.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.getrange(name, 0, MAX_BYTES)
                return await pipeline.execute(raise_on_error=False)

        answers = await self._ask(ask)
        return answers if answers is not None and len(answers) == len(names) else None

    def write(self, name: str, entry: bytes) -> None:
        """Keep `entry` there, soon; or not, where Redis is slow or down. Returns at once."""
        if len(self._waiting) < _MAX_WAITING or name in self._waiting:
            self._waiting[name] = entry
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(
                self._write_all(), name="tenantproxy registry entries", context=contextvars.Context()
            )

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                some = dict(zip(self._waiting, list(self._waiting.values())[:_AT_ONCE], strict=False))
                for name in some:
                    del self._waiting[name]
                await self._ask(lambda client, some=some: self._write(client, some))  # type: ignore[misc]
        finally:
            self._writer = None

    async def _write(self, client: Redis, entries: Mapping[str, bytes]) -> bool:
        async with client.pipeline(transaction=False) as pipeline:
            for name, entry in entries.items():
                pipeline.set(name, entry, px=self._milliseconds)
            await pipeline.execute()
        return True

    async def _ask(self, question: Callable[[Redis], Awaitable[_T]]) -> _T | None:
        if not self.breaker.admits():
            return None
        try:
            async with asyncio.timeout(self._settings.timeout):
                answer = await question(self._opened())
        except asyncio.CancelledError:
            if self.breaker.state is BreakerState.TRYING:
                self.breaker.failed()
            raise
        except Exception as exc:  # noqa: BLE001 - a boundary: whatever the peer sends, the source is asked instead
            if self.breaker.failed():
                self._down_since = self._clock()
                self._tell(RegistryCacheDown(error=type(exc).__name__))
            return None
        if self.breaker.worked():
            self._tell(RegistryCacheUp(seconds=self._clock() - self._down_since))
        return answer

    def _opened(self) -> Redis:
        if self._client is None:
            self._client = _client(self._settings)
        return self._client

    async def close(self) -> None:
        """End the writer and the connections; a later `read` opens others."""
        writer, client = self._writer, self._client
        self._waiting.clear()
        self._client = None
        if writer is not None:
            writer.cancel()
            await asyncio.wait([writer])
        if client is not None:
            try:
                async with asyncio.timeout(self._settings.timeout):
                    await client.aclose()
            except Exception:  # noqa: BLE001 - a boundary: it is left alone
                pass

    def forget_loop(self) -> None:
        """The event loop has ended: nothing of it can be awaited."""
        self._waiting.clear()
        self._client = self._writer = None


def _client(settings: RedisCacheSettings) -> Redis:
    """No I/O. Raises ConfigurationError when the password cannot be read."""
    from redis._parsers import _AsyncRESP2Parser
    from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import InvalidResponse

    class Bounded(_AsyncRESP2Parser):
        """A peer that announces a long answer is not waited for: it would fill the memory."""

        async def _read(self, length: int) -> bytes:
            if not 0 <= length <= MAX_BYTES + 1:
                raise InvalidResponse("an answer of a length that was not asked for")
            answer: bytes = await super()._read(length)
            return answer

    host, port = settings.host_port
    tls: dict[str, Any] = {"ssl_ca_certs": settings.tls_ca_file or None} if settings.tls else {}
    pool = ConnectionPool(
        connection_class=SSLConnection if settings.tls else Connection,
        max_connections=_CONNECTIONS,
        host=host,
        port=port,
        db=settings.database,
        username=settings.user or None,
        password=settings.password.read() if settings.password is not None else None,
        parser_class=Bounded,
        protocol=2,
        socket_connect_timeout=settings.timeout,
        socket_timeout=settings.timeout,
        retry=Retry(NoBackoff(), 0),
        **tls,
    )
    return Redis.from_pool(pool)
