"""Does each result and each error of a command say what to do next, and is that something that can be done?"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

import tenantproxy
from tenantproxy.cli.next_steps import AFTER, CONNECTS, line_of, step_after, step_of
from tenantproxy.cli.shape import told_whole
from tenantproxy.cli.tree import command
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tests.support.readme import README
from tests.unit.test_cli_matrix import ALL, READS, typed
from tests.unit.test_house_docs import kinds

WITHOUT_NEXT = {
    "serve": "a service",
    "demo": "prints what to try",
    "sql": "the statement is the caller's",
    "prove": "its report says what to do",
    "init": "says more itself",
    "config from-pgbouncer": "says more itself",
    "token issue": "prints the token alone, for $(...)",
    "tokens issue": "prints the token alone, for $(...)",
}


def is_there(command: str) -> bool:
    """Whether what a next step says can be typed: its words are a command, and it has the options."""
    words = shlex.split(command.format(tenant="TENANT", user="USER"))
    assert words[0] == "tenantproxy"
    if words[1] == "login" and words[2] == "EMAIL":
        words[2] = "as"
    name = next((" ".join(words[1:end]) for end in (3, 2) if " ".join(words[1:end]) in ALL), None)
    if name is None:
        return False
    has = {option for param in ALL[name].params for option in param.opts}
    return all(word in has for word in words if word.startswith("--"))


def test_each_command_that_changes_something_names_the_next_one() -> None:
    assert set(ALL) - READS - set(WITHOUT_NEXT) - set(AFTER) == set()
    assert set(AFTER) - set(ALL) == set()


@pytest.mark.parametrize("step", [*dict.fromkeys([*AFTER.values(), CONNECTS])], ids=lambda step: step.command)
def test_what_comes_next_is_a_command_that_can_be_typed(step: Any) -> None:
    assert is_there(step.command)
    assert step.why


def test_a_next_step_has_the_words_that_were_typed() -> None:
    given = {"tenant": ["acme", "wayne"], "config": Path("other.toml"), "dry_run": False}
    told = step_after("tenants suspend", given)
    assert told is not None
    assert told.command == "tenantproxy tenants resume acme --config other.toml"
    told = step_after("backup create", {"tenant": [], "config": Path("tenantproxy.toml")})
    assert told is not None
    assert told.command == "tenantproxy backup verify"
    told = step_after("tenants suspend", {"tenant": ["ac\x1b[2Jme"], "dry_run": True})
    assert told is not None
    assert "--dry-run" in told.command


def test_a_next_step_is_shown_on_a_terminal_and_never_with_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tenantproxy.toml").write_text(
        '[main]\nserver = "a"\ndatabase = "main"\n[servers.a]\nuser = "app"\npassword = ""\n'
        '[registry]\nsource = "file"\n[tenants.acme]\nisolation = "database"\ndatabase = "acme"\n'
    )
    args = ["backup", "prune", "--config", str(tmp_path / "tenantproxy.toml"), "--from", str(tmp_path)]
    assert "next:" not in typed(*args).output
    monkeypatch.setattr("tenantproxy.cli.next_steps.is_terminal", lambda: True)
    shown = typed(*args)
    assert shown.exit_code == 0, shown.output
    assert shown.stderr.splitlines()[-1].startswith(f"next: tenantproxy backup list --config {tmp_path}")
    assert "next:" not in typed(*args, "--json").output
    assert "next:" not in typed("config", "check", "--config", str(tmp_path / "tenantproxy.toml")).output


def test_each_error_ends_with_its_page_or_with_what_to_do() -> None:
    for found in pkgutil.walk_packages(tenantproxy.__path__, "tenantproxy."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    sections = set(re.findall(r"^### (\w+)$", (README.parent / "docs" / "errors.md").read_text(), re.M))
    for kind in kinds():
        error = kind.__new__(kind)
        TenantProxyError.__init__(error, "it failed")
        last = told_whole(error).splitlines()[-1].strip()
        page = re.fullmatch(r"docs/errors\.md#(\w+)", last)
        if page is not None:
            assert page[1] in sections, kind
        else:
            assert is_there(re.fullmatch(r"next: (.+) \(.+\)", last)[1]), kind  # type: ignore[index]


def test_an_error_that_says_what_to_do_names_no_page_without_more() -> None:
    assert step_of(TenantProxyError("no sidecar answers", hint="is it running?")) == ""
    assert step_of(TenantProxyError("it failed")) == "docs/errors.md#internal_error"
    problem = Problem(key="main.server", problem="is missing", fix="name one")
    assert step_of(ConfigurationError([problem])).startswith("next: tenantproxy config check")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (asyncpg.InvalidPasswordError("no"), line_of(CONNECTS)),
        (asyncpg.PostgresSyntaxError("no"), "PostgreSQL's documentation, appendix A, says what 42601 means"),
        (ConnectionRefusedError(111, "refused"), line_of(CONNECTS)),
        (TimeoutError(), line_of(CONNECTS)),
        (FileNotFoundError(2, "No such file", "key"), "look whether the file is there"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_others_ends_with_what_to_do(error: Exception, told: str) -> None:
    parent = typer.Typer()

    @command(parent, "failing")
    def failing() -> None:
        """Fails."""
        raise error

    ended = CliRunner().invoke(parent)
    assert ended.exit_code == 1
    assert told in ended.stderr.splitlines()[-1]
