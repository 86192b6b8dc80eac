"""Does a name say which class is meant? Each is unique in the package."""

from __future__ import annotations

from pathlib import Path

from tests.support import names


def test_no_two_classes_of_the_package_have_one_name() -> None:
    assert names.shared(names.PACKAGE) == {}


def test_two_classes_of_one_name_are_found_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class Login: ...\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.py").write_text("if True:\n    class Login: ...\n\nclass Other: ...\n")
    assert names.shared(tmp_path) == {"Login": ["a.py", "deep/b.py"]}
