"""Is a line of the tour of a tenant's life good only when its command did what was expected?"""

from __future__ import annotations

import json

import pytest

from tenantproxy.demo.commands import Typed
from tenantproxy.demo.life_commands import LifeCommand
from tenantproxy.demo.life_tour import _told

COMMAND = LifeCommand(
    about="it is refused",
    arguments=("tenants", "suspend", "clinic", "--into", "/demo/x", "--json", "--config", "/demo/tenantproxy.toml"),
    folder="/demo",
)


def told(out: object, *, code: int = 0, err: str = "", wanted: int = 0) -> tuple[bool, str]:
    text = out if isinstance(out, str) else json.dumps(out)
    seen = _told(COMMAND, Typed(code=code, out=text, err=err), "suspended", lambda row: row["after"], code=wanted)
    return seen.ok, seen.saw


def test_a_command_is_shown_as_it_is_typed_in_its_folder() -> None:
    assert COMMAND.title == "$ tenantproxy tenants suspend clinic --into x --json"
    assert COMMAND.line().endswith("--config /demo/tenantproxy.toml")


def test_what_was_expected_and_nothing_else_is_good() -> None:
    assert told([{"after": "suspended"}]) == (True, "suspended")
    assert told({"after": "suspended"}) == (True, "suspended")
    assert told([{"after": "suspended"}], code=1, wanted=1) == (True, "suspended")


@pytest.mark.parametrize(
    ("out", "code"),
    [([{"after": "active"}], 0), ([{"after": "suspended"}], 1), ([{}], 0), ([], 0), ("", 1), ("no JSON", 0), ([1], 0)],
)
def test_any_other_answer_or_exit_code_is_a_bad_line(out: object, code: int) -> None:
    assert not told(out, code=code, err="error: it did not work")[0]
    if code:
        assert "it did not work" in told(out, code=code, err="error: it did not work")[1]
