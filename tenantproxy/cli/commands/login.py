"""Who can log in, and what does a token say?"""

from __future__ import annotations

import asyncio
import sys
from getpass import getpass
from typing import Annotated, Any

import typer

from tenantproxy.cli import login as logins
from tenantproxy.cli import login_sync, tokens
from tenantproxy.cli.output import Output
from tenantproxy.cli.shape import Group
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group
from tenantproxy.config import load


class Logins(Group):
    """`login EMAIL` next to `login reconcile`: what has an @ is no command but an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, ["as", *args] if args and "@" in args[0] else args)


login_app = group("Try a login: `login EMAIL`. Or correct the directory of accounts.", Logins)
token_app = group("Make an access token, or see why one is refused.")
app.add_typer(login_app, name="login")
app.add_typer(token_app, name="tokens")
app.add_typer(token_app, name="token", hidden=True)  # as it was called first
_PIPED = "-"


@command(login_app, "as")
def login(email: str, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Log EMAIL in with a password that is asked for, or read from a pipe, and show the accounts that match."""
    password = getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    Output(as_json).rows(asyncio.run(logins.log_in(load(config), email, password)), empty="no account")


@command(login_app, "reconcile")
def login_reconcile(config: ConfigFile = DEFAULT_CONFIG, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Make the directory of accounts agree with every active tenant's own table, by list_query of the section login."""
    rows, good = asyncio.run(logins.reconcile(load(config), dry_run=dry_run))
    Output(as_json).rows(rows, empty="no tenants")
    if not good:
        raise typer.Exit(1)


@command(login_app, "watch")
def login_watch(
    config: ConfigFile = DEFAULT_CONFIG,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print what it would run, and run nothing.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put triggers on the users tables of all tenants, which note what `login sync` looks at. [login.watch_table]"""
    if print_sql:
        sys.stdout.write(asyncio.run(login_sync.watching_sql(load(config))))
        return
    _tell(asyncio.run(login_sync.watch(load(config), dry_run=dry_run)), as_json)


@command(login_app, "sync")
def login_sync_command(
    config: ConfigFile = DEFAULT_CONFIG,
    every: Annotated[float | None, typer.Option(min=0.1, help="Go on, with so many seconds in between.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make the directory follow what applications wrote into users tables since the last time."""
    if every is None or dry_run:
        _tell(asyncio.run(login_sync.sync(load(config), dry_run=dry_run)), as_json)
        return
    asyncio.run(login_sync.sync_on(load(config), every=every, told=lambda rows: _show(rows, as_json)))


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if busy := [row for row in rows if row["rows"] or row["error"]]:
        Output(as_json).rows(busy, empty="")


def _tell(rows: list[dict[str, Any]], as_json: bool) -> None:
    Output(as_json).rows(rows, empty="no tenants")
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@command(token_app, "issue")
def token_issue(
    tenant: str,
    user: Annotated[str, typer.Option(help="Whose token it is: the claim sub.")],
    role: Annotated[str | None, typer.Option(help="The claim role.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Print an access token of USER in TENANT, for a script or a try; it is good for access_ttl seconds."""
    made = asyncio.run(tokens.issue(load(config), tenant, user=user, role=role))
    if as_json:
        Output(True).table(made)
    else:
        sys.stdout.write(f"{made['access_token']}\n")  # alone, so that $(...) takes it


@command(token_app, "inspect")
def token_inspect(
    token: Annotated[str, typer.Argument(help="The token; - reads it from a pipe, or asks for it.")] = _PIPED,
    selection: Annotated[bool, typer.Option(help="It is a selection token.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what a token says, whether it is good now, and if not, why; exits 1 then."""
    if token == _PIPED:
        token = getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline().strip()
    found = asyncio.run(tokens.inspect(load(config), token, purpose="selection" if selection else "access"))
    Output(as_json).tree(found)
    if not found["good"]:
        raise typer.Exit(1)
