"""What does one do next? A line below each result that changed something, and below each error that names no page.

All of it is here: a command only does its work. Next steps are for people: below results they are shown on a terminal
alone, and never with `--json`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console

from tenantproxy.errors import ConfigurationError, TenantProxyError

__all__ = ["AFTER", "CONNECTS", "NextStep", "line_of", "step_after", "step_of", "step_of_other", "tell_next"]


class NextStep(NamedTuple):
    """A command to type, its words in braces taken from what was typed, and what it is good for."""

    command: str
    why: str


CONNECTS: Final = NextStep("tenantproxy config check --live", "says which server cannot be reached, or who refused")
_OF_THE_SERVER: Final = ("08", "28", "3D", "53", "57")  # classes of SQLSTATE that a look at the servers explains
_CHECKS: Final = NextStep("tenantproxy config check", "says whether all of it is right now")
_TENANT: Final = NextStep("tenantproxy tenants show {tenant}", "says what it is now")
_POOL: Final = NextStep("tenantproxy pools show {tenant}", "says what it holds now")
_HEALTH: Final = NextStep("tenantproxy health", "says whether it is ready")
_FOLLOWED: Final = NextStep("tenantproxy login EMAIL", "finds an account by the directory")

AFTER: Final[Mapping[str, NextStep]] = {
    "install": NextStep("tenantproxy doctor", "looks whether isolation holds"),
    "doctor": NextStep("tenantproxy prove", "tries to break what it says"),
    "reload": _HEALTH,
    "upgrade": _HEALTH,
    "restart": _HEALTH,
    "tenants create": NextStep('tenantproxy sql {tenant} "select 1"', "reaches it as its users do"),
    "tenants stock": NextStep("tenantproxy tenants create TENANT", "takes one of them"),
    "tenants finish": NextStep("tenantproxy tenants unfinished", "lists what is left"),
    "tenants abandon": NextStep("tenantproxy tenants unfinished", "lists what is left"),
    "tenants move": _TENANT,
    "tenants suspend": NextStep("tenantproxy tenants resume {tenant}", "serves it again"),
    "tenants resume": _TENANT,
    "tenants archive": NextStep("tenantproxy backup list {tenant}", "shows its last backup"),
    "tenants delete": NextStep("tenantproxy tenants undelete {tenant}", "takes it back while its grace lasts"),
    "tenants undelete": NextStep("tenantproxy tenants resume {tenant}", "serves it again where it is suspended"),
    "migrate run": NextStep("tenantproxy migrate status", "says where all tenants are"),
    "migrate rollback": NextStep("tenantproxy migrate status", "says where all tenants are"),
    "backup create": NextStep("tenantproxy backup verify", "restores them into a scratch place, and compares"),
    "backup verify": NextStep("tenantproxy backup list", "shows which are known to be good"),
    "backup restore": NextStep("tenantproxy tenants list", "has it among the others"),
    "backup prune": NextStep("tenantproxy backup list", "shows what is left"),
    "gdpr export": NextStep("tenantproxy gdpr verify REPORT", "checks the signature of the report in the folder"),
    "gdpr erase": NextStep("tenantproxy gdpr verify REPORT", "checks the signature of its report"),
    "login reconcile": _FOLLOWED,
    "login watch": NextStep("tenantproxy login sync", "follows what is noted from now on"),
    "login sync": _FOLLOWED,
    "pools evict": _POOL,
    "pools pause": NextStep("tenantproxy pools resume {tenant}", "lets its clients go on"),
    "pools resume": _POOL,
    "pools drain": _POOL,
    "pools kill": NextStep("tenantproxy pools resume {tenant}", "lets clients come in again"),
    "users end": NextStep("tenantproxy users sessions {tenant} {user}", "lists what is left"),
}
"""By the words of each command that changes something. `init` and `config from-pgbouncer` say more themselves."""


def step_after(name: str, given: Mapping[str, Any]) -> NextStep | None:
    """What follows the command `name` that was done with these values; None: nothing in particular."""
    if given.get("dry_run"):
        return NextStep("the same without --dry-run", "does it") if name in AFTER else None
    step = AFTER.get(name)
    if step is None:
        return None
    words = {name: _word(value, name.upper()) for name, value in given.items()}
    for place in ("tenant", "user"):
        words.setdefault(place, place.upper())
    command = step.command.format_map(words)
    return NextStep(f"{command}{_config(given)}", step.why)


def _word(value: object, otherwise: str) -> str:
    """What was typed, the first where there may be several; the name of the place where nothing was."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    return first if isinstance(first, str) and first.isprintable() and " " not in first else otherwise


def _config(given: Mapping[str, Any]) -> str:
    file = given.get("config")
    return f" --config {file}" if isinstance(file, Path) and file != Path("tenantproxy.toml") else ""


def step_of(error: TenantProxyError) -> str:
    """The line below an error: its page, or where that says no more than the error itself, a command."""
    if isinstance(error, ConfigurationError):
        return line_of(_CHECKS)
    if error.code != TenantProxyError.code:
        return error.page
    return "" if error.hint else error.page


def step_of_other(error: Exception) -> str:
    """The same below an error of PostgreSQL, of the driver, or of the system."""
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and state[:2] not in _OF_THE_SERVER:
        return f"PostgreSQL's documentation, appendix A, says what {state} means"
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes | Path):
        return "look whether the file is there, and whether this user may use it"
    return line_of(CONNECTS)


def is_terminal() -> bool:
    """Whether a person sees what is written to standard error."""
    return sys.stderr.isatty()


def line_of(step: NextStep) -> str:
    """As it is shown."""
    return f"next: {step.command} ({step.why})"


def tell_next(name: str, given: Mapping[str, Any]) -> None:
    """Below the result of the command `name`, on a terminal."""
    if given.get("as_json") or not is_terminal():
        return
    if (step := step_after(name, given)) is not None:
        Console(stderr=True, soft_wrap=True).print(line_of(step), markup=False, highlight=False, style="dim")
