"""Do the scripts, the lock and the import contracts say what they should?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file()), ROOT / ".ci" / "run"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_is_a_shells_and_fits_a_screen(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=PATIENCE)
    assert len(script.read_text().splitlines()) <= 50
    assert script.suffix == ".sh" or os.access(script, os.X_OK)


def test_a_python_that_is_too_old_is_told_so_and_nothing_is_installed(tmp_path: Path) -> None:
    for name in ("scripts", "requirements-dev.lock", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        else:
            shutil.copy(source, tmp_path)
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "scripts" / "check"],
        env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_script_elsewhere_sources_the_environment_in_bash(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.write_text(f'. "{ROOT}/scripts/env.sh"; pwd; command -v python\n')
    done = subprocess.run(
        ["bash", str(outside)], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.splitlines() == [str(ROOT), str(ROOT / ".venv" / "bin" / "python")]


# Stands for every Python: makes a .venv of itself, and writes down what pip is asked to install.
_RECORDER = """#!/bin/sh
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && printf '#!/bin/sh\\n' >.venv/bin/tenantproxy &&
        chmod +x .venv/bin/tenantproxy ;;
    *sys.prefix*) echo "$PWD/.venv" ;;
    *"-m pip"*) echo "$*" >>installed ;;
esac
"""


def test_the_demo_installs_no_tools_and_leaves_those_that_are_there(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("requirements.lock", "requirements-dev.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python3"
    python.write_text(_RECORDER)
    python.chmod(0o755)

    def installed_by(script: str) -> set[str]:
        (tmp_path / "installed").write_text("")
        subprocess.run(
            [tmp_path / "scripts" / script],
            env={**os.environ, "PYTHON": str(python)}, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return set(re.findall(r"requirements\S*\.lock", (tmp_path / "installed").read_text()))

    assert installed_by("demo") == {"requirements.lock"}
    assert installed_by("demo") == set()
    assert installed_by("bench") == {"requirements-dev.lock"}
    assert installed_by("demo") == set()
    assert installed_by("bench") == set()


def test_every_folder_that_must_be_pure_is_held_to_it(project: dict[str, Any]) -> None:
    contracts = {one["id"]: one for one in project["tool"]["importlinter"]["contracts"]}
    pure = set(contracts["pure"]["source_modules"])
    wanted = {f"tenantproxy.{name}" for name in ("isolation", "model", "events", "wire")}
    existing = {
        name for name in wanted if any((ROOT / f"{name.replace('.', '/')}{end}").exists() for end in ("", ".py"))
    }
    assert existing <= pure


def test_coverage_leaves_out_nothing_that_can_run_and_has_a_floor(project: dict[str, Any]) -> None:
    coverage = project["tool"]["coverage"]
    assert coverage["run"]["branch"]
    assert coverage["run"]["source"] == ["tenantproxy"]
    assert "omit" not in coverage["run"] | coverage["report"]
    assert coverage["report"]["exclude_also"] == ["if TYPE_CHECKING:", r"^\s*\.\.\.$"]
    assert not [path for path in (ROOT / "tenantproxy").rglob("*.py") if "pragma: no cover" in path.read_text()]
    (floor,) = re.findall(r"^ *floor=(\d+)", (ROOT / "scripts" / "test").read_text(), re.MULTILINE)
    assert int(floor) >= 90
