"""How are tenants saved, and how do they come back?"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tenantproxy.cli import backup as saving
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group
from tenantproxy.config import load

backup_app = group("Save tenants and the main database, try what was saved, and restore it.")
app.add_typer(backup_app, name="backup")
Into = Annotated[str | None, typer.Option("--into", help="The folder of backups. [backup.folder]")]
From = Annotated[str | None, typer.Option("--from", help="The folder of backups. [backup.folder]")]
KeyFiles = Annotated[
    list[str] | None, typer.Option("--key-file", help="A file with a private key; again for more. [backup.key_files]")
]


@command(backup_app, "create")
def backup_create(
    tenant: Annotated[
        list[str] | None, typer.Argument(help="Its identifier, or main; several are saved in one run.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    everything: Annotated[bool, typer.Option("--all", help="The main database and all tenants.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest run: what is whole is not repeated.")
    ] = False,
    into: Into = None,
    encrypt_to: Annotated[
        list[str] | None, typer.Option("--encrypt-to", help="A public key; again for more. [backup.recipients]")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Save tenants, several at once. The failure of one does not stop the others. Exit 1 when one is not saved."""
    request = saving.SaveRequest(
        tenants=tuple(tenant or ()), everything=everything, resume=resume, into=into,
        recipients=tuple(encrypt_to or ()),
    )  # fmt: skip
    rows = asyncio.run(saving.create(load(config), request, dry_run=dry_run))
    Output(as_json).rows(rows, empty="no tenants")
    if saving.has_failed(rows):
        raise typer.Exit(1)


@command(backup_app, "list")
def backup_list(
    tenant: Annotated[list[str] | None, typer.Argument(help="Only of these; main is the main database.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    into: From = None,
    as_json: AsJson = False,
) -> None:
    """List what was saved, the oldest of each tenant first. Exit 1 where one cannot be read."""
    rows = saving.listing(load(config, secrets=False), tenant or (), into)
    Output(as_json).rows(rows, empty="no backups")
    if saving.has_failed(rows):
        raise typer.Exit(1)


@command(backup_app, "verify")
def backup_verify(
    backup: Annotated[
        list[str] | None, typer.Argument(help="As listed, or a tenant for its newest. [the newest of each]")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    into: From = None,
    key_file: KeyFiles = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Restore backups into a scratch place, compare all content, and note that they are good. Exit 1 if one is not."""
    rows = asyncio.run(saving.verify(load(config), backup or (), into=into, key_files=key_file or (), dry_run=dry_run))
    Output(as_json).rows(rows, empty="no backups")
    if saving.has_failed(rows):
        raise typer.Exit(1)


@command(backup_app, "restore")
def backup_restore(
    backup: Annotated[str, typer.Argument(help="As listed, or a tenant for its newest, or main.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_id: Annotated[
        str | None, typer.Option("--as", help="The new tenant; of the main database, the new database. [its own]")
    ] = None,
    server: Annotated[str | None, typer.Option(help="Where it will live. [where it was]")] = None,
    domain: Annotated[str | None, typer.Option(help="For names that [provision] makes of one.")] = None,
    into: From = None,
    key_file: KeyFiles = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a tenant of a backup, whole or not at all; never into one that exists."""
    done = saving.restore(
        load(config),
        backup,
        as_id=as_id,
        server=server,
        domain=domain,
        into=into,
        key_files=key_file or (),
        dry_run=dry_run,
    )
    Output(as_json).table(asyncio.run(done))


@command(backup_app, "prune")
def backup_prune(
    tenant: Annotated[list[str] | None, typer.Argument(help="Only of these. [all]")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    keep: Annotated[int | None, typer.Option(min=0, help="The newest so many of each tenant. [backup.keep]")] = None,
    keep_days: Annotated[int | None, typer.Option(min=0, help="And all younger. [backup.keep_days]")] = None,
    into: From = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove old backups. The newest of a tenant that was verified stays, whatever the rules say."""
    pruning = saving.prune(
        load(config, secrets=False), tenant or (), into=into, keep=keep, keep_days=keep_days, dry_run=dry_run
    )
    Output(as_json).rows(asyncio.run(pruning), empty="nothing to remove")
