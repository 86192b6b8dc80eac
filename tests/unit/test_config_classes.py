"""Are all classes of the application's own that cannot be used told at once, each with its key and what to do?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tenantproxy.config import Settings, check_classes
from tenantproxy.errors import ConfigurationError
from tests.unit.test_config import changed


def settings(source: str, *agree: str) -> Settings:
    return Settings.from_mapping(changed(registry={"source": source}, resolve={"agree": list(agree)}))


def test_every_class_that_cannot_be_used_is_told_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "classes.py").write_text("class Good: ...\nNONE = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = settings(
        "no_such_module:Registry", "own_package.classes:Good", "own_package.classes:Bad", "own_package.classes:NONE"
    )
    with pytest.raises(ConfigurationError) as refused:
        check_classes(asked)
    told = {problem.key: problem.problem for problem in refused.value.problems}
    assert told == {
        "registry.source": "the module no_such_module cannot be imported (ModuleNotFoundError)",
        "resolve.agree.1": "the module own_package.classes has no Bad",
        "resolve.agree.2": "NONE is no class",
    }


def test_a_module_that_fails_when_it_is_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_at_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"fails when it is imported \(ZeroDivisionError\)"):
        check_classes(settings("fails_at_import:Registry", "claim:tenant"))


def test_sources_that_only_look_like_classes_are_not_imported() -> None:
    check_classes(settings("postgres", "claim:tenant", "header:X-Tenant-ID"))
