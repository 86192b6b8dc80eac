"""How do the schemas of all tenants come to one version?"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from tenantproxy.cli import migrate as migrating
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group
from tenantproxy.config import load

migrate_app = group("Bring the schemas of all tenants to one version.")
app.add_typer(migrate_app, name="migrate")
Tenants = Annotated[list[str] | None, typer.Option("--tenant", help="Only this one; again for more.")]


@command(migrate_app, "plan")
def migrate_plan(config: ConfigFile = DEFAULT_CONFIG, tenant: Tenants = None, as_json: AsJson = False) -> None:
    """Show the version of each tenant and how much it lacks; changes nothing. Exit 1 where one cannot be said."""
    _tell_migrated(asyncio.run(migrating.plan(load(config), tenant or ())), as_json)


@command(migrate_app, "run")
def migrate_run(
    config: ConfigFile = DEFAULT_CONFIG,
    tenant: Tenants = None,
    to: Annotated[str | None, typer.Option(help="The last version to apply. [the newest]")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Apply the migrations that each tenant lacks: the canaries first, then the others, until too many fail.

    What was interrupted is gone on with by the next run; nothing is applied twice.
    """
    settings = load(config)
    work = migrating.plan(settings, tenant or (), to) if dry_run else migrating.run(settings, tenant or (), to)
    _tell_migrated(asyncio.run(work), as_json)


@command(migrate_app, "status")
def migrate_status(
    config: ConfigFile = DEFAULT_CONFIG,
    versions: Annotated[
        bool, typer.Option("--versions", help="And the version of each tenant, which is asked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the newest run and how far it is."""
    settings = load(config)
    newest, output = asyncio.run(migrating.status(settings)), Output(as_json)
    places = asyncio.run(migrating.plan(settings, ())) if versions else []
    if as_json and versions:
        output.tree({**newest, "places": places})
        return
    output.table(newest)
    if versions:
        output.rows(places, empty="no tenants")


@command(migrate_app, "rollback")
def migrate_rollback(
    to: Annotated[
        str, typer.Option(help="The version to go back to. 0, base of alembic, APP.zero of Django: before all.")
    ],
    config: ConfigFile = DEFAULT_CONFIG,
    tenant: Tenants = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take back what is behind a version, the last first: by the files NUMBER_name.down.sql, or as the project does."""
    settings = load(config)
    work = migrating.plan(settings, tenant or (), to) if dry_run else migrating.roll_back(settings, tenant or (), to)
    _tell_migrated(asyncio.run(work), as_json)


def _tell_migrated(rows: list[dict[str, Any]], as_json: bool) -> None:
    Output(as_json).rows(rows, empty="no tenants")
    if migrating.has_failed(rows):
        raise typer.Exit(1)
