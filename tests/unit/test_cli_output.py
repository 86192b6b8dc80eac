"""Can a reader with a narrow terminal read what a command prints?"""

from __future__ import annotations

import json

import pytest

from tenantproxy.cli.output import Output, progress_of

TENANT = {"id": "acme", "isolation": "database", "status": "active", "server": "primary", "database": "acme_projects",
          "schema": None, "role": None, "tier": "standard"}  # fmt: skip


def test_no_heading_of_the_list_of_tenants_is_folded_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = TENANT | {"id": "a-tenant-with-a-long-name", "database": "a_database_with_a_long_name"}
    for rows in ([TENANT], [TENANT, long]):
        Output(as_json=False).rows(rows, empty="none")
        lines = capsys.readouterr().out.splitlines()
        assert any(line.split() == list(TENANT) for line in lines)
        assert max(map(len, lines)) <= 80
        if long not in rows:
            assert lines[-2].split() == ["acme", "database", "active", "primary", "acme_projects", "standard"]


def test_what_tenants_call_their_things_does_not_move_an_operators_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "public.\x1b]0;t\x07\x1b[2J\x9b1A\N{RIGHT-TO-LEFT OVERRIDE}x"
    Output(False).rows([{"tenant": "acme", "what": hostile}], empty="")
    Output(False).table({"notes": hostile, hostile: 1})
    Output(False).tree({"notes": hostile, hostile: 1})
    with progress_of("working") as told:
        told(1, 2, hostile)
    assert all(char.isprintable() or char == "\n" for char in "".join(capsys.readouterr()))


@pytest.mark.parametrize(
    "char", ["\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\u2028", "\ud800", "\U000e0001"]
)
def test_json_escapes_what_a_terminal_obeys_and_nothing_else(char: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"name": f"a{char}é日b", f"k{char}": [char]}
    Output(True).rows([values], empty="")
    out = capsys.readouterr().out
    assert all(each.isprintable() or each == "\n" for each in out)
    assert "é日" in out
    assert json.loads(out) == [values]


def test_a_name_cannot_begin_a_line_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    Output(False).rows([{"tenant": "acme\nwayne", "what": "x"}], empty="")
    assert any("acme" in line and "wayne" in line for line in capsys.readouterr().out.splitlines())
