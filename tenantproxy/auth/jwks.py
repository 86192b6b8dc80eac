"""Which keys does another issuer sign with now? Its JSON Web Key Set (RFC 7517), fetched rarely, kept when it is gone.

State: the keys as last fetched. Only one fetch runs at a time, in a task of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import ssl
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from tenantproxy.auth.claims import parse_object
from tenantproxy.auth.keys import Key, KeysUnavailable, is_fit
from tenantproxy.errors import AuthError, ConfigurationError, Problem

__all__ = ["MAX_BYTES", "Jwks", "read_keys"]

MAX_BYTES: Final = 256 * 1024
_MAX_KEYS: Final = 100
_MAX_KID: Final = 256
_KINDS: Final = {"RS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Jwks:
    """A `keys.KeySource` that asks `url`, which is the operator's: nothing in a token can make it ask elsewhere.

    Asked again after `ttl` seconds, and at once for a `kid` that is not there, but not sooner than `min_interval` after
    the last time, whether that went well or not. While the issuer does not answer, its last keys are good for
    `stale_for` seconds more. https only, no redirects, at most `MAX_BYTES`; `allow_loopback` permits http to this
    machine, for tests. `trust`: whose certificates to believe, by default the system's.
    """

    def __init__(
        self,
        url: str,
        algorithm: str,
        *,
        ttl: float = 600.0,
        min_interval: float = 30.0,
        stale_for: float = 86_400.0,
        timeout: float = 5.0,
        trust: ssl.SSLContext | None = None,
        allow_loopback: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        _check(url, allow_loopback=allow_loopback)
        self._url = url
        self._algorithm = algorithm
        self._ttl = ttl
        self._min_interval = min_interval
        self._stale_for = stale_for
        self._timeout = timeout
        self._trust = trust
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._fetched = float("-inf")  # when the keys came
        self._tried = float("-inf")  # when they were last asked for
        self._flight: asyncio.Task[None] | None = None  # while they are asked for
        self.generation = 0
        """See `keys.KeySource`."""

    def known(self, kid: str | None) -> Key | None:
        """See `keys.KeySource`."""
        return self._pick(kid) if self._clock() - self._fetched < self._ttl else None

    async def find(self, kid: str | None) -> Key | None:
        """See `keys.KeySource`."""
        if self._clock() - self._fetched >= self._ttl or self._pick(kid) is None:
            await self._refresh()
        if self._clock() - self._fetched >= self._ttl + self._stale_for:
            raise KeysUnavailable(
                "the token cannot be verified now", detail="the issuer's keys cannot be fetched", retry_after=5.0
            )
        return self._pick(kid)

    async def close(self) -> None:
        """End a fetch that is under way; whoever waits for it sees what was known."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])
            self._flight = None

    def _pick(self, kid: str | None) -> Key | None:
        """A token may leave the kid out where there is only one key."""
        if kid is not None:
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    async def _refresh(self) -> None:
        """Ask, or wait for who asks already; nothing at all when it was asked a moment ago."""
        if self._flight is None:
            if self._clock() - self._tried < self._min_interval:
                return
            self._tried = self._clock()
            self._flight = asyncio.get_running_loop().create_task(
                self._fetch(), name="tenantproxy jwks", context=contextvars.Context()
            )
        # Not shielded but waited for: a caller that is cancelled leaves, the fetch goes on for the others.
        await asyncio.wait([self._flight])

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                raw = await self._get()
            self._take(read_keys(raw, self._algorithm))
        except Exception:  # noqa: BLE001  # a rim: whatever the issuer did, what was known stays good for a while
            pass
        finally:
            self._flight = None

    async def _get(self) -> bytes:
        import aiohttp

        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(auto_decompress=False, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as http,
            http.get(
                self._url,
                allow_redirects=False,
                headers=headers,
                ssl=self._trust if self._trust is not None else True,
            ) as answer,
        ):
            if answer.status != 200 or answer.headers.get("Content-Encoding", "identity") != "identity":
                raise ValueError("not a key set")
            raw = b""
            while chunk := await answer.content.read(MAX_BYTES + 1 - len(raw)):
                raw += chunk
                if len(raw) > MAX_BYTES:
                    raise ValueError("too large")
            return raw

    def _take(self, keys: dict[str, Key]) -> None:
        self._fetched = self._clock()
        if any(keys.get(kid) is None or not _same(old, keys[kid]) for kid, old in self._keys.items()):
            self.generation += 1
        self._keys = keys


def _same(one: Key, other: Key) -> bool:
    return bool(one.verifying == other.verifying)


def _check(url: str, *, allow_loopback: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname and not parts.username:
        return
    if parts.scheme == "http" and allow_loopback and parts.hostname in _LOOPBACK:
        return
    problem = Problem(key="auth.jwks_url", problem="is not https", fix="write https://host/path, without a user")
    raise ConfigurationError([problem])


def read_keys(raw: bytes, algorithm: str) -> dict[str, Key]:
    """The keys in a key set that are fit for `algorithm`, by kid; others are passed over. Raises ValueError.

    Passed over: keys for something else, too weak ones, private ones (everybody may have read them), and all that
    share a kid. A set without any usable key is no answer.
    """
    try:
        entries = parse_object(raw).get("keys")
    except AuthError:
        raise ValueError("not a key set") from None
    if not isinstance(entries, tuple) or len(entries) > _MAX_KEYS:
        raise ValueError("not a key set")
    keys: dict[str, Key] = {}
    twice: set[str] = set()
    for entry in entries:
        key = _read(entry, algorithm) if isinstance(entry, Mapping) else None
        if key is None:
            continue
        if key.kid in keys:
            twice.add(key.kid)
        keys[key.kid] = key
    usable = {kid: key for kid, key in keys.items() if kid not in twice}
    if not usable:
        raise ValueError("no usable key")
    return usable


def _read(entry: Mapping[str, Any], algorithm: str) -> Key | None:
    import jwt

    kid, operations = entry.get("kid", ""), entry.get("key_ops", ("verify",))
    if (
        (entry.get("kty"), entry.get("crv")) != _KINDS[algorithm]
        or entry.get("alg", algorithm) != algorithm
        or entry.get("use", "sig") != "sig"
        or not isinstance(operations, tuple)
        or "verify" not in operations
        or not isinstance(kid, str)
        or len(kid) > _MAX_KID
        or "d" in entry
    ):
        return None
    try:
        key = jwt.PyJWK({**entry, "alg": algorithm}, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return Key(kid=kid, algorithm=algorithm, verifying=key) if is_fit(key, algorithm) else None
