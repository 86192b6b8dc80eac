"""Which tenants are there, and how are they made?"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tenantproxy.cli import provision as provisioning
from tenantproxy.cli import read
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group
from tenantproxy.config import load
from tenantproxy.lifecycle.idle import idle_tenants
from tenantproxy.model import Isolation, TenantStatus

__all__ = ["tenants_app"]

tenants_app = group("Look at the registered tenants, and make new ones.")
app.add_typer(tenants_app, name="tenants")


@command(tenants_app, "list")
def tenants_list(
    config: ConfigFile = DEFAULT_CONFIG,
    status: Annotated[TenantStatus | None, typer.Option(help="Only those in this status.")] = None,
    unusable: Annotated[bool, typer.Option("--unusable", help="Those whose entry cannot be used, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the registered tenants, in order of their identifiers."""
    if unusable:
        Output(as_json).rows(asyncio.run(read.unusable_tenants(load(config))), empty="every entry can be used")
        return
    rows, left_out = asyncio.run(read.tenants(load(config), status))
    Output(as_json).rows(rows, empty="no tenants")
    if left_out:
        text = f"not listed: {left_out} that cannot be used; tenantproxy tenants list --unusable says why"
        Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False, style="yellow")


@command(tenants_app, "show")
def tenants_show(tenant: str, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one tenant and where it lives."""
    Output(as_json).table(asyncio.run(read.tenant(load(config), tenant)))


@command(tenants_app, "create")
def tenants_create(
    tenant: Annotated[list[str], typer.Argument(help="Its identifier; several are made at once.")],
    config: ConfigFile = DEFAULT_CONFIG,
    isolation: Annotated[Isolation | None, typer.Option(help="What keeps it apart. [provision.isolation]")] = None,
    server: Annotated[str | None, typer.Option(help="Where it lives. [provision.server]")] = None,
    tier: Annotated[str, typer.Option(help="A word of yours.")] = "standard",
    region: Annotated[str | None, typer.Option(help="A word of yours.")] = None,
    domain: Annotated[str | None, typer.Option(help="What {domain} in a name of [provision] stands for.")] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="EMAIL", help="Make its first account too, by [provision.admin_query].")
    ] = None,
    admin_password_file: Annotated[
        Path | None,
        typer.Option(
            help="Holds the password of that account; - reads a line. Default: none matches until one is set."
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Of this request: with the same key again it is gone on with, not done twice.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a tenant: its role, its database or schema with the SQL files in it, closed to all others, and proven.

    Whatever fails undoes all of it. What was interrupted is listed by `tenants unfinished`.
    """
    if key is not None and len(tenant) > 1:
        raise typer.BadParameter("is that of one tenant", param_hint="--key")
    if admin_password_file is not None and admin is None:
        raise typer.BadParameter("is for the account that --admin names", param_hint="--admin-password-file")
    request = provisioning.CreateRequest(
        tenants=tuple(tenant), isolation=isolation, server=server, tier=tier, region=region, domain=domain, key=key,
        admin=admin, password=_password(admin_password_file),
    )  # fmt: skip
    _tell(asyncio.run(provisioning.create(load(config), request, dry_run=dry_run)), as_json)


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    text = sys.stdin.readline() if str(path) == "-" else path.read_text(encoding="utf-8")
    return text.rstrip("\r\n")


@command(tenants_app, "stock")
def tenants_stock(
    config: ConfigFile = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many there are, and make none.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill up the databases that are kept ready, by [provision.stock], and remove those that no tenant can take."""
    work = provisioning.stock if dry_run else provisioning.fill_stock
    Output(as_json).rows(asyncio.run(work(load(config))), empty="there is no stock")


@command(tenants_app, "idle")
def tenants_idle(
    days: Annotated[int, typer.Option(min=1, help="Without a login or a refreshed session for so long.")] = 90,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List the tenants that no one has used for long, by logins in the audit table and sessions."""
    found = asyncio.run(idle_tenants(load(config), days=days))
    Output(as_json).rows([asdict(each) for each in found], empty=f"each was used within {days} days")


@command(tenants_app, "unfinished")
def tenants_unfinished(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List the tenants that are being made, and those whose making was interrupted."""
    Output(as_json).rows(asyncio.run(provisioning.unfinished(load(config))), empty="none is unfinished")


@command(tenants_app, "finish")
def tenants_finish(
    tenant: Annotated[list[str] | None, typer.Argument(help="Default: all that are unfinished.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Go on with tenants whose making was interrupted, from the step where each is."""
    _tell(asyncio.run(provisioning.finish(load(config), tenant or (), dry_run=dry_run)), as_json)


@command(tenants_app, "abandon")
def tenants_abandon(
    tenant: list[str], config: ConfigFile = DEFAULT_CONFIG, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Undo what was made for tenants that are unfinished. One that was active once is never undone."""
    _tell(asyncio.run(provisioning.abandon(load(config), tenant, dry_run=dry_run)), as_json)


def _tell(rows: list[dict[str, Any]], as_json: bool) -> None:
    Output(as_json).rows(rows, empty="none is unfinished")
    if provisioning.has_failed(rows):
        raise typer.Exit(1)
