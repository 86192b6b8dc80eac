"""What is held of a person or a tenant, and how does it go?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from tenantproxy.cli import gdpr as answering
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group
from tenantproxy.config import load
from tenantproxy.lifecycle.gdpr import Person

gdpr_app = group("Export what is held of a tenant or a person, or erase a person.")
app.add_typer(gdpr_app, name="gdpr")
Tenants = Annotated[list[str] | None, typer.Argument(help="Only in these tenants. [all]")]
OfPerson = Annotated[str | None, typer.Option("--person", metavar="EMAIL", help="Of this person alone.")]
OfUser = Annotated[str | None, typer.Option("--user", metavar="ID", help="Of this account of one tenant.")]


@command(gdpr_app, "export")
def gdpr_export(
    into: Annotated[Path, typer.Option(help="The folder to make: JSON lines, a manifest and a signed report.")],
    tenant: Tenants = None,
    person: OfPerson = None,
    user: OfUser = None,
    config: ConfigFile = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Export what tenants hold of a person, by [gdpr.person], or all that the named tenants hold."""
    whose = _person(person, user)
    _tell(asyncio.run(answering.export(load(config), tenant or (), whose, into, dry_run=dry_run)), as_json)


@command(gdpr_app, "erase")
def gdpr_erase(
    tenant: Tenants = None,
    person: OfPerson = None,
    user: OfUser = None,
    yes: Annotated[
        str, typer.Option("--yes-i-mean-it", metavar="TENANT", help="All that this tenant has, and its backups.")
    ] = "",
    keep_backups: Annotated[
        bool, typer.Option("--keep-backups", help="Of a whole tenant: leave its backups; the report names them.")
    ] = False,
    no_backup: Annotated[
        bool, typer.Option("--no-backup", help="Of a whole tenant: make none before it goes.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write a signed report there.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person by [gdpr.person], in each tenant in one transaction, with its directory entry and sessions.

    Or a whole tenant: its deletion without a grace, and then its backups. Its name is not given again.
    """
    whose = _person(person, user)
    if whose is None and tenant and len(tenant) == 1 and (yes == tenant[0] or dry_run):
        how = {"keep_backups": keep_backups, "no_backup": no_backup, "dry_run": dry_run}
        _erase_whole(tenant[0], report, config, as_json, **how)
        return
    if whose is None:
        fix = "whom? Name --person EMAIL, or --user ID and its tenant; or a whole tenant: TENANT --yes-i-mean-it TENANT"
        raise typer.BadParameter(fix, param_hint="--person")
    if yes or keep_backups or no_backup:
        raise typer.BadParameter("is for a whole tenant, and not for a person in it", param_hint="--yes-i-mean-it")
    is_signed = report is not None
    work = answering.erase(load(config), tenant or (), whose, dry_run=dry_run, signed=is_signed)
    rows, text = asyncio.run(work)
    if report is not None:
        report.write_text(text, encoding="utf-8")
    _tell(rows, as_json)


@command(gdpr_app, "verify")
def gdpr_verify(report: Path, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show a report, if it is genuine and was not changed; exit 1 if not."""
    Output(as_json).tree(answering.verify(load(config), report))


def _erase_whole(tenant: str, report: Path | None, config: Path, as_json: bool, **how: bool) -> None:
    if report is None and not how["dry_run"]:
        raise typer.BadParameter("name a file for the signed report", param_hint="--report")
    if report is not None:
        report.open("a").close()  # before anything goes: it cannot be written again
    row, text = asyncio.run(answering.erase_whole(load(config), tenant, **how))
    if report is not None:
        report.write_text(text, encoding="utf-8")
    Output(as_json).table(row)


def _person(person: str | None, user: str | None) -> Person | None:
    if person is not None and user is not None:
        raise typer.BadParameter("name one of --person and --user", param_hint="--user")
    return None if person is None and user is None else Person(email=person, user=user)


def _tell(rows: list[dict[str, Any]], as_json: bool) -> None:
    Output(as_json).rows(rows, empty="no tenants")
    if answering.has_failed(rows):
        raise typer.Exit(1)
