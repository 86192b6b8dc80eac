"""Who are you, and are you still? The login desk on the public listener: login, select, refresh, logout, check, keys.

Nothing is logged here. What a stranger hears is the same whether or not an account, a tenant or a database exists.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote
from weakref import WeakSet

import asyncpg
from aiohttp import web

from tenantproxy.auth.accounts import Account
from tenantproxy.auth.base import RequestContext
from tenantproxy.auth.caller import Headers, TrustedProxies, bearer_token, header_texts, host_of, unwrap_token
from tenantproxy.auth.claims import invalid, no_longer_valid
from tenantproxy.auth.refresh import Grant, Sessions
from tenantproxy.auth.resolvers import authorise, from_settings, mismatch, token_needed
from tenantproxy.auth.revocation import Revocations
from tenantproxy.auth.throttle import AddressLimits
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Settings
from tenantproxy.context import SERVED_TENANT
from tenantproxy.errors import (
    ConfigurationError,
    LoginUnavailable,
    PoolError,
    Problem,
    RegistryUnavailable,
    TenantNotFound,
    TenantPaused,
)
from tenantproxy.events import Event, Observer, RefreshTokenReused
from tenantproxy.model import Tenant, TenantId, TenantStatus
from tenantproxy.router import Router, not_served

__all__ = ["MAX_LOGIN_BODY", "AuthDesk", "selection"]

MAX_LOGIN_BODY: Final = 64 * 1024
_BODY_SECONDS: Final = 10.0  # for all of a body: it is small, and its sender unknown

_DATABASE_ERRORS: Final = (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_LONG_AGO: Final = "1:1:"  # a snapshot that sees nothing: of a token that does not say when it was made
_NO_STORE: Final = {"Cache-Control": "no-store"}
_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class AuthDesk:
    """The routes under `/auth/`; those of login only where `[login]` and a key of our own are configured.

    Between `open` and `close`, within the router's own, it verifies tokens and follows what is revoked.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        settings = router.settings
        auth, login = settings.auth, settings.login
        self._verifies = auth.verifies
        self._logs_in = bool(auth.keys()) and login.account_query is not None
        self._resolver = from_settings(settings.resolve)
        self._proxies = TrustedProxies.configured(settings.http, observer=router.observer)
        self._tries = AddressLimits(login.attempts_per_address)
        self._desk: _Open | None = None  # from open to close
        self._spent: WeakSet[Tokens] = WeakSet()  # of former configurations, for as long as a request uses them
        self.reuses = 0
        """How often a spent refresh token came again."""

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """What the public listener mounts."""
        routes: list[web.AbstractRouteDef] = []
        if self._verifies:
            routes += [
                web.route("*", "/auth/check", self._check),
                web.route("*", "/auth/check/{path:.*}", self._check),  # Envoy keeps the request's own method and path
                web.get("/auth/jwks.json", self._jwks),
            ]
        if self._logs_in:
            routes += [
                web.post("/auth/login", self._login),
                web.post("/auth/select", self._select),
                web.post("/auth/refresh", self._refresh),
                web.post("/auth/logout", self._logout),
            ]
        return routes

    def prepare(self, new: Settings) -> Callable[[], None]:
        """Get ready for the keys, issuers, resolvers and proxies of `new`; what this returns takes them over.

        Raises ConfigurationError: when a key cannot be used, and where it would turn routes on or off.
        """
        auth = new.auth
        logs_in = bool(auth.keys()) and new.login.account_query is not None
        if (auth.verifies, logs_in) != (self._verifies, self._logs_in):
            problem = Problem(
                key="auth",
                problem="turns the checking of tokens, or login, on or off, and cannot while it runs",
                fix="change it back, or let a new process take it over: tenantproxy upgrade",
            )
            raise ConfigurationError([problem])
        resolver = from_settings(new.resolve)
        proxies = TrustedProxies.configured(new.http, observer=self._router.observer)
        tokens = None
        if self._verifies:
            revoked = self._router.revocations
            tokens = Tokens(auth, tenants=self._router.registry, revoked=revoked, observer=self._observe)

        def commit() -> None:
            self._resolver, self._proxies = resolver, proxies
            if self._desk is not None and tokens is not None:
                self._spent.add(self._desk.tokens)
                self._desk = _Open.over(self._router, tokens, self._observe)

        return commit

    @property
    def tokens(self) -> Tokens:
        """Verifies and issues; only while open, and where `[auth]` is configured."""
        return self._opened.tokens

    async def open(self) -> None:
        """Learn what was revoked. Raises ConfigurationError where its tables are not installed."""
        if self._verifies and self._desk is None:
            self._desk = await _Open.begin(self._router, self._observe)

    async def close(self) -> None:
        """Forget it. Safe to call again."""
        desk, self._desk = self._desk, None
        for tokens in [*self._spent, *([desk.tokens] if desk is not None else [])]:
            await tokens.close()
        self._spent.clear()

    def _observe(self, event: Event) -> None:
        self.reuses += isinstance(event, RefreshTokenReused)
        self._router.observer(event)

    @property
    def _opened(self) -> _Open:
        if self._desk is None:
            raise LoginUnavailable("logging in is not possible at the moment", retry_after=1.0)
        return self._desk

    # --- routes ------------------------------------------------------------------------------------------------------
    async def _login(self, request: web.Request) -> web.Response:
        body = await _body(request, "email", "password", optional=("tenant", "device_token"))
        address, _ = self._client(request)
        accounts = await self._router.login(
            body["email"],
            body["password"],
            address=address,
            tenant=body.get("tenant"),
            device=body.get("device_token"),
        )
        device = self._router.logins.device_token(body["email"])
        if len(accounts) == 1:
            return await self._granted(accounts[0], device=device)
        choices = [await self._choice(one) for one in accounts]
        token, kept = selection(self.tokens, choices, as_of=accounts[0].as_of)
        shown = [self._shown(accounts[number]) for number in kept]
        return _answer({"selection_token": token, "tenants": shown, "device_token": device})

    async def _choice(self, account: Account) -> dict[str, object]:
        """As it stands in a selection token: of this very tenant, not of another that gets its name meanwhile."""
        with _unnamed():
            epoch = self.tokens.epoch(await self._served(account.tenant))
        return {"tenant": account.tenant, "tep": epoch, "user": account.user, "claims": account.claims}

    def _shown(self, account: Account) -> dict[str, str]:
        return {**self._named(account.tenant), "user": account.user}

    def _named(self, tenant: str) -> dict[str, str]:
        """The tenant under each of its names: "tenant", the claim's and those of `[login] response_names`."""
        settings = self._router.settings
        names = ("tenant", settings.auth.tenant_claim, *settings.login.response_names)
        return dict.fromkeys(names, tenant)

    async def _select(self, request: web.Request) -> web.Response:
        body = await _body(request, "selection_token", "tenant")
        claims = await self.tokens.verify(body["selection_token"], purpose="selection")
        for choice in claims["choices"]:
            if choice["tenant"] == body["tenant"]:
                account = Account(
                    tenant=choice["tenant"],
                    user=choice["user"],
                    claims=dict(choice["claims"]),
                    as_of=claims.get("as_of") or _LONG_AGO,
                )
                # Good once: the session has its name, so that of two at the same moment one finds it taken.
                answer = await self._granted(account, epoch=choice["tep"], session=claims["jti"])
                await self._revoke(claims)
                return answer
        raise mismatch()

    async def _revoke(self, claims: Mapping[str, Any]) -> None:
        """Of a token that is good until it expires."""
        left = float(claims["exp"]) - time.time() + self._router.settings.auth.leeway
        with _unnamed():
            await self._opened.revocations.revoke_token(self.tokens.revocation_ids(claims)[0], expires_in=left)

    async def _granted(
        self, account: Account, *, epoch: int | None = None, session: str | None = None, device: str | None = None
    ) -> web.Response:
        """Begin a session and answer with its tokens. `epoch`: which the tenant was in when the password was right."""
        claims = dict(account.claims)
        role = claims.pop("role", None)
        with _unnamed():
            tenant = await self._served(account.tenant)
            if epoch is not None and epoch != self.tokens.epoch(tenant):
                raise no_longer_valid()
            grant = await self._opened.sessions.open(
                tenant=tenant,
                user=account.user,
                role=None if role is None else str(role),
                claims=claims,
                session=session,
                as_of=account.as_of,
                is_chosen=session is not None,
            )
        return self._answer(grant, **({} if device is None else {"device_token": device}))

    def _answer(self, grant: Grant, **more: str) -> web.Response:
        return _answer(
            {
                "access_token": grant.access_token,
                "token_type": "Bearer",
                "expires_in": grant.expires_in,
                "refresh_token": grant.refresh_token,
                **self._named(grant.tenant.id),
                "user": grant.user,
                **more,
            }
        )

    async def _refresh(self, request: web.Request) -> web.Response:
        body = await _body(request, "refresh_token")
        with self._counted(request) as forgive, _unnamed():
            grant = await self._opened.sessions.refresh(body["refresh_token"])
            forgive()
        return self._answer(grant)

    async def _logout(self, request: web.Request) -> web.Response:
        """End the session of the refresh token in the body, or of the access token in the header."""
        sessions = self._opened.sessions
        if request.can_read_body:
            body = await _body(request, "refresh_token")
            with self._counted(request) as forgive, _unnamed():
                if await sessions.close(body["refresh_token"]):
                    forgive()
        else:
            claims = await self._claims(header_texts(request.raw_headers))
            if claims is None:
                raise invalid()
            session = claims.get("sid") if self.tokens.is_own(claims) else None  # another's sid is none of our sessions
            if isinstance(session, str):
                tenant, user = (str(claims.get(name, "")) for name in ("tid", "sub"))
                with _unnamed():
                    await sessions.close_session(session, tenant=tenant, user=user)
            else:
                await self._revoke(claims)
        return web.Response(status=204, headers=_NO_STORE)

    @contextmanager
    def _counted(self, request: web.Request) -> Iterator[Callable[[], None]]:
        """A refresh token that is none costs a query too: an address may try so often as it may guess passwords.

        Call what it gives when the token was good. That we could not tell does not count either.
        """
        address, _ = self._client(request)
        self._tries.take(address)

        def forgive() -> None:
            self._tries.give_back(address)

        try:
            yield forgive
        except (LoginUnavailable, TenantPaused):
            forgive()
            raise

    async def _check(self, request: web.Request) -> web.Response:
        """For a proxy in front: may this request go on, and whose is it?"""
        headers, token = unwrap_token(header_texts(request.raw_headers))  # the proxy asks for websockets too
        client, trusted = self._client(request)
        path = request.match_info.get("path")
        context = RequestContext(
            method=request.method,
            path=request.path if path is None else f"/{path}",
            host=host_of(request.headers.getall("Host", [])),
            headers=headers,
            client_ip=client,
            is_trusted_proxy=trusted,
            claims=await self._claims(headers + token),
        )
        identity = authorise(self._resolver, context, tenant_claim=self._router.settings.auth.tenant_claim)
        if identity is None or (context.claims is None and not self._router.settings.resolve.anonymous):
            # An address is what the caller chose: who stands behind the proxy takes 200 for a login.
            raise token_needed()
        if context.claims is not None:
            SERVED_TENANT.set(identity.tenant)
        tenant = await self._served(identity.tenant, is_proven=context.claims is not None)
        found = {"X-Tenant-Id": tenant.id, "X-Tenant-Database": _plain(tenant.placement.database)}
        if identity.user is not None:
            found["X-User-Id"] = _plain(identity.user)
        return web.Response(headers={**_NO_STORE, **found})

    async def _served(self, name: TenantId, *, is_proven: bool = True) -> Tenant:
        """The tenant, when it is served. Only a caller that has proven to be of it hears that it is paused."""
        try:
            tenant = await self._router.registry.get(name)
        except TenantNotFound:
            raise mismatch() from None
        if is_proven and isinstance(refusal := not_served(tenant.status), TenantPaused):
            raise refusal
        if tenant.status is not TenantStatus.ACTIVE:
            raise mismatch()
        return tenant

    async def _claims(self, headers: Headers) -> Mapping[str, object] | None:
        token = bearer_token([value for name, value in headers if name == "authorization"])
        return None if token is None else await self.tokens.verify(token)

    async def _jwks(self, request: web.Request) -> web.Response:
        return web.json_response(self.tokens.jwks(), headers={"Cache-Control": "public, max-age=300"})

    def _client(self, request: web.Request) -> tuple[str | None, bool]:
        return self._proxies.client(request.remote, request.headers.getall("X-Forwarded-For", []))


def selection(tokens: Tokens, choices: Sequence[Mapping[str, object]], *, as_of: str) -> tuple[str, list[int]]:
    """A selection token, and which of `choices` are in it, by number.

    A token has a greatest length. The claims are what a tenant's table says: one whose are too long is left out, for
    it must not keep a user from the others. Raises ValueError where one alone is too long.
    """
    kept = list(range(len(choices)))
    while True:
        claims = {"choices": [choices[number] for number in kept], "as_of": as_of}
        try:
            return tokens.issue_selection(subject=secrets.token_urlsafe(16), claims=claims), kept
        except ValueError:
            if len(kept) <= 1:
                raise
            kept.remove(max(kept, key=lambda number: len(json.dumps(choices[number]))))


class _Open:
    """What an open desk has."""

    __slots__ = ("revocations", "sessions", "tokens")

    def __init__(self, tokens: Tokens, revocations: Revocations, sessions: Sessions) -> None:
        self.tokens = tokens
        self.revocations = revocations
        self.sessions = sessions

    @classmethod
    async def begin(cls, router: Router, observer: Observer) -> _Open:
        revocations = router.revocations
        tokens = Tokens(router.settings.auth, tenants=router.registry, revoked=revocations, observer=observer)
        await revocations.open()
        return cls.over(router, tokens, observer)

    @classmethod
    def over(cls, router: Router, tokens: Tokens, observer: Observer) -> _Open:
        """With `tokens`; what was revoked is known already."""
        revocations = router.revocations
        sessions = Sessions(
            router.login_database, tokens, revocations=revocations, standing=router.standing, observer=observer
        )
        return cls(tokens, revocations, sessions)


@contextmanager
def _unnamed() -> Iterator[None]:
    """What the databases say of a person's session is not for strangers, and not for the log."""
    try:
        yield
    except RegistryUnavailable as exc:
        raise LoginUnavailable("logging in is not possible at the moment", retry_after=exc.retry_after) from None
    except _DATABASE_ERRORS:
        raise LoginUnavailable("logging in is not possible at the moment", retry_after=1.0) from None


async def _body(request: web.Request, *names: str, optional: Sequence[str] = ()) -> dict[str, str]:
    """The texts `names` of a JSON object. A form of another site cannot send this content type without asking."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="application/json is needed")
    if (request.content_length or 0) > MAX_LOGIN_BODY:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_LOGIN_BODY, actual_size=request.content_length or 0)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            raw = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    if len(raw) > MAX_LOGIN_BODY:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_LOGIN_BODY, actual_size=len(raw))
    try:
        given: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(reason="the body is not JSON") from None
    if not isinstance(given, dict):
        raise web.HTTPBadRequest(reason="the body is not a JSON object")
    for name in (*names, *optional):
        value = given.get(name)
        if not isinstance(value, str) and not (name in optional and value is None):
            raise web.HTTPBadRequest(reason=f"{name} is missing or not text")
    return {name: given[name] for name in (*names, *optional) if given.get(name) is not None}


def _answer(body: Mapping[str, object]) -> web.Response:
    return web.json_response(body, headers=_NO_STORE)


def _plain(value: str) -> str:
    """As the value of a header: what is not visible ASCII is percent-encoded."""
    return quote(value, safe=_VISIBLE)
