"""What is configured, and what is shipped next to it?"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from tenantproxy.cli import read
from tenantproxy.cli.certificates import check_certificates
from tenantproxy.cli.from_pgbouncer import run_from_pgbouncer
from tenantproxy.cli.output import Output
from tenantproxy.cli.shipped import DASHBOARD, EXAMPLE, RULES, shipped
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group
from tenantproxy.config import check_classes, describe, json_schema, load

config_app = group("Look at the configuration.")
metrics_app = group("Alerts and a dashboard for the metrics of the sidecar.")
app.add_typer(config_app, name="config")
app.add_typer(metrics_app, name="metrics")


@command(config_app, "check")
def config_check(
    config: ConfigFile = DEFAULT_CONFIG,
    live: Annotated[
        bool, typer.Option("--live", help="Also connect as for each tenant, and look whether isolation holds there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the configuration, its secrets and certificates too, every problem at once. Exits 1 where one is wrong."""
    settings = load(config)
    check_classes(settings)
    check_certificates(settings)
    if not live:
        Output(as_json).table({"ok": True, "config": str(config)})
        return
    checks = asyncio.run(read.live(settings))
    good = all(check["state"] != "wrong" for check in checks)
    if as_json:
        Output(True).tree({"ok": good, "config": str(config), "checks": checks})
    else:
        Output(False).rows(checks, empty="nothing was looked at")
    if not good:
        raise typer.Exit(1)


@command(config_app, "show")
def config_show(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the configuration in force, defaults and environment included, without secrets."""
    Output(as_json).tree(describe(load(config, secrets=False)))


@command(config_app, "schema")
def config_schema() -> None:
    """Print the JSON schema of the TOML file."""
    Output(True).tree(json_schema())


@command(config_app, "example")
def config_example() -> None:
    """Print a TOML file with every section that is usually touched, and comments."""
    sys.stdout.write(shipped(EXAMPLE))


@command(config_app, "from-pgbouncer")
def config_from_pgbouncer(
    file: Annotated[Path, typer.Argument(help="pgbouncer.ini; what it includes and its auth_file are read too.")],
    into: Annotated[
        Path, typer.Option("--into", help="A folder for the configuration and the files of passwords.")
    ] = Path("tenantproxy"),
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a configuration that does what a pgbouncer.ini does, and say what is not the same. Reads no server."""
    run_from_pgbouncer(file, None if dry_run else into, as_json=as_json)


@command(metrics_app, "rules")
def metrics_rules() -> None:
    """Print alerting rules for Prometheus."""
    sys.stdout.write(shipped(RULES))


@command(metrics_app, "dashboard")
def metrics_dashboard() -> None:
    """Print a dashboard for Grafana, as JSON."""
    sys.stdout.write(shipped(DASHBOARD))
