"""How does an operator stop a tenant, and let it go? `tenants suspend|resume|archive|delete|undelete`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from tenantproxy.cli.commands.tenants import tenants_app
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, command
from tenantproxy.config import Settings, load
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle import status
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.status import FolderBackups, LastBackups, Removed, StatusChanged

__all__ = ["backups_of"]

Outcome = StatusChanged | Removed | dict[str, Any]
Work = Callable[[Settings, str], Coroutine[Any, Any, Outcome]]
Tenants = Annotated[list[str], typer.Argument(help="Its identifier; several are done one after the other.")]


def backups_of(settings: Settings) -> LastBackups | None:
    """What makes and verifies last backups; None: `[backup]` names no folder for them."""
    return FolderBackups(settings) if settings.backup.folder else None


@command(tenants_app, "suspend")
def tenants_suspend(
    tenant: Tenants, config: ConfigFile = DEFAULT_CONFIG, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Refuse tenants everywhere within a second: connections end, tokens are void, their places are closed."""
    _all(tenant, _would("suspend") if dry_run else status.suspend, config, as_json)


@command(tenants_app, "resume")
def tenants_resume(
    tenant: Tenants, config: ConfigFile = DEFAULT_CONFIG, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Serve tenants again that are suspended, paused, or archived with what they have."""
    _all(tenant, _would("resume") if dry_run else status.resume, config, as_json)


@command(tenants_app, "archive")
def tenants_archive(
    tenant: Tenants,
    config: ConfigFile = DEFAULT_CONFIG,
    drop_place: Annotated[
        bool, typer.Option("--drop-place", help="Remove database, schema or rows behind the verified backup.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Suspend tenants, back them up and verify that. They stay registered, as inactive."""

    async def one(settings: Settings, each: str) -> Outcome:
        backups = backups_of(settings)
        if backups is None:
            fix = "name one; tenantproxy tenants suspend refuses the tenant without a backup"
            raise ConfigurationError([Problem(key="backup.folder", problem="is missing", fix=fix)])
        if dry_run:
            return await _would("archive")(settings, each)
        return await status.archive(settings, each, backups=backups, drop_place=drop_place)

    _all(tenant, one, config, as_json)


@command(tenants_app, "delete")
def tenants_delete(
    tenant: Annotated[list[str] | None, typer.Argument(help="Its identifier; none with --due.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    grace: Annotated[float, typer.Option(help="Days in which it can be taken back; 0: it is removed now.", min=0)] = 7,
    due: Annotated[bool, typer.Option("--due", help="Remove what all those have whose grace has passed.")] = False,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Without a last backup; see --yes-i-mean-it.")] = False,
    yes: Annotated[str, typer.Option("--yes-i-mean-it", metavar="TENANT", help="With --no-backup: its name.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Refuse tenants everywhere, and remove what they have when the grace has passed: the next call, or --due, does.

    Before anything is removed, its last backup is verified or made. A name that was deleted is not given again.
    """
    if due != (not tenant):
        raise typer.BadParameter("name the tenants, or write --due", param_hint="TENANT")
    if no_backup and (due or tenant != [yes]):
        raise typer.BadParameter(f"--no-backup is of one tenant: --yes-i-mean-it {(tenant or ['TENANT'])[0]}")
    if due:
        settings = load(config)
        done = asyncio.run(status.delete_due(settings, backups=backups_of(settings), dry_run=dry_run))
        rows = [_row(each) for each in done]
        Output(as_json).rows(rows, empty="none is due")
        return

    async def one(settings: Settings, each: str) -> Removed:
        return await status.delete(
            settings, each, grace_days=grace, no_backup=no_backup, backups=backups_of(settings), dry_run=dry_run
        )

    _all(tenant or [], one, config, as_json)


@command(tenants_app, "undelete")
def tenants_undelete(
    tenant: Tenants, config: ConfigFile = DEFAULT_CONFIG, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Take a deletion back while its grace lasts."""
    _all(tenant, _would("undelete") if dry_run else status.undelete, config, as_json)


def _would(change: Literal["suspend", "resume", "archive", "undelete"]) -> Work:
    async def one(settings: Settings, tenant: str) -> dict[str, Any]:
        before = await status.would(settings, tenant, change)
        return {"tenant": tenant, "state": f"would_{change}", "before": before}

    return one


def _all(tenants: list[str], work: Work, config: Any, as_json: bool) -> None:
    """One row for each; the failure of one is the row of that one, and exit code 1. A single one's is told as it is."""
    settings = load(config)
    if len(tenants) == 1:
        Output(as_json).rows([_row(asyncio.run(work(settings, tenants[0])))], empty="")
        return
    rows, has_failed = [], False
    for tenant in dict.fromkeys(tenants):
        try:
            rows.append(_row(asyncio.run(work(settings, tenant))) | {"error": None})
        except Exception as exc:  # noqa: BLE001 - a boundary: the others are done too
            rows.append({"tenant": tenant, "error": said(exc)})
            has_failed = True
    keys = dict.fromkeys(key for row in rows for key in row)
    Output(as_json).rows([{key: row.get(key) for key in keys} for row in rows], empty="")
    if has_failed:
        raise typer.Exit(1)


def _row(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, dict):
        return outcome
    row = asdict(outcome)
    if isinstance(outcome, Removed):
        at = outcome.final_at
        row["final_at"] = None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
        row["left"] = ", ".join(outcome.left)
    return row
