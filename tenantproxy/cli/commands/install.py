"""How are our own tables, policies and roles put into the databases?"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import Console

from tenantproxy.cli import install as installing
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, app, command
from tenantproxy.config import load
from tenantproxy.printable import printable


@command(app, "install")
def install(
    config: ConfigFile = DEFAULT_CONFIG,
    database: Annotated[
        list[str] | None,
        typer.Option(
            help="SERVER/DATABASE or DATABASE of the main server; again for more. Default: those of all row tenants."
        ),
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="Isolate this table, written as in SQL; again for more.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="The column that says whose a row is; one for all tables, or one for each. [tenant_id]"),
    ] = None,
    all_with_column: Annotated[
        list[str] | None, typer.Option(help="Isolate every table that has this column; again for more.")
    ] = None,
    roles: Annotated[
        bool, typer.Option("--roles", help="Make a login role for each tenant, open to its schema or database alone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print the SQL for psql, without secrets, and do nothing.")
    ] = False,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="With --print-sql: print the signing keys too. They are secret.")
    ] = False,
    close_functions: Annotated[
        bool,
        typer.Option(help="Take from PUBLIC there the functions that reach other sessions or run text as SQL."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Put the signed context and our own tables into the servers' databases, isolate tables, make roles.

    Again: upgrade; what is there already is left alone.
    """
    mode = installing.Mode.SQL if print_sql else installing.Mode.DRY if dry_run else installing.Mode.RUN
    request = installing.Request(
        databases=tuple(database or ()),
        closing=close_functions,
        tables=tuple(_with_columns(table or [], column or [])),
        all_with=tuple(all_with_column or ()),
        roles=roles,
        mode=mode,
        with_keys=with_keys,
    )
    report = asyncio.run(installing.run_install(load(config), request))
    if print_sql:
        sys.stdout.write("\n".join(report.sql))
    else:
        nothing = "nothing to install: no row tenants are registered; name one with --database"
        Output(as_json).rows([*report.rows, *(report.notes if as_json else [])], empty=nothing)
    for note in [] if as_json else report.notes:
        Console(stderr=True, soft_wrap=True).print(printable(f"note: {note['note']}"), markup=False, highlight=False)


def _with_columns(tables: list[str], columns: list[str]) -> list[tuple[str, str]]:
    """Each table with its column. Wrong usage: another number of columns than one, or one for each table."""
    if columns and not tables:
        raise typer.BadParameter(
            "belongs to --table; for every table that has one: --all-with-column", param_hint="--column"
        )
    if len(columns) <= 1:
        return [(table, columns[0] if columns else "tenant_id") for table in tables]
    if len(columns) != len(tables):
        problem = f"is given {len(columns)} times for {len(tables)} tables: give one for all, or one for each"
        raise typer.BadParameter(problem, param_hint="--column")
    return list(zip(tables, columns, strict=True))
