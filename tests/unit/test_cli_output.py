"""Can a reader with a narrow terminal read what a command prints?"""

from __future__ import annotations

import pytest

from tenantproxy.cli.output import Output

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
    Output(False).tree({"notes": hostile})
    assert all(char.isprintable() or char == "\n" for char in capsys.readouterr().out)
