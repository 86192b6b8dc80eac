"""Is the Dockerfile fit to be run? Its rules, read from its text: no engine is needed."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    return _instructions()


@pytest.fixture(scope="module")
def final(instructions: list[tuple[str, str]]) -> list[tuple[str, str]]:
    last = max(at for at, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[last:]


def test_what_builds_the_image_is_not_in_it(instructions: list[tuple[str, str]], final: list[tuple[str, str]]) -> None:
    assert sum(name == "FROM" for name, _ in instructions) == 2
    assert [rest for name, rest in final if name == "COPY"] == ["--from=build /opt/tenantproxy /opt/tenantproxy"]
    assert not any("pip" in rest for name, rest in final if name == "RUN")


def test_every_stage_has_the_one_base_image_that_a_digest_pins(instructions: list[tuple[str, str]]) -> None:
    assert [rest.split()[0] for name, rest in instructions if name == "FROM"] == ["${PYTHON}"] * 2
    name, first = instructions[0]
    assert name == "ARG", "an ARG before the first FROM is what all of them know"
    assert re.fullmatch(r"PYTHON=python:3\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", first), first


def test_its_labels_say_what_it_is_and_of_which_revision(final: list[tuple[str, str]]) -> None:
    (labels,) = [rest for name, rest in final if name == "LABEL"]
    given = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', labels))
    assert given["licenses"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    arguments = {rest.partition("=")[0] for name, rest in final if name == "ARG"}
    for label in ("base.name", "version", "revision"):
        assert set(re.findall(r"\$\{(\w+)\}", given[label])) & arguments, label


def test_it_runs_as_a_user_that_is_not_root(final: list[tuple[str, str]]) -> None:
    users = [rest for name, rest in final if name == "USER"]
    assert users, "no USER"
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1]), "not numbers, or root"
    assert not any(name == "RUN" for name, _ in final[final.index(("USER", users[-1])) :])


def test_its_health_is_asked_with_the_configuration_that_it_serves(final: list[tuple[str, str]]) -> None:
    (health,) = [rest for name, rest in final if name == "HEALTHCHECK"]
    command, served = json.loads(health.split("CMD", 1)[1]), json.loads(dict(final)["CMD"])
    assert command[:2] == ["tenantproxy", "health"]
    assert command[2:] == served[1:] == ["--config", "/etc/tenantproxy/tenantproxy.toml"]


def test_it_gets_the_signals_itself(final: list[tuple[str, str]]) -> None:
    commands = dict(final)
    assert json.loads(commands["ENTRYPOINT"]) == ["tenantproxy"], "a shell would keep SIGTERM for itself"
    assert json.loads(commands["CMD"])[0] == "serve"
    assert commands["STOPSIGNAL"] == "SIGTERM"


def test_nothing_but_what_it_needs_reaches_the_builder(instructions: list[tuple[str, str]]) -> None:
    first, *allowed = [line for line in (ROOT / ".dockerignore").read_text().split() if not line.startswith("**")]
    assert first == "*"
    copied = {
        source for name, rest in instructions if name == "COPY" and "--from" not in rest for source in rest.split()[:-1]
    }
    assert copied == {path.removeprefix("!") for path in allowed}
    assert all((ROOT / path).exists() for path in copied)
    assert not any(name == "ADD" for name, _ in instructions)


def test_it_holds_no_secret(instructions: list[tuple[str, str]]) -> None:
    for name, rest in instructions:
        if name in ("ENV", "ARG"):
            assert not re.search(r"password|secret|token|key", rest, re.IGNORECASE), rest
