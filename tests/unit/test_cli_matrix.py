"""Has each command what all have: JSON, a dry run, an exit code that says how it ended? By the tree of commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from typer.testing import CliRunner, Result

from tenantproxy.cli.main import app
from tenantproxy.cli.output import progress_bar, progress_of

WITHOUT_JSON: Final = {
    "serve": "a service; what it says is its log",
    "demo": "a tour for readers",
    "restart": "answers nothing",
    "health": "one line, for the health checks of containers",
    "prove": "--json FILE is its signed report, and - is standard output",
    "config schema": "is JSON",
    "config example": "is a TOML file",
    "metrics rules": "is a file for Prometheus",
    "metrics dashboard": "is JSON",
    "top": "a view on a terminal; pools --json is for programs",
    "completion": "is a script for a shell",
}
READS: Final = {
    "tenants list", "tenants show", "tenants idle", "tenants unfinished", "backup list", "migrate plan",
    "migrate status", "gdpr verify", "pools list", "pools show", "servers list", "top", "fleet list", "fleet workers",
    "health", "completion", "config check", "config show", "config schema",
    "config example",
    "metrics rules", "metrics dashboard", "token inspect", "tokens inspect", "login as", "users list", "users sessions",
    "users verifier",
}  # fmt: skip
WITHOUT_DRY_RUN: Final = dict.fromkeys(READS, "changes nothing") | {
    "serve": "a service",
    "demo": "a world of its own",
    "sql": "the statement is the caller's: BEGIN READ ONLY is its dry run",
    "prove": "--read-only makes nothing; without it canary rows come and go",
    "token issue": "makes a token, which is kept nowhere",
    "tokens issue": "makes a token, which is kept nowhere",
    "reload": "a process is told to reload, and refuses what it cannot take over",
    "upgrade": "a process is told to",
    "restart": "a process is told to",
}
WITHOUT_CONFIG: Final = {
    "demo", "config schema", "config example", "config from-pgbouncer", "metrics rules", "metrics dashboard", "init",
    "completion", "users verifier",
}  # fmt: skip
FAILS_WITH: Final = {"prove": 2}  # 1 says that there is a leak, and nothing else


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that can be typed, by its words. (The classes are Typer's own click.)"""
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, (*path, name))
        else:
            yield " ".join((*path, name)), each


ROOT: Final[Any] = typer.main.get_command(app)
ALL: Final = dict(commands(ROOT))


def typed(*args: str, **how: Any) -> Result:
    """What becomes of a command."""
    return CliRunner().invoke(app, args, **how)


def options(name: str) -> set[str]:
    return {option for param in ALL[name].params for option in param.opts if option.startswith("--")}


def arguments(name: str) -> list[str]:
    """Something for each value that must be given."""
    given = []
    for param in ALL[name].params:
        if param.required:
            given += [*(param.opts[:1] if param.param_type_name == "option" else []), "x"]
    return given


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENANTPROXY_CONFIG", raising=False)
    monkeypatch.setattr("typer.testing._get_command", lambda app: ROOT)  # which is made once, and not for each of them


def test_the_tree_of_commands_is_whole() -> None:
    assert len(ALL) > 40


def test_what_is_excused_is_a_command_that_lacks_it() -> None:
    assert {name for name in WITHOUT_JSON if name not in ALL or flag("--json", name)} == set()
    assert {name for name in WITHOUT_DRY_RUN if name not in ALL or flag("--dry-run", name)} == set()
    assert {name for name in WITHOUT_CONFIG if name not in ALL or "--config" in options(name)} == set()


def flag(option: str, name: str) -> bool:
    return any(option in param.opts and getattr(param, "is_flag", False) for param in ALL[name].params)


@pytest.mark.parametrize("name", [name for name in ALL if name not in WITHOUT_JSON])
def test_each_command_speaks_json(name: str) -> None:
    assert flag("--json", name), f"{name} has no --json; or say in WITHOUT_JSON why"


@pytest.mark.parametrize("name", [name for name in ALL if name not in WITHOUT_DRY_RUN])
def test_each_command_that_changes_something_has_a_dry_run(name: str) -> None:
    assert flag("--dry-run", name), f"{name} has no --dry-run; or say in WITHOUT_DRY_RUN why"


@pytest.mark.parametrize("name", ALL)
def test_each_command_ends_with_2_when_it_is_used_wrongly(name: str) -> None:
    ended = typed(*name.split(), *arguments(name), "--no-such-option")
    assert (ended.exit_code, ended.stdout) == (2, ""), ended.output
    assert "--no-such-option" in ended.stderr


@pytest.mark.parametrize("name", ALL)
def test_each_command_tells_what_it_is_for_and_ends_with_0(name: str) -> None:
    ended = typed(*name.split(), "--help")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert (ALL[name].help or "").strip()


USAGE: Final[dict[str, list[str]]] = {  # what a command needs besides its arguments
    "tenants delete": ["x"],
    "gdpr erase": ["--person", "anna@example.com"],
    "backup create": ["x"],
}


@pytest.mark.parametrize("name", [name for name in ALL if name not in WITHOUT_CONFIG])
def test_each_command_ends_with_1_and_one_message_when_it_fails(name: str, tmp_path: Path) -> None:
    config = ["--config", str(tmp_path / "nowhere.toml")]
    ended = typed(*name.split(), *arguments(name), *USAGE.get(name, []), *config, input="x\n")
    assert (ended.exit_code, ended.stdout) == (FAILS_WITH.get(name, 1), ""), ended.output
    message = "\n".join(line for line in ended.stderr.splitlines() if not line.startswith("{"))  # a service has a log
    assert message.startswith("error: ")
    assert "nowhere.toml" in message


@pytest.mark.parametrize("given", [["row1"], ["row1", "--yes-i-mean-it", "row2"], ["a", "b", "--yes-i-mean-it", "a"]])
def test_a_whole_tenant_is_erased_by_its_name_twice_alone(given: list[str]) -> None:
    ended = typed("gdpr", "erase", *given)
    assert ended.exit_code == 2
    assert "--yes-i-mean-it" in ended.stderr


def test_progress_is_shown_on_stderr_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_of("tenants") as told:
        told(1, 2, "half of it")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "half of it" in shown.err
    bar: Any = progress_bar()
    assert bar.console.stderr
