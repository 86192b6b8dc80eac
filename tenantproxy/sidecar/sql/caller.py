"""Who asks for SQL over HTTP, and which tenant does it reach? A connection string's password, or an access token.

State: who was found to be right or wrong in the last minute, by a keyed hash of what they showed, and which networks
try too often. Dropped at a reload. No password is kept.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote_to_bytes, urlsplit

from cachetools import LRUCache

from tenantproxy.auth.caller import bearer_token
from tenantproxy.auth.throttle import AddressLimits
from tenantproxy.auth.trust import Trust
from tenantproxy.errors import (
    AuthError,
    InvalidCredentials,
    InvalidSetting,
    ProtocolError,
    TenantProxyError,
    TooManyAttempts,
)
from tenantproxy.sidecar.pg.encryption import Channel
from tenantproxy.sidecar.pg.users import JWT, Credential, Target
from tenantproxy.wire.client_auth import failed
from tenantproxy.wire.read_wishes import SYSTEM
from tenantproxy.wire.scram import Verifier
from tenantproxy.wire.settings import Settings
from tenantproxy.wire.startup import SessionWish, options
from tenantproxy.wire.untracked import untracked

__all__ = ["SqlCallers", "Visitor", "read_connection_string"]

_SECONDS: Final = 60.0  # for which a caller is remembered
_MOST: Final = 10_000
_KEY_BYTES: Final = 32
_SCHEMES: Final = ("postgresql", "postgres")
_MOST_SWITCHES: Final = 64

Check = Callable[[Verifier, str, Trust], Awaitable[bool]]
"""Whether a verifier was made of a password. Raises TooManyAttempts: it takes long, and too many wait for it."""

Named = Callable[[str], tuple[bytes, ...]]
"""The tenant that the name of a server names, if it does."""


class CallerUsers(Protocol):
    """Who may come in, and where to: `pg.users.Users` is one."""

    def find(self, user: bytes, channel: Channel) -> Credential:
        """What this user has to prove."""
        ...

    async def authorise(self, user: bytes, wish: SessionWish) -> Target | TenantProxyError:
        """Where a user may go whose password was right."""
        ...

    def left_of(self, target: Target, others: Settings) -> dict[bytes, bytes]:
        """What a caller says that its session does not have from us. Raises InvalidSetting."""
        ...

    async def authorise_token(
        self, token: str, wish: SessionWish, *, subject: bytes | None = None
    ) -> Target | TenantProxyError:
        """Where the bearer of a token may go."""
        ...


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a request shows of its caller. `authorization`: each such header; `address`: whose, None: unknown."""

    connection: str = field(repr=False)
    authorization: Sequence[str] = field(repr=False)
    address: str | None
    channel: Channel


@dataclass(frozen=True, slots=True)
class _Known:
    until: float
    found: Target | None  # None: the password is wrong
    user: bytes


class SqlCallers:
    """Verifies callers by `users`. `attempts`: that a network may fail in a minute, 0: as many as it likes."""

    def __init__(
        self,
        users: CallerUsers,
        *,
        named: Named,
        attempts: int,
        check: Check,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._users = users
        self._named = named
        self._clock = clock
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._known: LRUCache[bytes, _Known] = LRUCache(_MOST)
        self._tries = AddressLimits(attempts)
        self._check = check

    def forget(self) -> None:
        """Users, passwords or tenants may be others now."""
        self._known.clear()

    def recall(self, visitor: Visitor) -> Target | None:
        """Where a caller may go who was verified in the last minute; None: await `verify`.

        Raises InvalidCredentials for one whose password was wrong then.
        """
        if visitor.authorization:
            return None  # what is revoked holds at once; a token is remembered by who verifies it
        return self.known(self.mark(visitor))

    def known(self, mark: bytes) -> Target | None:
        """The same by the mark of a visitor who has no token."""
        known = self._known.get(mark)
        if known is None or known.until <= self._clock():
            return None
        if known.found is None:
            raise failed(known.user)
        return known.found

    async def verify(self, visitor: Visitor) -> Target:
        """Where the caller may go. Raises what ends a login on the PostgreSQL port, and TooManyAttempts."""
        wish, password = read_connection_string(visitor.connection, self._named)
        token = bearer_token(visitor.authorization)
        if token is None and visitor.authorization:
            raise AuthError(
                "the Authorization header is of no kind that is taken", hint="send Authorization: Bearer TOKEN"
            )
        if token is not None:
            if password and password != token:
                raise AuthError("a token and a password were sent", hint="send one of them")
            found = self._checked(await self._users.authorise_token(token, wish, subject=wish.user), wish)
        elif not wish.user:
            raise _unnamed()
        else:
            found = await self._by_password(visitor, wish, password)
        if isinstance(found, TenantProxyError):
            raise found
        if found.tenant is None or found.databases:
            raise failed(wish.user, "the console and the database postgres are on the PostgreSQL port alone")
        return found

    async def _by_password(self, visitor: Visitor, wish: SessionWish, password: str) -> Target | TenantProxyError:
        credential = self._users.find(wish.user, visitor.channel)
        if wish.user == JWT and credential.method == "cleartext":
            return self._checked(await self._users.authorise_token(password, wish), wish)
        mark = self.mark(visitor)
        known = self._known.get(mark)
        trust = Trust.STRANGER if known is None or known.found is None else Trust.PROVEN
        if trust is Trust.STRANGER:  # who was right before is not kept out by others of its network
            self._tries.check(visitor.address)
        self._tries.count(visitor.address)  # now: while it is checked, more may come
        try:
            is_right = await self._is_right(credential, password, trust)
        except TooManyAttempts as exc:
            self._tries.give_back(visitor.address)
            raise exc.again() from None  # several may wait for the same one
        if not is_right:
            self._remember(mark, None, wish.user)
            return failed(wish.user, credential.missing or "the password is wrong")
        self._tries.give_back(visitor.address)
        found = self._checked(await self._users.authorise(wish.user, wish), wish)
        if isinstance(found, Target):
            self._remember(mark, found, wish.user)
        return found

    def _checked(self, found: Target | TenantProxyError, wish: SessionWish) -> Target | TenantProxyError:
        """Before it is remembered: what a caller says in its options must be its own to say. Raises InvalidSetting.

        Of the rest only the tenant's system means something here.
        """
        if wish.others and isinstance(found, Target):
            left = self._users.left_of(found, wish.others)
            return replace(found, system=left.get(SYSTEM, b"").decode() or found.system)
        return found

    async def _is_right(self, credential: Credential, password: str, trust: Trust) -> bool:
        if credential.verifier is None:
            return False
        return await self._check(credential.verifier, password, trust) and not credential.missing

    def _remember(self, mark: bytes, found: Target | None, user: bytes) -> None:
        self._known[mark] = _Known(self._clock() + _SECONDS, found, user)

    def mark(self, visitor: Visitor) -> bytes:
        """A keyed hash of what a visitor without a token shows. The key is this object's."""
        return hashlib.blake2b(
            visitor.connection.encode("utf-8", "surrogateescape"), key=self._key, digest_size=32
        ).digest()


def read_connection_string(text: str, named: Named) -> tuple[SessionWish, str]:
    """What a connection string asks for, and its password. An empty one asks for nothing.

    The database names the tenant; so may `tenant` and `options`, and the host where `named` knows it. All else of the
    host and the port is left out: who calls may reach us by other names. Other parameters are the client's own, and of
    its options what has a dot in its name may be a setting of
    `[pg.users.NAME.context]`, or the tenant's system.
    Raises ProtocolError, InvalidSetting; no error quotes it.
    """
    if not text:
        return SessionWish(user=b"", database=b""), ""
    parts, queried = _split(text)
    tenants = [value.encode() for name, value in queried if name == "tenant"]
    others: list[tuple[bytes, bytes]] = []
    for name, value in queried:
        if name == "options":
            tenants += [said for key, said in _switches(value) if key == b"tenant"]
            others += [untracked(key, said) for key, said in _switches(value) if b"." in key]
    database = unquote_to_bytes(parts.path[1:])
    tenants += named(parts.hostname or "")
    user = unquote_to_bytes(parts.username or "")
    try:
        password = unquote_to_bytes(parts.password or "").decode()
    except UnicodeDecodeError:
        raise failed(user, "the password is not UTF-8") from None
    named_tenants = tuple(dict.fromkeys(tenants))
    return SessionWish(user=user, database=database or user, tenants=named_tenants, others=tuple(others)), password


def _split(text: str) -> tuple[SplitResult, list[tuple[str, str]]]:
    try:
        text.encode()  # bytes of a header that are no UTF-8 are surrogates here
        if "%00" in text:  # no value of PostgreSQL has one; here it stands for the address
            raise _malformed()
        parts = urlsplit(text)
        _ = parts.hostname  # which may raise, for what is no address
        queried = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MOST_SWITCHES)
    except ValueError:
        raise _malformed() from None
    if parts.scheme not in _SCHEMES or not parts.netloc or "/" in parts.path[1:]:
        raise _malformed()
    return parts, queried


def _switches(value: str) -> Sequence[tuple[bytes, bytes]]:
    try:
        return options(value.encode())
    except InvalidSetting:
        return ()  # of another service: Neon's own names its endpoint there


def _malformed() -> ProtocolError:
    return ProtocolError(
        "the header Neon-Connection-String is no connection string",
        hint="write postgresql://USER:PASSWORD@HOST/TENANT, with what is special in them percent-encoded",
    )


def _unnamed() -> InvalidCredentials:
    error = InvalidCredentials(
        "no user and no token were sent",
        hint="send Neon-Connection-String: postgresql://USER:PASSWORD@HOST/TENANT, or Authorization: Bearer TOKEN",
    )
    error.reason = "there is no connection string and no token"
    return error
