"""Which keys does another issuer sign with now? Its JSON Web Key Set (RFC 7517), fetched rarely, kept when it is gone.

State: the keys as last fetched. Only one fetch runs at a time, in a task of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import ssl
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from cachetools import LRUCache

from tenantproxy.auth.claims import parse_object
from tenantproxy.auth.keys import Key, KeysUnavailable, is_fit
from tenantproxy.errors import AuthError, ConfigurationError, Problem
from tenantproxy.events import KeysFetchFailed, Observer, ignore

__all__ = ["MAX_BYTES", "Jwks", "read_keys"]

MAX_BYTES: Final = 256 * 1024
_MAX_KEYS: Final = 100
_MAX_KID: Final = 256
_KINDS: Final = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
_REMEMBERED: Final = 1000
_MAX_TOLD: Final = 300
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Jwks:
    """A `keys.KeySource` that asks `url`, which is the operator's: nothing in a token can make it ask elsewhere.

    Asked again after `ttl` seconds, and at once for a `kid` that is not there, but not sooner than `min_interval` after
    the last time, whether that went well or not. A `kid` is unknown when a fetch since it was first seen does not have
    it; until then KeysUnavailable says that it cannot be told: the key may be a new one. While the issuer does not
    answer, its last keys are good for `stale_for` seconds more. https only, no redirects, at most `MAX_BYTES`;
    `allow_loopback` permits http to this machine, for tests. `trust`, or the certificates in `ca_file`: whose
    certificates to believe, by default the system's. `observer` hears of fetches that failed.
    """

    def __init__(
        self,
        url: str,
        algorithms: str | Iterable[str],
        *,
        ttl: float = 600.0,
        min_interval: float = 5.0,
        stale_for: float = 86_400.0,
        timeout: float = 5.0,
        trust: ssl.SSLContext | None = None,
        ca_file: str = "",
        observer: Observer = ignore,
        allow_loopback: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        _check(url, allow_loopback=allow_loopback)
        self._url = url
        self._algorithms = (algorithms,) if isinstance(algorithms, str) else tuple(algorithms)
        self._ttl = ttl
        self._min_interval = min_interval
        self._stale_for = stale_for
        self._timeout = timeout
        self._trust = trust if trust is not None else _believing(ca_file)
        self.observer = observer
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._fetched = float("-inf")  # when the keys came
        self._tried = float("-inf")  # when they were last asked for
        self._failed = False  # the last time they were asked for
        self._absent: LRUCache[str, None] = LRUCache(_REMEMBERED)  # kids that the keys, as fetched last, do not have
        self._flight: asyncio.Task[None] | None = None  # while they are asked for
        self.generation = 0
        """See `keys.KeySource`."""

    def known(self, kid: str | None) -> Key | None:
        """See `keys.KeySource`."""
        return self._pick(kid) if self._clock() - self._fetched < self._ttl else None

    async def find(self, kid: str | None) -> Key | None:
        """See `keys.KeySource`."""
        asked = False
        if self._clock() - self._fetched >= self._ttl or (kid is not None and self._pick(kid) is None):
            asked = await self._refresh()
        if self._clock() - self._fetched >= self._ttl + self._stale_for:
            raise self._unavailable("the issuer's keys cannot be fetched")
        key = self._pick(kid)
        if key is None and kid is not None:
            if asked and not self._failed:
                self._absent[kid] = None
            elif self._failed or kid not in self._absent:
                raise self._unavailable("the issuer may have a new key, and it is not time to ask again")
        return key

    def _unavailable(self, why: str) -> KeysUnavailable:
        wait = max(0.0, self._min_interval - (self._clock() - self._tried))
        return KeysUnavailable("the token cannot be verified now", detail=why, retry_after=max(1.0, wait))

    async def close(self) -> None:
        """End a fetch that is under way; its waiters see what was known."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])
            self._flight = None

    def _pick(self, kid: str | None) -> Key | None:
        """A token may leave the kid out where there is only one key."""
        if kid is not None:
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    def _may_ask(self) -> bool:
        return self._flight is not None or self._clock() - self._tried >= self._min_interval

    async def _refresh(self) -> bool:
        """Ask, or wait for who asks already; False: it was asked a moment ago."""
        if not self._may_ask():
            return False
        if self._flight is None:
            self._tried = self._clock()
            self._flight = asyncio.get_running_loop().create_task(
                self._fetch(), name="tenantproxy jwks", context=contextvars.Context()
            )
        # Not shielded but waited for: a caller that is cancelled leaves, the fetch goes on for the others.
        await asyncio.wait([self._flight])
        return True

    async def _fetch(self) -> None:
        self._failed = True
        try:
            async with asyncio.timeout(self._timeout):
                raw = await self._get()
            self._take(read_keys(raw, self._algorithms))
        except Exception as exc:  # noqa: BLE001  # a boundary: whatever the issuer did, what was known stays good
            url = self._url.partition("?")[0]
            self.observer(KeysFetchFailed(url=url, error=f"{type(exc).__name__}: {exc}"[:_MAX_TOLD].strip(": ")))
        else:
            self._failed = False
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
                raise ValueError(f"the answer is {answer.status}, or compressed")
            raw = b""
            while chunk := await answer.content.read(MAX_BYTES + 1 - len(raw)):
                raw += chunk
                if len(raw) > MAX_BYTES:
                    raise ValueError(f"the answer has more than {MAX_BYTES} bytes")
            return raw

    def _take(self, keys: dict[str, Key]) -> None:
        self._fetched = self._clock()
        if any(keys.get(kid) is None or not _same(old, keys[kid]) for kid, old in self._keys.items()):
            self.generation += 1
        self._keys = keys
        self._absent.clear()


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


def read_keys(raw: bytes, algorithms: str | Iterable[str]) -> dict[str, Key]:
    """The keys in a key set that are fit for `algorithms`, by kid; others are passed over. Raises ValueError.

    A key that names its algorithm is good for that alone. Of an RSA key that names none (Entra's) the tokens may be
    RS256, RS384 or RS512 where these are wanted, else PS256 and its kin.

    Passed over: keys for something else, too weak ones, private ones (others may have read them), and all that
    share a kid. A set without any usable key is no answer.
    """
    try:
        entries = parse_object(raw).get("keys")
    except AuthError:
        raise ValueError("not a key set") from None
    if not isinstance(entries, tuple) or len(entries) > _MAX_KEYS:
        raise ValueError("not a key set")
    wanted = (algorithms,) if isinstance(algorithms, str) else tuple(algorithms)
    keys: dict[str, Key] = {}
    twice: set[str] = set()
    for entry in entries:
        key = _read(entry, wanted) if isinstance(entry, Mapping) else None
        if key is None:
            continue
        if key.kid in keys:
            twice.add(key.kid)
        keys[key.kid] = key
    usable = {kid: key for kid, key in keys.items() if kid not in twice}
    if not usable:
        raise ValueError("no usable key")
    return usable


def _read(entry: Mapping[str, Any], wanted: tuple[str, ...]) -> Key | None:
    import jwt

    kid, operations = entry.get("kid", ""), entry.get("key_ops", ("verify",))
    family = _family(entry, wanted)
    if (
        not family
        or entry.get("use", "sig") != "sig"
        or not isinstance(operations, tuple)
        or "verify" not in operations
        or not isinstance(kid, str)
        or len(kid) > _MAX_KID
        or "d" in entry
    ):
        return None
    try:
        key = jwt.PyJWK({**entry, "alg": family[0]}, family[0]).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    made = Key(kid=kid, algorithm=family[0], verifying=key, family=frozenset(family))
    return made if is_fit(key, family[0]) else None


def _family(entry: Mapping[str, Any], wanted: tuple[str, ...]) -> list[str]:
    """The algorithms that a key verifies, of those that are wanted: one, or those of one padding for an RSA key."""
    kind = (entry.get("kty"), entry.get("crv"))
    fit = [each for each in wanted if _KINDS.get(each) == kind and entry.get("alg", each) == each]
    return [each for each in fit if each[:2] == "RS"] or fit


def _believing(ca_file: str) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        problem = Problem(
            key="auth.jwks_ca_file",
            problem=f"{ca_file} cannot be read ({exc.strerror or type(exc).__name__})",
            fix="name a file with certificates in PEM",
        )
        raise ConfigurationError([problem]) from None
