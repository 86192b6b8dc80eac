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

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file()), ROOT / ".ci" / "run"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def lock() -> str:
    return (ROOT / "requirements.lock").read_text()


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_is_a_shells_and_fits_a_screen(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=10)
    assert len(script.read_text().splitlines()) <= 50
    assert script.suffix == ".sh" or os.access(script, os.X_OK)


def test_a_python_that_is_too_old_is_told_so_and_nothing_is_installed(tmp_path: Path) -> None:
    for name in ("scripts", "requirements.lock", "pyproject.toml"):
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
        env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_script_elsewhere_sources_the_environment_in_bash(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.write_text(f'. "{ROOT}/scripts/env.sh"; pwd; command -v python\n')
    done = subprocess.run(["bash", str(outside)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [str(ROOT), str(ROOT / ".venv" / "bin" / "python")]


def test_the_lock_names_no_host_and_no_folder(lock: str) -> None:
    assert not re.search(r"https?:|file:|://|--(extra-)?index-url|--find-links|--trusted-host", lock)


def test_the_lock_pins_and_hashes_everything_that_is_asked_for(project: dict[str, Any], lock: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", lock)[1:]
    pinned = {_name(entry): entry for entry in entries}
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"]]
    for name, needs in extras.items():
        asked += needs if name != "mongo" else []
    missing = {_name(one) for one in asked} - pinned.keys() - {"tenantproxy"}
    assert not missing
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_every_folder_that_must_be_pure_is_held_to_it(project: dict[str, Any]) -> None:
    contracts = {one["id"]: one for one in project["tool"]["importlinter"]["contracts"]}
    pure = set(contracts["pure"]["source_modules"])
    wanted = {f"tenantproxy.{name}" for name in ("isolation", "model", "events", "wire")}
    existing = {
        name for name in wanted if any((ROOT / f"{name.replace('.', '/')}{end}").exists() for end in ("", ".py"))
    }
    assert existing <= pure
