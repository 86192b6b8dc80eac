"""Which commands are there, and how do they end? 0: done; 1: failed, with one clear message; 2: wrong usage."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tenantproxy._native import data_path
from tenantproxy.cli.commands import (
    backup,
    checks,
    config,
    gdpr,
    init,
    install,
    login,
    migrate,
    move,
    sidecar,
    tenant_state,
    tenants,
    tries,
)
from tenantproxy.cli.tree import app
from tenantproxy.config.version import VERSION

__all__ = ["GROUPS", "app", "main"]

GROUPS = (sidecar, tries, init, install, checks, tenants, tenant_state, move, migrate, backup, login, gdpr, config)
"""Their import registers their commands."""


def main() -> None:
    """The entry point of the command `tenantproxy`."""
    app()


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Options before any command."""
    if show_version:
        sys.stdout.write(f"{VERSION}\ndata path: {data_path()}\n")
        raise typer.Exit
