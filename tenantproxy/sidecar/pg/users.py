"""Who may come in on the PostgreSQL port, and which tenant does a startup packet name?

State: `_grants`, replaced as a whole by `reload`. Nothing here says to a stranger whether a user or a tenant exists:
whoever does not exist gets a whole exchange that cannot succeed, and one error stands for all that is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from tenantproxy.config import Auth, PgUser, Settings, pg_users
from tenantproxy.errors import (
    AuthError,
    InvalidCredentials,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantProxyError,
    TokenExpired,
)
from tenantproxy.lifecycle.verifier import scram_verifier
from tenantproxy.model import MAX_IDENTIFIER_BYTES, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.registry.base import TenantMisconfigured
from tenantproxy.registry.by_database import ByDatabase, CachingRegistry, has_database
from tenantproxy.router import not_served

__all__ = ["CONSOLE", "JWT", "Credential", "Target", "TokenVerifier", "Users", "Wish", "refused", "seed_of"]

CONSOLE: Final = pg_users.CONSOLE.encode()
"""The database that is the console."""

JWT: Final = pg_users.JWT.encode()
"""The user whose password is an access token."""

PoolMode: TypeAlias = Literal["transaction", "session"]
ConsoleAccess: TypeAlias = Literal[True, False, "read"]

_CONSOLE_OF_OTHERS: Final = b"pgbouncer"  # what tools that know PgBouncer ask for: the console too, for its users
_ITERATIONS: Final = 4096
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_SCANNED: Final = 100  # a user of more tenants names them by their ids


class TokenVerifier(Protocol):
    """Who verifies access tokens; `auth.tokens.Tokens` is one."""

    @property
    def settings(self) -> Auth:
        """Says which claim names the tenant."""
        ...

    async def verify(self, token: str, /) -> Mapping[str, Any]:
        """The claims of a good token. Raises AuthError, RegistryUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client has to prove. `cleartext`: send an access token (`Users.authorise_token`); else SCRAM-SHA-256.

    `verifier` is what PostgreSQL stores for a password. With a mock one the exchange runs to its end and fails there.
    """

    method: Literal["scram-sha-256", "cleartext"]
    verifier: str = field(default="", repr=False)
    is_mock: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What a startup packet asks for: its database (by default the user's name) and every `tenant` in its options."""

    database: bytes
    tenants: tuple[bytes, ...] = ()

    @property
    def names(self) -> tuple[bytes, ...]:
        """Everything in it that names a tenant, once each; all of them must mean the same one."""
        return tuple(dict.fromkeys((self.database, *self.tenants)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an authenticated client may go. `may_change`: on the console, more than SHOW."""

    kind: Literal["tenant", "console"]
    user: str
    tenant: TenantId | None = None
    pool_mode: PoolMode = "transaction"
    may_change: bool = False


class Users:
    """The users of `[pg.users]` and the user `jwt`. Constructing and `reload` read the files of passwords.

    `loopback`: nobody but this machine can connect, so a token may be asked for in clear text. `tenants`: the router's
    registry. `seed` (`seed_of`) makes the salts that strangers see the same after a restart and beside other processes.
    """

    def __init__(
        self,
        users: Mapping[str, PgUser],
        tokens: TokenVerifier | None,
        loopback: bool,
        *,
        tenants: CachingRegistry,
        seed: bytes | None = None,
    ) -> None:
        self._tokens = tokens if loopback else None
        self._tenants = tenants
        self._by_database = ByDatabase(tenants)
        self._seed = seed if seed is not None else secrets.token_bytes(_KEY_BYTES)
        self._grants: Mapping[bytes, _Grant] = {}
        self._made: Mapping[tuple[bytes, bytes], str] = {}  # verifiers by user and keyed hash of the password
        self._shapes: tuple[tuple[int, int], ...] = ()  # (iterations, bytes of salt) that users' verifiers have
        self.reload(users)

    def reload(self, users: Mapping[str, PgUser]) -> None:
        """Take over `users`, all or nothing, and read their passwords anew; who is connected stays.

        Raises ConfigurationError when a password cannot be read. Costs a millisecond for each password that is new.
        """
        made: dict[tuple[bytes, bytes], str] = {}
        grants = {name.encode(): self._granted(name, user, made) for name, user in users.items()}
        shapes = {_shape(grant.credential.verifier) for grant in grants.values()} or {(_ITERATIONS, _SALT_BYTES)}
        self._grants, self._made, self._shapes = grants, made, tuple(sorted(shapes))

    def _granted(self, name: str, user: PgUser, made: dict[tuple[bytes, bytes], str]) -> _Grant:
        return _Grant(
            name=name,
            credential=Credential("scram-sha-256", self._verifier(name.encode(), user, made)),
            tenants=None if user.tenants == "*" else tuple(dict.fromkeys(user.tenants)),
            pool_mode=user.pool_mode,
            console=user.console,
        )

    def _verifier(self, name: bytes, user: PgUser, made: dict[tuple[bytes, bytes], str]) -> str:
        if user.verifier is not None:
            return user.verifier.read()
        password = user.password.read() if user.password is not None else ""
        key = (name, hmac.digest(self._seed, password.encode(), "sha256"))
        known = self._made.get(key)
        made[key] = known if known is not None else scram_verifier(password, salt=self._derived("salt", name))
        return made[key]

    # --- who -----------------------------------------------------------------------------------------------------
    def find(self, user: bytes) -> Credential:
        """What `user` has to prove: never an error, and for a stranger's name nothing that differs from a user's."""
        mock = self._mock(user)  # for everybody, so that it takes the same time
        if user == JWT and self._tokens is not None:
            return Credential("cleartext")
        grant = self._grants.get(user)
        return mock if grant is None else grant.credential

    def _mock(self, user: bytes) -> Credential:
        # As PostgreSQL does: the same salt for the same name each time, and iterations that a user could have.
        iterations, size = max(self._shapes, key=lambda shape: self._derived(f"shape {shape}", user))
        lengths = {"salt": size, "stored": _KEY_BYTES, "server": _KEY_BYTES}
        parts = (self._derived(what, user, length) for what, length in lengths.items())
        salt, stored, server = (base64.b64encode(part).decode() for part in parts)
        return Credential("scram-sha-256", f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}", is_mock=True)

    def _derived(self, what: str, user: bytes, size: int = _SALT_BYTES) -> bytes:
        return hashlib.shake_256(self._seed + what.encode() + b"\0" + user).digest(size)

    # --- where to ------------------------------------------------------------------------------------------------
    def authorise_nowait(self, user: bytes, wish: Wish) -> Target | TenantProxyError | None:
        """As `authorise`, without waiting; None: the registry has to be asked, so await `authorise`."""
        grant = self._grants.get(user)
        if grant is None:
            return refused(user)  # never somebody else in place of a user that is not there
        if CONSOLE in wish.names or (grant.console and wish.names == (_CONSOLE_OF_OTHERS,)):
            return grant.at_console() if len(wish.names) == 1 else refused(user)
        if len(wish.names) > 1:
            return None
        name = _text(wish.database)
        tenant = self._tenants.peek(name) if name is not None and grant.reaches(name) else None
        return None if tenant is None else grant.at(tenant)

    async def authorise(self, user: bytes, wish: Wish) -> Target | TenantProxyError:
        """Where `user`, whose password was right, may go. Errors are returned; each of them ends the connection.

        InvalidCredentials as for a wrong password, TenantNotFound (3D000, only for users of all tenants), TenantPaused,
        TenantSuspended, RegistryUnavailable.
        """
        known = self.authorise_nowait(user, wish)
        if known is not None:
            return known
        grant = self._grants[user]
        try:
            tenant = await self._agreed(grant, wish)
        except (TenantError, RegistryUnavailable) as exc:
            return exc
        return refused(user) if tenant is None else grant.at(tenant)

    async def _agreed(self, grant: _Grant, wish: Wish) -> Tenant | None:
        """The one tenant that everything in `wish` names."""
        agreed: Tenant | None = None
        for name in wish.names:
            text = _text(name)
            tenant = await (self._any(text) if grant.tenants is None else self._own(text, grant.tenants))
            if tenant is None or (agreed is not None and agreed.id != tenant.id):
                return None
            agreed = tenant
        return agreed

    async def _any(self, name: str | None) -> Tenant:
        """The tenant of this id, else the one with this database to itself. Raises TenantNotFound."""
        try:
            return await self._tenants.get(tenant_id(name))
        except TenantNotFound:
            tenant = await self._by_database.find(name) if name is not None else None
            if tenant is None:
                raise
            return tenant

    async def _own(self, name: str | None, tenants: tuple[str, ...]) -> Tenant | None:
        """The same among `tenants`. Nobody else's is looked up: not even the time it takes says what there is."""
        if name in tenants:
            with suppress(TenantNotFound):
                return await self._tenants.get(tenant_id(name))
            return None
        found = [tenant async for tenant in self._served(tenants[:_SCANNED]) if has_database(tenant, name)]
        return found[0] if len(found) == 1 and len(tenants) <= _SCANNED else None

    async def _served(self, tenants: tuple[str, ...]) -> AsyncIterator[Tenant]:
        for name in tenants:
            with suppress(TenantNotFound, TenantMisconfigured):
                yield await self._tenants.get(tenant_id(name))

    # --- user jwt ------------------------------------------------------------------------------------------------
    async def authorise_token(self, token: bytes, wish: Wish) -> Target | TenantProxyError:
        """Where the bearer of `token`, the cleartext password of user `jwt`, may go. Errors as `authorise`.

        TokenExpired beside them, for a genuine token that is expired or revoked, and what says that it cannot be
        verified now.
        """
        if self._tokens is None:
            return refused(JWT)
        try:
            claims = await self._tokens.verify(token.decode("ascii"))
            tenant = await self._tenants.get(tenant_id(claims.get(self._tokens.settings.tenant_claim)))
        except (UnicodeDecodeError, TenantNotFound):
            return refused(JWT)
        except (AuthError, RegistryUnavailable) as exc:
            return exc if exc.retryable or isinstance(exc, TokenExpired | RegistryUnavailable) else refused(JWT)
        named = all(_text(name) == tenant.id or has_database(tenant, _text(name)) for name in wish.names)
        return _BEARER.at(tenant) if named and CONSOLE not in wish.names else refused(JWT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """What one user may. `tenants` None: all of them."""

    name: str
    credential: Credential
    tenants: tuple[str, ...] | None
    pool_mode: PoolMode
    console: ConsoleAccess

    def reaches(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants

    def at(self, tenant: Tenant) -> Target | TenantProxyError:
        if tenant.status is not TenantStatus.ACTIVE:
            return not_served(tenant.status)
        return Target(kind="tenant", user=self.name, tenant=tenant.id, pool_mode=self.pool_mode)

    def at_console(self) -> Target | TenantProxyError:
        if not self.console:
            return refused(self.name.encode())
        return Target(kind="console", user=self.name, may_change=self.console is True)


_BEARER: Final = _Grant(
    name=JWT.decode(), credential=Credential("cleartext"), tenants=(), pool_mode="transaction", console=False
)


def refused(user: bytes) -> InvalidCredentials:
    """The one answer to a wrong password, an unknown user, and a tenant that is not there or not the user's."""
    return InvalidCredentials(f'password authentication failed for user "{user.decode(errors="replace")}"')


def seed_of(settings: Settings) -> bytes | None:
    """The seed that follows from a key of this deployment; None where there is none. Raises ConfigurationError.

    Never from a password: the salts are shown to strangers, who could then guess it without asking.
    """
    keys = [*settings.row.keys().values(), *settings.auth.keys().values()]
    return hmac.digest(keys[0].read_bytes(), b"tenantproxy: salts of the PostgreSQL port", "sha256") if keys else None


def _shape(verifier: str) -> tuple[int, int]:
    """(iterations, bytes of salt)."""
    iterations, _, salt = verifier.split("$")[1].partition(":")
    return int(iterations), len(base64.b64decode(salt))


def _text(name: bytes) -> str | None:
    """`name`, if a tenant or a database can be called so."""
    if not name or len(name) > MAX_IDENTIFIER_BYTES:
        return None
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
