"""Does isolation hold? As the catalogues say it, and as an attacker finds it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from tenantproxy.cli import doctor as doctors
from tenantproxy.cli import prove as proofs
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, app, command
from tenantproxy.config import load


@command(app, "doctor")
def doctor(
    config: ConfigFile = DEFAULT_CONFIG,
    server: Annotated[list[str] | None, typer.Option(help="This server alone; again for more.")] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="The databases of this tenant alone; again for more.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Leave out what is known: CODE, or CODE:OBJECT; again for more.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Run the SQL of findings that is safe at any time.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --fix: say what would be run, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look on every server and database whether isolation holds; each finding with the SQL that repairs it.

    Exits 1 on findings, 2 when something could not be looked at. Changes nothing without --fix.
    """
    if dry_run and not fix:
        raise typer.BadParameter("belongs to --fix", param_hint="--dry-run")
    request = doctors.DoctorRequest(
        servers=tuple(server or ()),
        tenants=tuple(tenant or ()),
        ignored=tuple(ignore or ()),
        is_fixing=fix,
        is_dry=dry_run,
        as_json=as_json,
    )
    if (code := asyncio.run(doctors.run_doctor(load(config), request))) != 0:
        raise typer.Exit(code)


@command(app, "prove", failed=2)  # 1 says that there is a leak, and nothing else
def prove(
    config: ConfigFile = DEFAULT_CONFIG,
    timeout: Annotated[float, typer.Option(min=1, max=600, help="Seconds for all of it.")] = 60.0,
    connections: Annotated[int, typer.Option(min=2, max=50, help="Sessions of each kind at once, at most.")] = 4,
    tenants: Annotated[
        str, typer.Option(help="Two tenants of one kind, A,B. Default: the first two of each kind.")
    ] = "",
    door: Annotated[list[str] | None, typer.Option(help="library, port or http; again for more. [all]")] = None,
    check: Annotated[
        list[str] | None, typer.Option(help="One check, by its name in the table; again for more. [all]")
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Make no canary rows; what needs them is not tried.")
    ] = False,
    call_functions: Annotated[
        bool, typer.Option("--call-functions", help="Call VOLATILE functions too, in a transaction that reads only.")
    ] = False,
    http: Annotated[str | None, typer.Option(help="The public listener, http://host:port. [of the file]")] = None,
    pg: Annotated[str | None, typer.Option(help="The PostgreSQL port, host:port. [of the file]")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write a signed report there; - is standard output.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Try nothing: check the signature of a report, and show it.")
    ] = None,
) -> None:
    """Try to break isolation in a live deployment, by every door that is open, and say what held.

    Two registered tenants of each kind stand in for all. Exits 0: all held; 1: a leak; 2: not all could be tried.
    """
    settings = load(config)
    if verify is not None:
        code = proofs.show_report(settings, verify)
    else:
        options = proofs.options(
            timeout=timeout, connections=connections, tenants=tenants, doors=door or (), checks=check or (),
            read_only=read_only, call_functions=call_functions, http=http, pg=pg,
        )  # fmt: skip
        code = proofs.run_proof(settings, options, json_file)
    if code:
        raise typer.Exit(code)
