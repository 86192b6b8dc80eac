"""How does a shell complete commands and options? By the script that the parser's own library makes for it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer
from typer.completion import shell_complete
from typer.main import get_command

from tenantproxy.cli.tree import app, command

__all__ = ["ShellName"]

_PROGRAM: Final = "tenantproxy"
_VARIABLE: Final = "_TENANTPROXY_COMPLETE"
"""As Typer names it after the program: set, it is asked for completions and does nothing else."""


class ShellName(StrEnum):
    """Those that are tried."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@command(app, "completion")
def completion(shell: Annotated[ShellName, typer.Argument(help="Whose script is printed.")]) -> None:
    """Print what a shell needs to complete commands and options; names of tenants are not, they need a connection.

    bash: source <(tenantproxy completion bash)

    zsh: source <(tenantproxy completion zsh), behind compinit

    fish: tenantproxy completion fish | source
    """
    shell_complete(get_command(app), {}, _PROGRAM, _VARIABLE, f"source_{shell.value}")
