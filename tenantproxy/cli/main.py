"""Which commands are there, and how do they end? 0: done; 1: failed, with one clear message; 2: wrong usage."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tenantproxy._native import data_path
from tenantproxy.cli.commands import (
    backup,
    checks,
    completion,
    config,
    gdpr,
    init,
    install,
    live,
    login,
    migrate,
    move,
    sidecar,
    tenant_state,
    tenants,
    tries,
    users,
)
from tenantproxy.cli.tree import app
from tenantproxy.config.version import VERSION

__all__ = ["GROUPS", "app", "main"]

GROUPS = (
    sidecar, live, tries, init, install, checks, tenants, tenant_state, move, migrate, backup, users, login, gdpr,
    config, completion,
)  # fmt: skip
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
