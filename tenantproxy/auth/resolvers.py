"""Which tenant does a request name, and may it? Pure: one class for each source, two that combine them.

What counts is who said it. A verified token's claim is proof. A subdomain or a path is the address that the caller
chose: enough where the application says so by resolving from nothing else. A header is hearsay: it has to agree with a
claim, unless a trusted proxy wrote it and the settings say that this is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from inspect import iscoroutinefunction
from typing import Final

from tenantproxy.auth.base import Identity, RequestContext, Resolver
from tenantproxy.auth.claims import claim_at
from tenantproxy.config.auth_sections import Resolve
from tenantproxy.config.own import make_own
from tenantproxy.config.sources import check_header_name, check_path_template, read_source, resolve_problems
from tenantproxy.errors import (
    AuthError,
    ConfigurationError,
    Problem,
    TenantMismatch,
    TenantNotFound,
    TenantUnresolved,
)
from tenantproxy.model import tenant_id

__all__ = [
    "Agreeing",
    "ClaimResolver",
    "FirstOf",
    "HeaderResolver",
    "PathResolver",
    "SubdomainResolver",
    "Weight",
    "authorise",
    "from_settings",
    "mismatch",
    "token_needed",
    "weight_of",
]

_PLACE: Final = "{tenant}"


class Weight(IntEnum):
    """What it is worth that a source names a tenant."""

    HEARSAY = 0
    ADDRESS = 1
    PROOF = 2
    OWN = 3  # a resolver of the application's, which says itself what a token is good for


def mismatch() -> TenantMismatch:
    """Sources disagree, or there is no such tenant: a stranger cannot tell which."""
    return TenantMismatch("tenant mismatch")


def token_needed() -> AuthError:
    """No token came where one is needed."""
    return AuthError("an access token is needed", hint="send it as Authorization: Bearer")


def _unproven(request: RequestContext) -> AuthError:
    if request.claims is None:
        return token_needed()
    return mismatch()  # a good token of a user who is in no tenant, or not in this one


class HeaderResolver:
    """The header `name`. Twice in a request: TenantUnresolved. Hearsay, unless `trust_proxies` and a trusted proxy."""

    def __init__(self, name: str, *, trust_proxies: bool = False) -> None:
        check_header_name(name)
        self.name = name.lower()
        self.trust_proxies = trust_proxies

    def resolve(self, request: RequestContext) -> str | None:
        """See `Resolver`."""
        values = request.header_values(self.name)
        if len(values) > 1:
            raise TenantUnresolved("the header that names the tenant is given more than once", detail=self.name)
        return values[0] if values else None

    def weight(self, request: RequestContext) -> Weight:
        """PROOF from a proxy that is trusted with it, else HEARSAY."""
        return Weight.PROOF if self.trust_proxies and request.is_trusted_proxy else Weight.HEARSAY


class ClaimResolver:
    """The claim `name`, or path (`app_metadata.tenant`), of the verified access token; what is no text is malformed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def resolve(self, request: RequestContext) -> str | None:
        """See `Resolver`."""
        value = None if request.claims is None else claim_at(request.claims, self.name)
        if value is not None and not isinstance(value, str):
            raise TenantUnresolved("the claim that names the tenant is not text", detail=self.name)
        return value

    def weight(self, request: RequestContext) -> Weight:
        """PROOF."""
        return Weight.PROOF


class SubdomainResolver:
    """`acme` of `acme.example.com`. `example.com` itself and foreign hosts name no tenant, deeper names are malformed.

    Hosts are in lower case: tenants whose identifier has a capital, a dot or an underscore cannot be named so.
    """

    def __init__(self, domain: str) -> None:
        self.domain = domain.lower().strip(".")
        if not self.domain:
            raise ValueError("a domain is needed, such as example.com")
        self._suffix = f".{self.domain}"

    def resolve(self, request: RequestContext) -> str | None:
        """See `Resolver`."""
        host = request.host.removesuffix(".")
        if not host.endswith(self._suffix):
            return None
        name = host.removesuffix(self._suffix)
        if not name or "." in name:
            raise TenantUnresolved("the host name has more than one part for the tenant")
        return name

    def weight(self, request: RequestContext) -> Weight:
        """ADDRESS."""
        return Weight.ADDRESS


class PathResolver:
    """The segment of the path where `template` has `{tenant}`: `/t/{tenant}/` takes `acme` of `/t/acme/projects`."""

    def __init__(self, template: str) -> None:
        segments = check_path_template(template)
        self.template = template
        self._place = segments.index(_PLACE)
        before = "/".join(segments[: self._place])
        self._prefix = f"/{before}/" if before else "/"
        self._after = segments[self._place + 1 :]

    def resolve(self, request: RequestContext) -> str | None:
        """See `Resolver`."""
        if not request.path.startswith(self._prefix):
            return None
        name, *after = request.path[len(self._prefix) :].split("/")
        if after[: len(self._after)] != self._after:
            return None
        if not name and any(after):
            raise TenantUnresolved("the path has nothing where the tenant is named")
        return name or None

    def weight(self, request: RequestContext) -> Weight:
        """ADDRESS."""
        return Weight.ADDRESS


class FirstOf:
    """The first of `sources` that names a tenant decides; the others are not asked."""

    def __init__(self, *sources: Resolver) -> None:
        self.sources = _some(sources)

    def resolve(self, request: RequestContext) -> str | None:
        """See `Resolver`."""
        return next((named for source in self.sources if (named := source.resolve(request)) is not None), None)

    def weight(self, request: RequestContext) -> Weight:
        """That of the source which decides."""
        deciding = (source for source in self.sources if source.resolve(request) is not None)
        return next((weight_of(source, request) for source in deciding), Weight.HEARSAY)


class Agreeing:
    """All of `sources` that name a tenant must name the same, byte for byte; otherwise AccessDenied.

    Hearsay alone is refused: AuthError (401) without a token, AccessDenied with one. Where a claim is among the
    sources, so is an address alone.
    """

    def __init__(self, *sources: Resolver) -> None:
        self.sources = _some(sources)
        self._needed = Weight.PROOF if any(map(_has_claim, self.sources)) else Weight.ADDRESS

    def resolve(self, request: RequestContext) -> str | None:
        """See `Resolver`."""
        agreed: str | None = None
        heaviest = Weight.HEARSAY
        for source in self.sources:
            named = source.resolve(request)
            if named is None:
                continue
            # Text is not bytes: the same letter comes as UTF-8 in a token and as anything in a header. Identifiers
            # are ASCII, so what is not agrees with nothing.
            if agreed is not None and (named != agreed or not named.isascii()):
                raise mismatch()
            agreed = named
            heaviest = max(heaviest, weight_of(source, request))
        if agreed is not None and heaviest < self._needed:
            raise _unproven(request)
        return agreed

    def weight(self, request: RequestContext) -> Weight:
        """What is needed: less has been refused."""
        return self._needed


def _has_claim(source: Resolver) -> bool:
    """Whether it is a claim, or combines one with others."""
    if isinstance(source, FirstOf | Agreeing):
        return any(map(_has_claim, source.sources))
    return isinstance(source, ClaimResolver)


def _some(sources: tuple[Resolver, ...]) -> tuple[Resolver, ...]:
    if not sources:
        raise ValueError("at least one source is needed")
    return sources


def weight_of(source: Resolver, request: RequestContext) -> Weight:
    """What `source` is worth for `request`; a resolver of the application's own answers for itself."""
    own = getattr(source, "weight", None)
    return Weight.OWN if own is None else Weight(own(request))


def authorise(resolver: Resolver, request: RequestContext, *, tenant_claim: str = "") -> Identity | None:
    """Who asks, for which tenant; None: the request names none. Whether that tenant exists is still to be looked up.

    An address says where the caller wants to be, a proxy's header where the request is to go; neither says that the
    token is good there: what it names under `tenant_claim`, if anything, must be the same. Raises TenantUnresolved
    (400), AuthError (401) or AccessDenied (403).
    """
    named = resolver.resolve(request)
    if named is None:
        return None
    weight = weight_of(resolver, request)
    if weight is Weight.HEARSAY:
        raise _unproven(request)
    if weight < Weight.OWN and request.claims is not None and not _allows(request.claims, tenant_claim, named):
        raise mismatch()  # user 7 of one tenant is not user 7 of another
    try:
        tenant = tenant_id(named)
    except TenantNotFound:
        raise mismatch() from None
    claims = request.claims if request.claims is not None else {}
    subject = claims.get("sub")
    return Identity(tenant=tenant, user=subject if isinstance(subject, str) else None, claims=claims)


def _allows(claims: Mapping[str, object], tenant_claim: str, named: str) -> bool:
    """Whether what a token names, if anything, is `named`; null is something."""
    value = claim_at(claims, tenant_claim)
    return value == named if value is not None else tenant_claim not in claims


def from_settings(settings: Resolve) -> Agreeing:
    """The resolver of `[resolve]`: built-in sources, and classes of one's own as `pkg.mod:Class`, called with nothing.

    Raises ConfigurationError for a source that cannot be read, with all problems at once.
    """
    problems = list(resolve_problems(settings))
    malformed = {problem.key for problem in problems}
    sources: list[Resolver] = []
    for number, text in enumerate(settings.agree):
        key = f"resolve.agree.{number}"
        if key in malformed:
            continue
        try:
            sources.append(_source(text, key, trust_proxies=settings.trust_header_from_proxies))
        except ConfigurationError as exc:
            problems += exc.problems
    if problems:
        raise ConfigurationError(problems)
    return Agreeing(*sources)


def _source(text: str, key: str, *, trust_proxies: bool) -> Resolver:
    kind, name = read_source(text)
    match kind:
        case "claim":
            return ClaimResolver(name)
        case "header":
            return HeaderResolver(name, trust_proxies=trust_proxies)
        case "subdomain":
            return SubdomainResolver(name)
        case "path":
            return PathResolver(name)
    return _own(text, key)


def _own(text: str, key: str) -> Resolver:
    made = make_own(text, key=key, protocol="tenantproxy.auth.base.Resolver", has=("resolve",))
    if not callable(made.resolve) or iscoroutinefunction(made.resolve):
        problem = "has a resolve that is async, or no method"
        fix = "write `def resolve(self, request)`: it decides from the request alone"
        raise ConfigurationError([Problem(key=key, problem=problem, fix=fix)])
    resolver: Resolver = made
    return resolver
