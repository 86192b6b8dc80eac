"""Who may come in on the PostgreSQL port, and which tenant does a startup packet name?

State: `_grants`, replaced as a whole by `reload`. Nothing here tells an attacker whether a user or a tenant exists:
an unknown user gets a whole exchange that cannot succeed, and one error stands for all that is wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, TypeAlias

from tenantproxy.auth.claims import claim_at, reads_only
from tenantproxy.config import Auth, PgUser, Settings, pg_users
from tenantproxy.config.pg_users import STARTUP
from tenantproxy.errors import (
    AuthError,
    ConfigurationError,
    InvalidSetting,
    Problem,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantProxyError,
    TenantUnresolved,
    TokenExpired,
)
from tenantproxy.model import MAX_IDENTIFIER_BYTES, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.registry.base import TenantMisconfigured
from tenantproxy.registry.by_database import ByDatabase, CachingRegistry, has_database
from tenantproxy.router import not_served
from tenantproxy.sidecar.pg.context import ClientContext, Pairs
from tenantproxy.sidecar.pg.encryption import Channel
from tenantproxy.wire.client_auth import failed
from tenantproxy.wire.oauth_bearer import Discovery
from tenantproxy.wire.scram import DEFAULT_ITERATIONS, Verifier
from tenantproxy.wire.untracked import not_tracked

__all__ = [
    "CONSOLE",
    "CONSOLES",
    "JWT",
    "OAUTH",
    "UNKNOWN_USER",
    "Credential",
    "PortTokenVerifier",
    "Target",
    "Users",
    "Wish",
    "seed_of",
]

CONSOLE: Final = pg_users.CONSOLE.encode()
"""The database that is the console."""

JWT: Final = pg_users.JWT.encode()
"""The user whose password is an access token."""

OAUTH: Final = pg_users.OAUTH.encode()
"""The user who brings one by OAUTHBEARER."""

PoolMode: TypeAlias = Literal["transaction", "session"]
ConsoleAccess: TypeAlias = Literal[True, False, "read"]

UNKNOWN_USER: Final = "there is no such user"

_CONSOLE_OF_OTHERS: Final = b"pgbouncer"  # what tools that know PgBouncer ask for: the console too, for its users
CONSOLES: Final = (CONSOLE, _CONSOLE_OF_OTHERS)
"""Databases that may be the console."""

_MAINTENANCE: Final = pg_users.MAINTENANCE.encode()
_LISTED: Final = 1000  # tenants, as databases
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_SCANNED: Final = 100  # a user of more tenants names them by their ids
_MAX_NAMES: Final = 8  # in one startup packet


class PortTokenVerifier(Protocol):
    """Who verifies access tokens; `auth.tokens.Tokens` is one."""

    @property
    def settings(self) -> Auth:
        """Says which claim names the tenant."""
        ...

    async def verify(self, token: str, /) -> Mapping[str, Any]:
        """The claims of a good token. Raises AuthError, RegistryUnavailable."""
        ...


class Wish(Protocol):
    """What a startup packet asks for; `wire.startup.SessionWish` is one."""

    @property
    def database(self) -> bytes:
        """Names the tenant; by default the user's name."""
        ...

    @property
    def tenants(self) -> tuple[bytes, ...]:
        """Name it again, in the options."""
        ...

    @property
    def others(self) -> tuple[tuple[bytes, bytes], ...]:
        """Settings that are not tracked, their names in lower case."""
        ...


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client has to prove: what `wire.client_auth.ClientAuth` takes. "oauth": an access token.

    "certificate": nothing more, for it has shown the user's. Without a verifier "cleartext" is a token. `missing`: what
    of it was not shown, for the log.
    """

    method: Literal["scram-sha-256", "cleartext", "oauth", "certificate"]
    verifier: Verifier | None = None
    missing: str = ""
    discovery: Discovery | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an authenticated client may go. `may_change`: on the console, more than SHOW."""

    kind: Literal["tenant", "console"]
    user: str
    tenant: TenantId | None = None
    pool_mode: PoolMode = "transaction"
    may_change: bool = False
    replica: bool = False  # it reads from replicas, unless it says otherwise
    context: Pairs = ()  # settings of its sessions; `context.ADDRESS` stands for its address
    system: str | None = None  # one of the tenant's, unless the client says another one
    read_only: bool = False
    databases: tuple[str, ...] = ()  # of a client of the database `postgres`: the tenants that it lists as databases


class Users:
    """The users of `[pg.users]` and the user `jwt`. Constructing and `reload` read the files of passwords.

    `tokens` verifies those of the user `jwt`, and of `oauth` where `discovery` says where to get one. `tenants`: the
    router's registry. `seed` (`seed_of`) makes the salts that strangers see the same after a restart and in other
    processes.
    """

    def __init__(
        self,
        users: Mapping[str, PgUser],
        tokens: PortTokenVerifier | None,
        *,
        jwt: bool = True,
        discovery: Discovery | None = None,
        tenants: CachingRegistry,
        seed: bytes | None = None,
        context: ClientContext | None = None,
    ) -> None:
        self._tokens = tokens
        self._ways: Mapping[bytes, Credential] = {}  # of those whose proof is a token
        if tokens is not None and jwt:
            self._ways = {JWT: Credential("cleartext")}
        if tokens is not None and discovery is not None:
            self._ways = {**self._ways, OAUTH: Credential("oauth", discovery=discovery)}
        self._tenants = tenants
        self._context = context if context is not None else ClientContext()
        self._by_database = ByDatabase(tenants)
        self._seed = seed if seed is not None else secrets.token_bytes(_KEY_BYTES)
        self._grants: Mapping[bytes, _Grant] = {}
        self._made: Mapping[tuple[bytes, bytes], Verifier] = {}  # verifiers by user and keyed hash of the password
        self._shapes: tuple[tuple[int, int], ...] = ()  # (iterations, bytes of salt) that users' verifiers have
        self.reload(users)

    def adopt(self, tokens: PortTokenVerifier | None) -> None:
        """Verify the tokens of user `jwt` by `tokens` from now on, where they are taken at all."""
        if self._tokens is not None and tokens is not None:
            self._tokens = tokens

    def reload(self, users: Mapping[str, PgUser]) -> None:
        """Take over `users`, all or nothing, and read their passwords again; connected clients stay.

        Raises ConfigurationError when a password cannot be read. Costs a millisecond for each password that is new.
        """
        self.prepare(users)()

    def prepare(self, users: Mapping[str, PgUser]) -> Callable[[], None]:
        """As `reload`, in two steps: what this returns takes them over, and cannot fail."""
        made: dict[tuple[bytes, bytes], Verifier] = {}
        grants = {name.encode(): self._granted(name, user, made) for name, user in users.items()}
        verifiers = [grant.verifier for grant in grants.values() if grant.verifier is not None]
        shapes = {(one.iterations, len(one.salt)) for one in verifiers} or {(DEFAULT_ITERATIONS, _SALT_BYTES)}

        def commit() -> None:
            self._grants, self._made, self._shapes = grants, made, tuple(sorted(shapes))

        return commit

    def _granted(self, name: str, user: PgUser, made: dict[tuple[bytes, bytes], Verifier]) -> _Grant:
        return _Grant(
            name=name,
            verifier=self._verifier(name.encode(), user, made),
            tenants=None if user.tenants == "*" else tuple(dict.fromkeys(user.tenants)),
            pool_mode=user.pool_mode,
            replica=user.replica,
            read_only=user.read_only,
            system=user.system,
            context=tuple(user.context.items()),
            console=user.console,
            maintenance=user.maintenance,
            certificate=frozenset(user.cert_names or [name]) if user.cert else None,
        )

    def _verifier(self, name: bytes, user: PgUser, made: dict[tuple[bytes, bytes], Verifier]) -> Verifier | None:
        if user.verifier is not None:
            return Verifier.parse(user.verifier.read())
        if user.password is None:
            assert user.cert  # checked with the configuration
            return None
        password = user.password.read()
        if not password:
            where = f"pg.users.{name.decode()}.password"
            raise ConfigurationError([Problem(key=where, problem="is empty", fix="write the password")])
        key = (name, hmac.digest(self._seed, password.encode(), "sha256"))
        made[key] = self._made.get(key) or Verifier.of_password(password, salt=self._derived("salt", name))
        return made[key]

    # --- who -----------------------------------------------------------------------------------------------------
    def find(self, user: bytes, channel: Channel) -> Credential:
        """What `user` has to prove: never an error, and for a stranger's name nothing that differs from a user's."""
        mock = self._mock(user)  # for all users, so that it takes the same time
        if user in self._ways and channel.is_private:
            return self._ways[user]
        method: Literal["scram-sha-256", "cleartext"]
        method = "cleartext" if channel.is_tunnel and channel.is_private else "scram-sha-256"
        grant = self._grants.get(user)
        if grant is None:
            return Credential(method, mock, UNKNOWN_USER)
        if grant.certificate is not None and not grant.certificate & channel.certificate:
            return Credential(method, mock, "the client did not show a certificate of the user")
        if grant.verifier is None:
            return Credential("certificate")
        return Credential(method, grant.verifier)

    def knows(self, user: bytes) -> bool:
        """Whether there is such a user; for the log alone."""
        return user in self._grants or user in self._ways

    def _mock(self, user: bytes) -> Verifier:
        # As PostgreSQL does: the same salt for the same name each time, and iterations that a user could have.
        iterations, size = max(self._shapes, key=lambda shape: self._derived(f"shape {shape}", user))
        stored, server = (self._derived(what, user, _KEY_BYTES) for what in ("stored", "server"))
        return Verifier(iterations, self._derived("salt", user, size), stored, server)

    def _derived(self, what: str, user: bytes, size: int = _SALT_BYTES) -> bytes:
        return hashlib.shake_256(self._seed + what.encode() + b"\0" + user).digest(size)

    # --- where to ------------------------------------------------------------------------------------------------
    def authorise_nowait(self, user: bytes, wish: Wish) -> Target | TenantProxyError | None:
        """As `authorise`, without waiting; None: the registry has to be asked, so await `authorise`."""
        grant = self._grants.get(user)
        if grant is None:
            return failed(user, UNKNOWN_USER)  # never another one in place of a user that is not there
        names = _names(wish)
        if CONSOLE in names or (grant.console and names == {_CONSOLE_OF_OTHERS}):
            return grant.at_console() if len(names) == 1 else failed(user, "it names a tenant and the console")
        if grant.is_maintenance(names):
            return None
        if len(names) > _MAX_NAMES:
            return failed(user, f"it names more than {_MAX_NAMES} tenants")
        if len(names) > 1:
            return None
        name = _text(wish.database)
        tenant = self._tenants.peek(name) if name is not None and grant.reaches(name) else None
        return None if tenant is None else _at(grant, tenant, wish, self._context)

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
            if grant.is_maintenance(_names(wish)):
                return await self._listed(grant, wish)
            tenant = await self._agreed(grant, wish)
        except (TenantError, RegistryUnavailable) as exc:
            return exc
        return (
            failed(user, "the user has no such tenant") if tenant is None else _at(grant, tenant, wish, self._context)
        )

    async def _listed(self, grant: _Grant, wish: Wish) -> Target | TenantProxyError:
        """The first of the tenants that the user may reach, with a list of them."""
        every = self._tenants.inner.tenants(status=TenantStatus.ACTIVE) if grant.tenants is None else None
        found: list[Tenant] = []
        async for tenant in self._served(grant.tenants or ()) if every is None else every:
            if tenant.status is TenantStatus.ACTIVE:
                found.append(tenant)
            if len(found) == _LISTED:
                break
        if not found:
            return failed(grant.name.encode(), "the user reaches no tenant that is served")
        found.sort(key=lambda tenant: tenant.id)
        target = _at(grant, found[0], wish, self._context)
        return replace(target, databases=tuple(tenant.id for tenant in found)) if isinstance(target, Target) else target

    async def _agreed(self, grant: _Grant, wish: Wish) -> Tenant | None:
        """The one tenant that everything in `wish` names."""
        agreed: Tenant | None = None
        for name in _names(wish):
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
        """The same among `tenants`. No other tenant is looked up: not even the time it takes says what there is."""
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

    def left_of(self, target: Target, others: tuple[tuple[bytes, bytes], ...]) -> dict[bytes, bytes]:
        """What of `others` is for the client's session itself. Raises InvalidSetting for what it may not choose."""
        grant = self._grants.get(target.user.encode())
        chosen = {name.encode() for name, source in (() if grant is None else grant.context) if source == STARTUP}
        given = {name.encode() for name, _ in target.context}
        left = {name: value for name, value in others if name not in chosen}
        for name in left.keys() & given:
            raise not_tracked(name)
        return left

    def may_vacate(self, target: Target, database: str) -> bool:
        """Whether a client may have idle connections to `database` closed: its user reaches all, or this one alone."""
        grant = self._grants.get(target.user.encode())
        if grant is None:
            return False
        if grant.tenants is None:
            return True
        known = (self._tenants.peek(name) for name in grant.tenants[:_SCANNED])
        return any(tenant is not None and has_database(tenant, database) for tenant in known)

    # --- user jwt ------------------------------------------------------------------------------------------------
    async def authorise_token(
        self, token: str, wish: Wish, *, subject: bytes | None = None
    ) -> Target | TenantProxyError:
        """Where the bearer of `token`, of user `jwt` or `oauth`, may go. Errors as `authorise`.

        In addition TokenExpired, for a genuine token that is expired or revoked, and what says that it cannot be
        verified now. `subject`: the name that the caller gives itself, which must be `jwt` or whom the token is of;
        None: it is not asked.
        """
        if self._tokens is None:
            return failed(JWT, "tokens are not taken here")
        try:
            claims = await self._tokens.verify(token)
            tenant = await self._tenants.get(tenant_id(claim_at(claims, self._tokens.settings.tenant_claim)))
        except TenantNotFound:
            return failed(JWT, "the token names no tenant that there is")
        except (AuthError, RegistryUnavailable) as exc:
            told = exc.retryable or isinstance(exc, TokenExpired | RegistryUnavailable)
            return exc if told else failed(JWT, f"the token is refused: {exc.code}")
        if subject and subject not in (JWT, str(claims.get("sub", "")).encode("utf-8", "surrogatepass")):
            return failed(subject, "the token is another user's")
        named = all(_text(name) == tenant.id or has_database(tenant, _text(name)) for name in _names(wish))
        good = named and CONSOLE not in _names(wish)
        if not good:
            return failed(JWT, "the database is not the token's tenant")
        try:
            bearer = _READER if reads_only(claims, self._tokens.settings) else _BEARER
            return bearer.at(tenant, self._context.of_token(claims, tenant.id))
        except (InvalidSetting, TenantUnresolved) as exc:
            return exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """What one user may. `tenants` None: all of them."""

    name: str
    verifier: Verifier | None
    tenants: tuple[str, ...] | None
    pool_mode: PoolMode
    console: ConsoleAccess
    replica: bool = False
    read_only: bool = False
    system: str | None = None
    context: Pairs = ()  # names and sources
    maintenance: bool = False
    certificate: frozenset[str] | None = None  # one of these names must be in the one that is shown

    def reaches(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants

    def is_maintenance(self, names: set[bytes]) -> bool:
        return self.maintenance and names == {_MAINTENANCE}

    def at(self, tenant: Tenant, context: Pairs) -> Target | TenantProxyError:
        if tenant.status is not TenantStatus.ACTIVE:
            return not_served(tenant.status)
        return Target(
            kind="tenant",
            user=self.name,
            tenant=tenant.id,
            pool_mode=self.pool_mode,
            replica=self.replica,
            context=context,
            system=self.system,
            read_only=self.read_only,
        )

    def at_console(self) -> Target | TenantProxyError:
        if not self.console:
            return failed(self.name.encode(), "the user may not use the console")
        return Target(kind="console", user=self.name, may_change=self.console is True)


def _at(grant: _Grant, tenant: Tenant, wish: Wish, context: ClientContext) -> Target | TenantProxyError:
    try:
        return grant.at(tenant, context.of_user(dict(grant.context), wish, tenant.id))
    except InvalidSetting as exc:
        return exc


_BEARER: Final = _Grant(
    name=pg_users.JWT,
    verifier=None,
    tenants=(),
    pool_mode="transaction",
    console=False,
)
_READER: Final = replace(_BEARER, read_only=True)


def seed_of(settings: Settings) -> bytes | None:
    """The seed that follows from a key of this deployment; None without a key. Raises ConfigurationError.

    Never from a password: the salts are shown to strangers, who could then guess it without asking.
    """
    keys = [*settings.row.keys().values(), *settings.auth.keys().values()]
    return hmac.digest(keys[0].read_bytes(), b"tenantproxy: salts of the PostgreSQL port", "sha256") if keys else None


def _names(wish: Wish) -> set[bytes]:
    """All of them must mean the same tenant. A caller with a token need name none."""
    return {wish.database, *wish.tenants} if wish.database else set(wish.tenants)


def _text(name: bytes) -> str | None:
    """`name`, if a tenant or a database can be called so."""
    if not name or len(name) > MAX_IDENTIFIER_BYTES:
        return None
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
