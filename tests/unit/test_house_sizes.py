"""Does the check of sizes see what is too large, and does each exception have a reason?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import sizes

LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 51
MANY_METHODS = "class A:\n" + "    def f(self): ...\n" * 21
MANY_PARAMETERS = "class A:\n    def __init__(self, a, b, c, d, *, e, f, g, h): ...\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1\n" * 301, "x.py"),
        (LONG_FUNCTION, "x.py:f"),
        ("async " + LONG_FUNCTION, "x.py:f"),
        (MANY_METHODS, "x.py:A"),
        (MANY_PARAMETERS, "x.py:A.__init__"),
        ("if True:\n    " + MANY_METHODS.replace("\n", "\n    ").rstrip() + "\n", "x.py:A"),
    ],
    ids=["file", "function", "coroutine", "class", "constructor", "nested"],
)
def test_what_is_too_large_is_found_by_name(text: str, found: str) -> None:
    assert [name for name, _ in sizes.too_large("x.py", text)] == [found]


@pytest.mark.parametrize("text", ["x = 1\n" * 300, LONG_FUNCTION.replace("    x = 1\n", "", 2)])
def test_what_is_as_large_as_allowed_is_not(text: str) -> None:
    assert list(sizes.too_large("x.py", text)) == []


def test_what_is_too_large_without_a_reason_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sizes, "PACKAGE", tmp_path)
    monkeypatch.setattr(sizes, "REASONS", tmp_path / "reasons.toml")
    (tmp_path / "new.py").write_text(LONG_FUNCTION)
    (tmp_path / "reasons.toml").write_text("")
    assert sizes.main() == 1
    assert "new.py:f: 52 lines" in capsys.readouterr().out
    (tmp_path / "reasons.toml").write_text('"new.py:f" = "a hot loop"\n')
    assert sizes.main() == 0
    assert "a hot loop" in capsys.readouterr().out


def test_each_exception_has_a_reason_and_every_large_place_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main() == 0, capsys.readouterr().out
