"""Who may come in at the PostgreSQL port, and which sessions has a person? `users list|verifier|sessions|end`."""

from __future__ import annotations

import sys
from getpass import getpass
from typing import Annotated, Any, Final

import typer

from tenantproxy.cli import operate
from tenantproxy.cli.commands.sidecar import AdminUrl, TokenFile, admin_listener
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group
from tenantproxy.config import PgUser, load
from tenantproxy.errors import TenantProxyError
from tenantproxy.wire.scram import DEFAULT_ITERATIONS, MAX_ITERATIONS, Verifier

__all__: list[str] = []

users_app = group("Users of the PostgreSQL port, and the sessions of people.")
app.add_typer(users_app, name="users")
_SECRETS: Final = {"password", "password_file", "password_env", "verifier"}


@command(users_app, "list")
def users_list(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List the configured users of the PostgreSQL port, [pg.users], without what they prove themselves by."""
    users = load(config, secrets=False).pg.users
    rows = [_row(name, user, as_json) for name, user in sorted(users.items())]
    Output(as_json).rows(rows, empty="no user is configured: add [pg.users.NAME] with verifier and tenants")


def _row(name: str, user: PgUser, as_json: bool) -> dict[str, Any]:
    tenants = user.tenants if isinstance(user.tenants, str) else list(user.tenants)
    return {
        "user": name,
        "tenants": tenants if as_json or isinstance(tenants, str) else ", ".join(tenants),
        "pool_mode": user.pool_mode,
        "console": user.console,
    }


@command(users_app, "verifier")
def users_verifier(
    iterations: Annotated[
        int, typer.Option(min=4096, max=MAX_ITERATIONS, help="More cost an attacker more, and each login too.")
    ] = DEFAULT_ITERATIONS,
    as_json: AsJson = False,
) -> None:
    """Make a SCRAM verifier of a password that is asked for, or read from a pipe: for [pg.users.NAME] verifier.

    The configuration needs no password then. PostgreSQL takes the same: ALTER ROLE ... PASSWORD 'SCRAM-SHA-256$...'.
    """
    password = getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if sys.stdin.isatty() and getpass("again: ") != password:
        raise TenantProxyError("the two are not the same", hint="type it again")
    if not password:
        raise TenantProxyError("a password is empty", hint="type one, or pipe one in")
    made = Verifier.of_password(password, iterations=iterations).text()
    if as_json:
        Output(True).table({"verifier": made})
    else:
        sys.stdout.write(f"{made}\n")  # alone, so that $(...) takes it


@command(users_app, "sessions")
def users_sessions(
    tenant: str,
    user: Annotated[str, typer.Argument(help="Its id, the claim sub of its tokens.")],
    config: ConfigFile = DEFAULT_CONFIG,
    url: AdminUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the sessions of a person in a tenant, the newest first. Asks the running sidecar."""
    rows = operate.sessions(*admin_listener(config, url, token_file), tenant, user)
    Output(as_json).rows(rows, empty="no session")


@command(users_app, "end")
def users_end(
    tenant: str,
    user: Annotated[str, typer.Argument(help="Its id, the claim sub of its tokens.")],
    session: Annotated[str | None, typer.Option(help="This one alone, as listed. [all]")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    url: AdminUrl = None,
    token_file: TokenFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """End the sessions of a person: its refresh tokens are void, and its access tokens as soon as that is known."""
    at = admin_listener(config, url, token_file)
    if dry_run:
        found = [each for each in operate.sessions(*at, tenant, user) if session in (None, each["id"])]
        Output(as_json).table({"tenant": tenant, "user": user, "state": "would_end", "sessions": len(found)})
        return
    ended = operate.end_sessions(*at, tenant, user, session)
    Output(as_json).table({"tenant": tenant, "user": user, "state": "ended", "sessions": ended})
