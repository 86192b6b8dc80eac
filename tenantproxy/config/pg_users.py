"""Are the listeners safe to open, and what may users of the PostgreSQL port do? Pure: reads no file, no variable."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from tenantproxy.config.problems import nearest
from tenantproxy.config.sections import ListenerSection, Pg, PgUser
from tenantproxy.config.values import is_loopback
from tenantproxy.errors import Problem, TenantNotFound
from tenantproxy.model import MAX_IDENTIFIER_BYTES, OWN_SETTINGS, tenant_id
from tenantproxy.wire.scram import Verifier

__all__ = ["CONSOLE", "GIVEN", "JWT", "MAINTENANCE", "OAUTH", "STARTUP", "pg_problems", "tls_problems"]

CONSOLE: Final = "tenantproxy"
"""The database of the PostgreSQL port that is the console."""

MAINTENANCE: Final = "postgres"
"""The database of the PostgreSQL port that tools ask for first."""

JWT: Final = "jwt"
"""The user of the PostgreSQL port whose password is an access token."""

OAUTH: Final = "oauth"
"""The user of the PostgreSQL port who brings an access token by OAUTHBEARER."""

STARTUP: Final = "startup"
"""The source of a setting that a client of the user names when it connects."""

GIVEN: Final = "value:"
"""Begins the source of a setting that is the same for all clients of the user."""

_DOMAIN: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*", re.IGNORECASE)


def pg_problems(pg: Pg, *, verifies: bool, tenants: Collection[str] | None) -> Iterator[Problem]:
    """What is wrong with `[pg]`. `verifies`: can `[auth]`; `tenants`: all there are, None where no file says so."""
    yield from tls_problems("pg", pg)
    yield from _encryption(pg)
    yield from _tokens(pg, verifies=verifies)
    for name, user in pg.users.items():
        yield from _name(name, pg)
        key = f"pg.users.{name}"
        yield from _proof(key, user)
        yield from _certificate(key, user, pg)
        yield from _reach(key, user, tenants)
        yield from _context(key, user)
    if pg.users and tenants is not None and CONSOLE in tenants:
        problem = "is the name of the console on the PostgreSQL port, so no client could connect to this tenant"
        yield Problem(key=f"tenants.{CONSOLE}", problem=problem, fix="rename the tenant")
    if tenants is not None and MAINTENANCE in tenants and any(user.maintenance for user in pg.users.values()):
        problem = "is what tools ask for first, so no user with maintenance = true could connect to this tenant"
        yield Problem(key=f"tenants.{MAINTENANCE}", problem=problem, fix="rename the tenant")


def tls_problems(key: str, section: ListenerSection) -> Iterator[Problem]:
    """What of a listener's TLS does not go together, or is missing where it listens. Reads no file."""
    if bool(section.ssl_cert_file) != bool(section.ssl_key_file):
        problem, fix = "ssl_cert_file and ssl_key_file belong together", "give both or neither"
        yield Problem(key=f"{key}.ssl_cert_file", problem=problem, fix=fix)
    if section.ssl_client_ca_file and not section.ssl_cert_file:
        problem = "is only read with ssl_cert_file: without TLS no client shows a certificate"
        yield Problem(key=f"{key}.ssl_client_ca_file", problem=problem, fix="add ssl_cert_file and ssl_key_file")
    if section.ssl_crl_file and not section.ssl_client_ca_file:
        problem, fix = "is only read with ssl_client_ca_file", "name the authority of the clients' certificates"
        yield Problem(key=f"{key}.ssl_crl_file", problem=problem, fix=fix)
    if section.ssl_required == "always" and not section.ssl_cert_file:
        problem, fix = "no client could connect: there is no certificate", "add ssl_cert_file and ssl_key_file"
        yield Problem(key=f"{key}.ssl_required", problem=problem, fix=fix)
    is_open = bool(section.listen) and not (section.ssl_cert_file or is_loopback(section.listen))
    if is_open and section.ssl_required == "remote":
        problem = (
            f"is missing: other machines can reach {key}.listen = {section.listen!r}, and nothing would be encrypted"
        )
        fix = 'add ssl_cert_file and ssl_key_file, listen on 127.0.0.1, or say that it may be: ssl_required = "never"'
        yield Problem(key=f"{key}.ssl_cert_file", problem=problem, fix=fix)


def _encryption(pg: Pg) -> Iterator[Problem]:
    if pg.ssl_tenant_domain and not pg.ssl_cert_file:
        problem, fix = "is only read with ssl_cert_file: the name comes with TLS", "add it, or remove this"
        yield Problem(key="pg.ssl_tenant_domain", problem=problem, fix=fix)
    if pg.ssl_tenant_domain and not _DOMAIN.fullmatch(pg.ssl_tenant_domain):
        problem, fix = "is not a domain", 'write it without a dot or a star before it, such as "db.example.com"'
        yield Problem(key="pg.ssl_tenant_domain", problem=problem, fix=fix)


def _tokens(pg: Pg, *, verifies: bool) -> Iterator[Problem]:
    for key, is_wanted in (("pg.jwt", pg.jwt), ("pg.oauth_issuer", bool(pg.oauth_issuer))):
        if not is_wanted:
            continue
        if not verifies:
            problem, fix = "needs a key to verify tokens with", "configure a key, public_key_file or jwks_url in [auth]"
            yield Problem(key=key, problem=problem, fix=fix)
        if pg.listen and not (pg.ssl_cert_file or is_loopback(pg.listen)):
            problem = f"asks for access tokens in clear text, and other machines can reach pg.listen = {pg.listen!r}"
            fix = f'add ssl_cert_file and ssl_key_file, listen on "127.0.0.1:6432", or remove {key.partition(".")[2]}'
            yield Problem(key=key, problem=problem, fix=fix)
    if pg.oauth_issuer and not pg.oauth_issuer.startswith("https://"):
        problem, fix = "is not the URL of an issuer", 'write it as clients know it, such as "https://id.example.com"'
        yield Problem(key="pg.oauth_issuer", problem=problem, fix=fix)


def _name(name: str, pg: Pg) -> Iterator[Problem]:
    size = len(name.encode("utf-8", "surrogatepass"))
    if not name or size > MAX_IDENTIFIER_BYTES or not name.isprintable():
        problem = "cannot be the name of a user" if name else "is empty"
        fix = f"give it 1 to {MAX_IDENTIFIER_BYTES} bytes that can be printed"
        yield Problem(key=f"pg.users.{name[:80]!a}", problem=problem, fix=fix)
    elif name == JWT or (name == OAUTH and pg.oauth_issuer):
        problem = "is the user whose password is an access token"
        yield Problem(key=f"pg.users.{name}", problem=problem, fix="choose another name")


def _proof(key: str, user: PgUser) -> Iterator[Problem]:
    if user.cert and user.password is None and user.verifier is None:
        return
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


def _certificate(key: str, user: PgUser, pg: Pg) -> Iterator[Problem]:
    if user.cert and not pg.ssl_client_ca_file:
        problem = "needs an authority of clients' certificates"
        yield Problem(key=f"{key}.cert", problem=problem, fix="name its file in [pg] ssl_client_ca_file")
    if user.cert_names and not user.cert:
        yield Problem(key=f"{key}.cert_names", problem="is only read with cert = true", fix="add cert = true")


def _context(key: str, user: PgUser) -> Iterator[Problem]:
    for setting, source in user.context.items():
        if setting.lower() in ("app.current_tenant_id", *OWN_SETTINGS):
            problem = "is set by the isolation itself"
            yield Problem(key=f"{key}.context.{setting}", problem=problem, fix="remove it")
        if source not in (STARTUP, "client:ip", "tenant:id") and not source.startswith(GIVEN):
            fix = 'write "value:TEXT", "startup", "client:ip" or "tenant:id"'
            yield Problem(key=f"{key}.context.{setting}", problem="must say where the value comes from", fix=fix)


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
