"""Is the PostgreSQL listener safe to open, and what may its users do? Pure: reads no file and no variable."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from tenantproxy.config.problems import nearest
from tenantproxy.config.sections import Pg, PgUser
from tenantproxy.config.values import is_loopback
from tenantproxy.errors import Problem, TenantNotFound
from tenantproxy.model import MAX_IDENTIFIER_BYTES, tenant_id
from tenantproxy.wire.scram import Verifier

__all__ = ["CONSOLE", "JWT", "pg_problems"]

CONSOLE: Final = "tenantproxy"
"""The database of the PostgreSQL port that is the console."""

JWT: Final = "jwt"
"""The user of the PostgreSQL port whose password is an access token."""


def pg_problems(pg: Pg, *, verifies: bool, tenants: Collection[str] | None) -> Iterator[Problem]:
    """What is wrong with `[pg]`. `verifies`: can `[auth]`; `tenants`: all there are, None where no file says so."""
    yield from _listener(pg, verifies=verifies)
    for name, user in pg.users.items():
        yield from _name(name)
        key = f"pg.users.{name}"
        yield from _proof(key, user)
        yield from _reach(key, user, tenants)
    if pg.users and tenants is not None and CONSOLE in tenants:
        problem = "is the name of the console on the PostgreSQL port, so no client could connect to this tenant"
        yield Problem(key=f"tenants.{CONSOLE}", problem=problem, fix="rename the tenant")


def _listener(pg: Pg, *, verifies: bool) -> Iterator[Problem]:
    if bool(pg.ssl_cert_file) != bool(pg.ssl_key_file):
        problem, fix = "ssl_cert_file and ssl_key_file belong together", "give both or neither"
        yield Problem(key="pg.ssl_cert_file", problem=problem, fix=fix)
    elif pg.ssl_cert_file:
        problem = "is not available in this release: what clients send would not be encrypted"
        fix = "remove it; listen on 127.0.0.1, or let a proxy that ends TLS stand in front"
        yield Problem(key="pg.ssl_cert_file", problem=problem, fix=fix)
    if not pg.jwt:
        return
    if not verifies:
        problem, fix = "needs a key to verify tokens with", "configure a key, public_key_file or jwks_url in [auth]"
        yield Problem(key="pg.jwt", problem=problem, fix=fix)
    if pg.listen and not is_loopback(pg.listen):
        problem = f"asks for access tokens in clear text, and other machines can reach pg.listen = {pg.listen!r}"
        yield Problem(key="pg.jwt", problem=problem, fix='listen on "127.0.0.1:6432", or remove jwt = true')


def _name(name: str) -> Iterator[Problem]:
    size = len(name.encode("utf-8", "surrogatepass"))
    if not name or size > MAX_IDENTIFIER_BYTES or not name.isprintable():
        problem = "cannot be the name of a user" if name else "is empty"
        fix = f"give it 1 to {MAX_IDENTIFIER_BYTES} bytes that can be printed"
        yield Problem(key=f"pg.users.{name[:80]!a}", problem=problem, fix=fix)
    elif name == JWT:
        problem = "is the user whose password is an access token"
        yield Problem(key=f"pg.users.{name}", problem=problem, fix="choose another name")


def _proof(key: str, user: PgUser) -> Iterator[Problem]:
    if (user.password is None) == (user.verifier is None):
        problem = "has neither a verifier nor" if user.password is None else "has both a verifier and"
        yield Problem(key=key, problem=f"{problem} a password", fix="give a verifier or a password_file")
    elif user.verifier is not None:
        try:
            Verifier.parse(user.verifier.read())
        except ValueError as exc:
            is_md5 = user.verifier.read().startswith("md5")
            problem = "is an md5 hash, which is as good as the password itself" if is_md5 else f"is none: {exc}"
            fix = "write what PostgreSQL keeps in pg_authid.rolpassword, or give a password_file"
            yield Problem(key=f"{key}.verifier", problem=problem, fix=fix)


def _reach(key: str, user: PgUser, known: Collection[str] | None) -> Iterator[Problem]:
    if not user.tenants and not user.console:
        problem = "may reach no tenant, and not the console"
        yield Problem(key=key, problem=problem, fix='add tenants = ["..."] or tenants = "*", or console = true')
    for tenant in user.tenants if user.tenants != "*" else ():
        if tenant == "*":
            fix = 'write tenants = "*", without brackets'
            yield Problem(key=f"{key}.tenants", problem='holds "*" with or in place of tenants', fix=fix)
            continue
        try:
            tenant_id(tenant)
        except TenantNotFound as exc:
            problem = f"names {tenant[:80]!a}: {exc.message} ({exc.detail})"
            yield Problem(key=f"{key}.tenants", problem=problem, fix=str(exc.hint))
            continue
        if known is not None and tenant not in known:
            close = nearest(tenant, known)
            fix = f"did you mean {close}?" if close else f"add [tenants.{tenant}], or remove it"
            yield Problem(key=f"{key}.tenants", problem=f"names {tenant!r}, which is not in [tenants]", fix=fix)
