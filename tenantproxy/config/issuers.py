"""Do the issuers of tokens agree with each other and with the rest? Pure: reads no file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenantproxy.config.auth_sections import Auth, AuthIssuer, Resolve
from tenantproxy.config.problems import nearest
from tenantproxy.errors import Problem

__all__ = ["auth_problems", "issuer_problems"]

_OWN_ALGORITHMS: Final = ("HS256", "EdDSA")
_RESERVED: Final = frozenset({"iss", "aud", "sub", "exp", "iat", "nbf", "jti", "tid", "tep", "sid", "role"})
_USERS_OWN: Final = frozenset({"user_metadata", "unsafe_metadata"})  # Supabase's and Clerk's: a user writes them


def auth_problems(auth: Auth) -> Iterator[Problem]:
    """What is wrong with `[auth]` itself."""
    own, given = auth.keys(), [key for key in ("public_key_file", "jwks_url") if getattr(auth, key)]
    if given and (own or len(given) > 1):
        problem = f"excludes {'a key of our own' if own else given[1]}"
        yield Problem(key=f"auth.{given[0]}", problem=problem, fix="keep one, and write the others as [[auth.issuers]]")
    if own and auth.algorithm not in _OWN_ALGORITHMS:
        yield Problem(key="auth.algorithm", problem=f"is {auth.algorithm}", fix="our own tokens take HS256 or EdDSA")
    if given and not own and auth.algorithm == "HS256":
        problem = "is HS256, whose key could also sign: it is never in a key set"
        yield Problem(key="auth.algorithm", problem=problem, fix="write the issuer's own: RS256, ES256, EdDSA")
    if auth.signing_kid and auth.signing_kid not in own:
        close = nearest(auth.signing_kid, own)
        fix = f"did you mean {close}?" if close else "name one of key_files"
        yield Problem(key="auth.signing_kid", problem="is not in key_files", fix=fix)
    if own and auth.tenant_claim in _RESERVED:
        yield Problem(key="auth.tenant_claim", problem="is a claim with a meaning of its own", fix='write "tenant"')
    yield from _url("auth.jwks_url", auth.jwks_url)
    yield from _claim("auth.tenant_claim", auth.tenant_claim)


def issuer_problems(auth: Auth, resolve: Resolve | None) -> Iterator[Problem]:
    """What is wrong with `[[auth.issuers]]`."""
    named: dict[str, str] = {auth.issuer: "[auth]"} if auth.has_main else {}
    for number, issuer in enumerate(auth.issuers):
        key = f"auth.issuers.{number}"
        if (first := named.setdefault(issuer.issuer, key)) != key:
            yield Problem(key=f"{key}.issuer", problem=f"is that of {first} too", fix="name each issuer once")
        yield from _keys(key, issuer)
        if not issuer.audience and not issuer.clients:
            problem = "is missing, and clients too: tokens of that issuer for any other application would be good here"
            yield Problem(key=f"{key}.audience", problem=problem, fix="write the API's audience, or the ids of clients")
        yield from _claim(f"{key}.tenant_claim", issuer.tenant_claim)
    if auth.issuers:
        yield from _one_claim(auth, resolve)


def _keys(key: str, issuer: AuthIssuer) -> Iterator[Problem]:
    if (issuer.key is None) == (not issuer.jwks_url):
        problem = "is missing" if issuer.key is None else "excludes a key"
        fix = "write where its public keys are, or key_file with the secret that it shares (HS256)"
        yield Problem(key=f"{key}.jwks_url", problem=problem, fix=fix)
    if issuer.jwks_url and "HS256" in issuer.algorithms:
        problem = "has HS256: who reads the key set could sign"
        yield Problem(key=f"{key}.algorithms", problem=problem, fix="take it out")
    if issuer.key is not None and set(issuer.algorithms) - {"HS256"}:
        problem = "has another than HS256, which is all that a shared secret does"
        yield Problem(key=f"{key}.algorithms", problem=problem, fix="leave it out, or give jwks_url")
    yield from _url(f"{key}.jwks_url", issuer.jwks_url)


def _url(key: str, url: str) -> Iterator[Problem]:
    if url and not url.startswith("https://"):
        yield Problem(key=key, problem="is not https", fix="write https://...: who forges it can sign")
    elif "@" in url.removeprefix("https://").partition("/")[0]:
        yield Problem(key=key, problem="has a user or a password", fix="write https://host/path: key sets are public")


def _claim(key: str, path: str) -> Iterator[Problem]:
    if "://" not in path and path.partition(".")[0] in _USERS_OWN:
        problem = "is what users write themselves: each could choose a tenant"
        yield Problem(key=key, problem=problem, fix="let the issuer set it, as app_metadata or public_metadata")


def _one_claim(auth: Auth, resolve: Resolve | None) -> Iterator[Problem]:
    """What an issuer may name is asked of one claim: another one in `agree` would go round that."""
    if "." in auth.tenant_claim and "://" not in auth.tenant_claim:
        fix = 'write a plain name, such as "tenant", and the path in each issuer'
        yield Problem(key="auth.tenant_claim", problem="is a path, and the tenant of any issuer stands there", fix=fix)
    for number, text in enumerate(resolve.agree if resolve is not None else ()):
        kind, _, name = text.partition(":")
        if kind == "claim" and name and name != auth.tenant_claim:
            problem = f"is not where tokens of [[auth.issuers]] name their tenant: that is {auth.tenant_claim!r}"
            yield Problem(key=f"resolve.agree.{number}", problem=problem, fix=f'write "claim:{auth.tenant_claim}"')
