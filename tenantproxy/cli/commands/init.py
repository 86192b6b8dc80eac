"""How does an existing server become a deployment?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from tenantproxy.cli.init import InitCommand, run_init
from tenantproxy.cli.tree import AsJson, app, command
from tenantproxy.lifecycle.init import InitRequest
from tenantproxy.model import Isolation


@command(app, "init")
def init(
    dsn: Annotated[
        str,
        typer.Argument(
            metavar="DSN",
            envvar="TENANTPROXY_INIT_DSN",
            help="postgresql://USER@HOST:5432/DATABASE; the password here, or in PGPASSWORD.",
        ),
    ],
    into: Annotated[
        Path, typer.Option("--into", help="The folder for the files; nothing in it is overwritten.")
    ] = Path("tenantproxy"),
    tenants: Annotated[
        Isolation | None, typer.Option("--tenants", help="What keeps tenants apart. [what is recognised]")
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", help="The column that says whose a row is. [the likeliest]")
    ] = None,
    share: Annotated[
        list[str] | None, typer.Option("--share", help="A table that all tenants may read; again for more.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Of the names of the roles that are made.")] = "tenantproxy",
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the files: those in the folder as they are, or new ones.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what was found, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at a server and its database, and write a configuration, keys and SQL to review, each with its undo.

    Nothing is changed on the server without --apply.
    """
    asked = InitRequest(isolation=tenants, column=column, shared=tuple(share or ()), prefix=prefix)
    typed = InitCommand(dsn=dsn, into=into, request=asked, applies=apply, is_dry=dry_run, as_json=as_json)
    if (code := asyncio.run(run_init(typed))) != 0:
        raise typer.Exit(code)
