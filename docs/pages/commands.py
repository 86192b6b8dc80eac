"""The page of the command line: each command with its own help, options, defaults and variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from typer.main import get_command

from tenantproxy.cli.main import app

__all__ = ["page"]

_HEAD: Final = """# Commands

`tenantproxy COMMAND --help` prints the same. Exit codes: 0 done, 1 failed with one message, 2 wrong usage; where a
command has others, it says so.
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_section(path, command) for path, command in commands("tenantproxy", get_command(app)))


def commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """All commands below `command`, groups left out, by what is typed."""
    for name, each in getattr(command, "commands", {}).items():
        if getattr(each, "hidden", False):
            continue
        if hasattr(each, "commands"):
            yield from commands(f"{path} {name}", each)
        else:
            yield f"{path} {name}", each


def _section(path: str, command: Any) -> str:
    rows = "".join(_row(param) for param in command.params if param.name != "help" and not getattr(param, "hidden", 0))
    table = f"\n| option | does | default |\n|---|---|---|\n{rows}" if rows else ""
    return f"\n## {path}\n\n{_text(command.help or '')}\n{table}"


def _row(param: Any) -> str:
    if param.param_type_name == "argument":
        name = (param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")
    else:
        name = ", ".join([*param.opts, *param.secondary_opts])
    variable = f" (`{param.envvar}`)" if getattr(param, "envvar", None) else ""
    return f"| `{name}` | {_cell(getattr(param, 'help', None) or '')}{variable} | {_default(param)} |\n"


def _default(param: Any) -> str:
    if param.required:
        return "required"
    default = param.default
    if callable(default) or default in (None, False, "", ()) or "Sentinel" in type(default).__name__:
        return ""
    return f"`{default}`"


def _text(text: str) -> str:
    return text.replace("\b", "").replace("[", "\\[").replace("<", "\\<").strip()


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|").replace("\n", " ")
