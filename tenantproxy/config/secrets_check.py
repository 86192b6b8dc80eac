"""Can every configured secret be read now, and are the keys long enough? The only check that opens other files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from tenantproxy.config.checks import WellFormedSections
from tenantproxy.config.secret import MIN_KEY_BYTES, MIN_TOKEN_BYTES, Secret
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["each_secret", "secret_problems"]


def secret_problems(parts: WellFormedSections) -> list[Problem]:
    """Secrets that cannot be read, and keys that are shorter than 32 bytes."""
    found = [problem for key, secret, least in each_secret(parts) for problem in _look(key, secret, least)]
    return [*found, *_equal_tokens(parts)]


def _equal_tokens(parts: WellFormedSections) -> Iterator[Problem]:
    """Tokens of the admin listener must differ: which one was sent says who asks, and what they may do."""
    known: dict[bytes, str] = {}
    for name, each in parts.admin.each_token if parts.admin is not None else ():
        with suppress(ConfigurationError):  # that is told elsewhere
            if each.token is not None and (other := known.setdefault(each.token.read_bytes(), name)) != name:
                problem = f"is the same token as that of {other!r}"
                yield Problem(key=f"admin.tokens.{name}", problem=problem, fix="give each a token of its own")


def each_secret(parts: WellFormedSections) -> Iterator[tuple[str, Secret | None, int]]:
    """The key, the secret, and how many bytes it must have at least."""
    yield from _of_servers(parts)
    yield from _of_clusters(parts)
    yield from _of_redis(parts)
    if parts.row is not None:
        single = parts.row.key is not None
        for kid, secret in parts.row.keys().items():
            yield "row.key" if single else f"row.key_files.{kid}", secret, MIN_KEY_BYTES
    if parts.tenant_roles is not None:
        yield "tenant_roles.key", parts.tenant_roles.key, MIN_KEY_BYTES
    if parts.fleet is not None:
        yield "fleet.key", parts.fleet.key, MIN_KEY_BYTES
        yield "fleet.password", parts.fleet.password, 0
    if parts.auth is not None:
        single = parts.auth.key is not None
        for name, secret in parts.auth.keys().items():
            yield "auth.key" if single else f"auth.key_files.{name}", secret, MIN_KEY_BYTES
        for number, issuer in enumerate(parts.auth.issuers):
            yield f"auth.issuers.{number}.key", issuer.key, MIN_KEY_BYTES
    if parts.login is not None:
        yield "login.pepper", parts.login.pepper, MIN_KEY_BYTES
    if parts.admin is not None:
        yield "admin.token", parts.admin.token, MIN_TOKEN_BYTES
        for name, each in parts.admin.tokens.items():
            yield f"admin.tokens.{name}.token", each.token, MIN_TOKEN_BYTES
    for name, user in parts.pg.users.items() if parts.pg is not None else ():
        yield f"pg.users.{name}.password", user.password, 1


def _of_servers(parts: WellFormedSections) -> Iterator[tuple[str, Secret | None, int]]:
    for name, server in parts.servers.items():
        if server is None:
            continue
        for key, user in (("", server), (".admin", server.admin), (".login", server.login)):
            if user is not None:
                yield f"servers.{name}{key}.password", user.password, 0


def _of_clusters(parts: WellFormedSections) -> Iterator[tuple[str, Secret | None, int]]:
    for name, cluster in parts.mongo.clusters.items() if parts.mongo is not None else ():
        yield f"mongo.clusters.{name}.password", cluster.password, 1


def _of_redis(parts: WellFormedSections) -> Iterator[tuple[str, Secret | None, int]]:
    if parts.registry is not None:
        yield "registry.redis.password", parts.registry.redis.password, 1
        yield "registry.redis.key", parts.registry.redis.key, MIN_KEY_BYTES


def _look(key: str, secret: Secret | None, least: int) -> Iterator[Problem]:
    if secret is None:
        return
    if secret.kind != "inline" and "." in key and not key.startswith(("row.key_files", "auth.key_files")):
        key = f"{key}_{secret.kind}"
    try:
        size = len(secret.read_bytes())
    except ConfigurationError as exc:
        what = exc.problems[0]
        yield Problem(key=key, problem=f"{what.key} {what.problem}", fix=what.fix)
        return
    if size < max(least, 0 if secret.kind == "inline" else 1):
        problem = "is empty" if size == 0 else f"is {size} bytes long, at least {least} are needed"
        fix = "write a new one with: openssl rand -hex 32" if least else "write the password"
        yield Problem(key=key, problem=problem, fix=fix)
