"""What does `tenantproxy init` show, write and run? What was found for a reader or a program, files, an exit code."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tenantproxy.cli.output import Output, progress_bar
from tenantproxy.lifecycle.init.dsn import GivenServer, parse_dsn
from tenantproxy.lifecycle.init.folder import CONFIG, secret_files, sql_files, write_plan
from tenantproxy.lifecycle.init.plan import InitPlan, InitRequest
from tenantproxy.lifecycle.init.run import AppliedFile, apply_folder, prepare
from tenantproxy.lifecycle.init.sql_file import LATER
from tenantproxy.model import Isolation
from tenantproxy.printable import json_text, printable

__all__ = ["InitCommand", "run_init"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitCommand:
    """What was typed. `is_dry`: nothing is written either."""

    dsn: str
    into: Path
    request: InitRequest
    applies: bool = False
    is_dry: bool = False
    as_json: bool = False


async def run_init(command: InitCommand) -> int:
    """Look, show and write; or run the files that are in the folder. 0: all that was to be done is done."""
    given = parse_dsn(command.dsn, os.environ)
    said: dict[str, Any] = {"folder": str(command.into)}
    plan: InitPlan | None = None
    if not (command.applies and sql_files(command.into)):  # what was reviewed is run as it is
        known = secret_files(command.into, given)
        plan = await prepare(given, command.request, known)
        said |= _described(plan)
        if not command.is_dry:
            said["written"] = [str(path) for path in write_plan(command.into, plan, known)]
    blocked = [ask for ask in plan.asks if ask.needed] if plan is not None else []
    applied: list[AppliedFile] = []
    if command.applies and not command.is_dry and not blocked:
        applied = await _apply(given, command.into)
    said["applied"] = [{"file": each.file, "state": each.state} for each in applied]
    if command.as_json:
        sys.stdout.write(json_text(said, indent=2) + "\n")
    else:
        _show(command, plan, said)
    return int(bool(command.applies and blocked))


async def _apply(given: GivenServer, folder: Path) -> list[AppliedFile]:
    with progress_bar() as bar:
        task = bar.add_task("running", total=None)
        return await apply_folder(
            given, folder, progress=lambda file, done, total: bar.update(
                task, description=file, completed=done, total=total
            ),
        )  # fmt: skip


def _described(plan: InitPlan) -> dict[str, Any]:
    shape, layout = plan.shape, plan.shape.layout
    server = shape.found.server
    names = [shape.names.router]
    if layout.isolation is Isolation.ROW:
        names += [shape.names.tenants, shape.names.owner]
    return {
        "server": {
            "version": server.version // 10_000,
            "user": server.user,
            "superuser": server.is_super,
            "provider": server.provider,
            "max_connections": server.max_connections,
            "databases": len(shape.found.databases),
            "extensions": list(server.extensions),
        },
        "tenants": layout.isolation.value,
        "column": layout.column,
        "registry": layout.registry.label if layout.registry is not None else None,
        "roles": names,
        "former_owners": list(shape.former),
        "tables": [{"table": each.label, "state": each.state.value, "why": each.why} for each in shape.tables],
        "notes": list(plan.notes),
        "asks": [{"what": ask.what, "sql": ask.sql, "needed": ask.needed} for ask in plan.asks],
        "files": [file.path for file in plan.files],
    }


# --- for a reader ----------------------------------------------------------------------------------------------------
def _show(command: InitCommand, plan: InitPlan | None, said: dict[str, Any]) -> None:
    if plan is not None:
        _show_found(said)
        for note in said["notes"]:
            _say(f"note: {note}")
        for ask in said["asks"]:
            _say(f"{'needed first' if ask['needed'] else 'ask for'}: {ask['what']}: {ask['sql']}", style="yellow")
    if said["applied"]:
        Output(False).rows(said["applied"], empty="")
    for line in _next_steps(command, said):
        _say(line)


def _show_found(said: dict[str, Any]) -> None:
    server = dict(said["server"])
    if server["provider"]:
        server["managed"] = f"yes ({server['provider']})"
    states = Counter(table["state"] for table in said["tables"])
    Output(False).table(
        {
            "PostgreSQL": server["version"],
            "user": f"{server['user']}{' (superuser)' if server['superuser'] else ''}",
            "provider": server.get("managed", ""),
            "max_connections": server["max_connections"],
            "databases": server["databases"],
            "extensions": ", ".join(server["extensions"]),
            "tenants": said["tenants"],
            "column": said["column"] or "",
            "registry": said["registry"] or "none",
            "new roles": ", ".join(said["roles"]),
            "tables": ", ".join(f"{count} {state}" for state, count in states.items()),
        }
    )
    Output(False).rows(said["tables"], empty="no tables")


def _next_steps(command: InitCommand, said: dict[str, Any]) -> list[str]:
    config = command.into / CONFIG
    if command.is_dry:
        return ["nothing was written: leave --dry-run out"]
    later = [path.name for number, path in sql_files(command.into) if number >= LATER]
    if said["applied"]:
        lines = [f"next: tenantproxy doctor --config {config}"]
        return [f"for later, when you have read them: {', '.join(later)}", *lines] if later else lines
    if command.applies:
        return ["nothing was run: ask for what is needed first, and apply again"]
    return [f"written to {command.into}: review {config} and sql/, then run the same command with --apply"]


def _say(text: str, style: str | None = None) -> None:
    Console(stderr=True, soft_wrap=True).print(printable(text), markup=False, highlight=False, style=style)
