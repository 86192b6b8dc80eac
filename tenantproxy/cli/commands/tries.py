"""What can be tried at once: the demo, and a statement as a tenant?"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from tenantproxy.cli import read
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, app, command
from tenantproxy.config import load


class TourName(StrEnum):
    """Those of `demo.show`, which is imported when one is taken: it needs the extra [sidecar]."""

    ISOLATION = "isolation"
    LIFECYCLE = "lifecycle"


class SystemName(StrEnum):
    """Those of `demo.system_show`, imported as late."""

    BUILDFLOW = "buildflow"
    NEXUS = "nexus"
    PRISMICX = "prismicx"
    PRODUCTIONS = "productions"
    BITNEXUS = "bitnexus"


@command(app, "demo")
def demo(
    once: Annotated[bool, typer.Option("--once", help="Take the tour, check every step, and leave.")] = False,
    tour: Annotated[
        TourName, typer.Option(help="isolation: six tenants and attempts to break out; lifecycle: a tenant's life.")
    ] = TourName.ISOLATION,
    system: Annotated[
        SystemName | None,
        typer.Option(
            help="A whole platform with its own service: buildflow, a database for each agency; nexus, one for all;"
            " productions, organizations and workspaces in shared tables, behind a PgBouncer; bitnexus,"
            " shared tables for Elixir and JavaScript;"
            " prismicx, systems in schemas, and MongoDB."
        ),
    ] = None,
) -> None:
    """Start a PostgreSQL of its own with tenants of each kind, and show what tenantproxy does."""
    from tenantproxy.cli import process

    if (code := process.show_demo(once=once, tour=tour.value, system=system and system.value)) != 0:
        raise typer.Exit(code)


@command(app, "sql")
def sql(
    tenant: str,
    statement: str,
    config: ConfigFile = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show at most.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Run one SQL statement as TENANT, bound by the same isolation as every request, and show its rows."""
    rows, more = asyncio.run(read.sql(load(config), tenant, statement, limit))
    Output(as_json).rows(rows, empty="no rows")
    if more:
        Console(stderr=True).print(f"only the first {limit} rows are shown (--limit)")
