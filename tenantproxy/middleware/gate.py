"""Who asks, and for which tenant? The steps of both middlewares: token, resolver, registry, scope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from tenantproxy.auth.base import Identity, RequestContext, Resolver, TokenVerifier
from tenantproxy.auth.caller import Headers, TrustedProxies, bearer_token, host_of, session_settings
from tenantproxy.auth.claims import reads_only
from tenantproxy.auth.resolvers import authorise, from_settings, mismatch, token_needed
from tenantproxy.errors import TenantMissing, TenantNotFound, TenantPaused, TenantProxyError, TenantUnresolved
from tenantproxy.middleware.problems import ProblemAnswer, answer_to
from tenantproxy.model import TenantStatus
from tenantproxy.router import Router, not_served
from tenantproxy.scope import TenantScope
from tenantproxy.wire.traceparent import traceparent_of

__all__ = ["Gate", "RequestCounter", "SystemOf"]

SystemOf: TypeAlias = str | Callable[[RequestContext], str | None]
"""Which of a tenant's systems a request is for: a header that names it, or what says it; None: the tenant's own."""


class RequestCounter(Protocol):
    """Counts finished requests; `metrics.listeners.HttpRequests` is one."""

    def observe(self, *, route: str, method: str, code: int, seconds: float) -> None:
        """`route` is a pattern of the application's, never a path."""
        ...


class Gate:
    """Turns a request into the scope of its tenant.

    `resolver`: by default that of the router's `[resolve]`. `tokens` verifies access tokens; without it no token is
    looked at, and what only a stranger says is refused. `system`: of tenants that have several schemas.
    """

    def __init__(
        self,
        router: Router,
        *,
        resolver: Resolver | None = None,
        tokens: TokenVerifier | None = None,
        system: SystemOf | None = None,
    ) -> None:
        settings = router.settings
        self._router = router
        self._resolver = resolver if resolver is not None else from_settings(settings.resolve)
        self._tokens = tokens
        self._system = system
        self._context, self._signed = dict(settings.context), dict(settings.signed_context)
        self._mismatch_text = settings.resolve.mismatch_text
        self._proxies = TrustedProxies.configured(settings.http, observer=router.observer)

    def parent(self, headers: Headers) -> str:
        """The request's traceparent, where leases are looked at; else it is not looked for."""
        if self._router.lease_watch is None:
            return ""
        return traceparent_of(_values(headers, "traceparent"))

    async def admit(self, *, method: str, path: str, headers: Headers, peer: str | None) -> TenantScope | None:
        """The scope for a request; see `enter`."""
        found = await self.enter(method=method, path=path, headers=headers, peer=peer)
        return None if found is None else found[0]

    async def enter(
        self, *, method: str, path: str, headers: Headers, peer: str | None
    ) -> tuple[TenantScope, Identity] | None:
        """Its scope and who asks; None: it names no tenant. Needs an open router. `headers` as in RequestContext.

        Raises AuthError and its kin; RegistryUnavailable where the tenant has to be looked up and cannot be.
        """
        request = self._context_of(method, path, headers, peer, await self._claims(headers))
        identity = authorise(self._resolver, request, tenant_claim=self._router.settings.auth.tenant_claim)
        if identity is None:
            return None
        registry = self._router.registry
        try:
            tenant = registry.peek(identity.tenant) or await registry.get(identity.tenant)
        except TenantNotFound:
            raise mismatch() from None
        # Who is of the tenant hears at once that it is paused; to others it is for the application, as before.
        if identity.claims and tenant.status is not TenantStatus.ACTIVE:
            refusal = not_served(tenant.status)
            if isinstance(refusal, TenantPaused):
                raise refusal
        settings: dict[str, str] | None = None
        if self._context or self._signed:
            settings = session_settings(self._context, request, identity.tenant, signed=self._signed)
        reads, system = reads_only(identity.claims, self._router.settings.auth), self._system_of(request)
        scope = self._router.tenant(identity.tenant, system=system, context=settings, read_only=reads)
        return scope, identity

    def _system_of(self, request: RequestContext) -> str | None:
        """Raises TenantUnresolved where a header names two."""
        if not isinstance(self._system, str):
            return None if self._system is None else self._system(request)
        named = request.header_values(self._system)
        if len(named) > 1:
            raise TenantUnresolved("the header that names the system was given twice", detail=self._system)
        return named[0].strip() or None if named else None

    def answer(self, headers: Headers, error: BaseException, request: str, *, tenant: str = "") -> ProblemAnswer:
        """The answer to an error of tenantproxy in the request with that id and these headers.

        Code that finds no current tenant is told how to set one. A caller hears what the request lacks; where that was
        resolved to a `tenant`, the code is at fault: it ran outside of the request's context.
        """
        if isinstance(error, TenantMissing) and (tenant or self._tokens is not None):
            error = self._missing(headers, error, resolved=bool(tenant))
        return answer_to(error, request, mismatch_text=self._mismatch_text, tenant=tenant)

    def _missing(self, headers: Headers, error: TenantMissing, *, resolved: bool) -> TenantProxyError:
        if resolved:
            lost = TenantProxyError(
                "code of this request ran without its tenant", detail=error.message, hint=error.hint
            )
            lost.__cause__ = error
            return lost
        return token_needed() if bearer_token(_values(headers, "authorization")) is None else mismatch()

    async def _claims(self, headers: Headers) -> Mapping[str, object] | None:
        if self._tokens is None:
            return None
        token = bearer_token(_values(headers, "authorization"))
        return None if token is None else await self._tokens.verify(token)

    def _context_of(
        self, method: str, path: str, headers: Headers, peer: str | None, claims: Mapping[str, object] | None
    ) -> RequestContext:
        client, trusted = self._proxies.client(peer, _values(headers, "x-forwarded-for"))
        return RequestContext(
            method=method, path=path, host=host_of(_values(headers, "host")), headers=headers, client_ip=client,
            is_trusted_proxy=trusted, claims=claims,
        )  # fmt: skip


def _values(headers: Headers, name: str) -> list[str]:
    return [value for key, value in headers if key == name]
