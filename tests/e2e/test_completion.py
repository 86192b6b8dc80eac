"""Does a real shell complete what can be typed, by the script that the command prints? Each shell that is installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from tenantproxy.cli.main import app
from tests.support.waiting import PATIENCE

# What makes a shell say how it would complete each of its arguments.
ASKS = {
    "bash": r"""
        source <(tenantproxy completion bash)
        function=$(complete -p tenantproxy | sed 's/.*-F \([^ ]*\).*/\1/')
        for line in "$@"; do
            COMP_WORDS=($line); [[ $line == *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            $function tenantproxy
            printf '%s\n' "${COMPREPLY[@]}"
        done
    """,
    "zsh": r"""
        autoload -U compinit && compinit -u -D
        source <(tenantproxy completion zsh)
        _arguments() { print -l -- "$@" }
        for line in "$@"; do
            words=(${(s: :)line}); [[ $line == *' ' ]] && words+=('')
            CURRENT=${#words}
            $_comps[tenantproxy]
        done
    """,
    "fish": r"""
        tenantproxy completion fish | source
        for line in $argv
            complete --do-complete $line
        end
    """,
}
SHELLS = [name for name in ASKS if shutil.which(name)]  # bash is where tests run


def completed(shell: str, *lines: str) -> str:
    before = {
        "bash": ["-c", ASKS["bash"], "bash"],
        "zsh": ["-f", "-c", ASKS["zsh"], "zsh"],
        "fish": ["-c", ASKS["fish"]],
    }
    done = subprocess.run(
        [shell, *before[shell], *lines],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_groups_commands_and_options(shell: str) -> None:
    told = completed(shell, "tenantproxy ", "tenantproxy pools evi", "tenantproxy pools evict --dr")
    groups = ("tenants", "servers", "pools", "fleet", "users", "tokens", "migrate", "backup", "config")
    assert {name for name in (*groups, "evict", "--dry-run") if name not in told} == set()
    assert "resume" not in told


def test_bash_is_among_the_shells_that_are_tried() -> None:
    assert "bash" in SHELLS


def test_a_shell_that_is_not_known_is_wrong_usage() -> None:
    ended = CliRunner().invoke(app, ["completion", "tcsh"])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "bash" in ended.stderr
