"""Are the locks complete? What each locked package asks for is in its lock, on every supported Python and system."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.distributions import HERE, ROOT, asked_by

RUN: Final = "requirements.lock"
DEV: Final = "requirements-dev.lock"
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: Final[dict[str, list[str]]] = PROJECT["project"]["optional-dependencies"]
ENVIRONMENTS: Final[list[dict[str, str]]] = [
    {
        **HERE,
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.0",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "platform_machine": {"linux": "x86_64", "darwin": "arm64"}[system],
    }
    for minor, system in product((11, 12, 13, 14), ("linux", "darwin"))
]


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry of a lock."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def version(self) -> str:
        """The version it is pinned to; fails when it is pinned to none."""
        (pin,) = self.requirement.specifier
        assert pin.operator == "==", self.requirement
        return pin.version


def read(name: str) -> dict[str, Locked]:
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    entries = [line.partition("--hash=") for line in lines if line and not line.startswith("#")]
    found: dict[str, Locked] = {}
    for requirement, mark, hashes in entries:
        parsed = Requirement(requirement.strip())
        found[canonicalize_name(parsed.name)] = Locked(parsed, tuple((mark + hashes).split()))
    return found


LOCKS: Final = {name: read(name) for name in (RUN, DEV)}


def unmet(lock: dict[str, Locked], wanted: Requirement) -> str | None:
    """What `lock` lacks of `wanted`, or None."""
    entry = lock.get(canonicalize_name(wanted.name))
    if entry is None:
        return f"{wanted} is not there"
    if not wanted.specifier.contains(Version(entry.version), prereleases=True):
        return f"{wanted} is {entry.version}"
    missing = wanted.extras - entry.requirement.extras
    return f"{wanted.name} is without {sorted(missing)}" if missing else None


def of_the_project(extras: Iterable[str]) -> list[str]:
    """Dependencies of the project with `extras`, those that it asks of itself followed."""
    found = list(PROJECT["project"]["dependencies"])
    for name in extras:
        for need in EXTRAS[name]:
            parsed = Requirement(need)
            found += of_the_project(parsed.extras) if parsed.name == "tenantproxy" else [need]
    return found


@pytest.mark.parametrize(("name", "extras"), [(RUN, ["sidecar", "embedded"]), (DEV, sorted(EXTRAS))])
def test_a_lock_has_all_that_the_project_asks_for(name: str, extras: list[str]) -> None:
    problems = {
        unmet(LOCKS[name], wanted)
        for environment in ENVIRONMENTS
        for wanted in asked_by(of_the_project(extras), (), environment)
    } - {None}
    assert not problems


def test_the_lock_of_the_tools_has_all_that_the_build_asks_for() -> None:
    build = [*PROJECT["build-system"]["requires"], "editables"]  # by hatchling
    assert not {unmet(LOCKS[DEV], wanted) for one in ENVIRONMENTS for wanted in asked_by(build, (), one)} - {None}


@pytest.mark.parametrize("name", [RUN, DEV])
def test_a_lock_has_all_that_its_packages_ask_for(name: str) -> None:
    lock, problems = LOCKS[name], set()
    for package, entry in lock.items():
        assert importlib.metadata.version(package) == entry.version
        requires = importlib.metadata.requires(package) or ()
        for environment in ENVIRONMENTS:
            for wanted in asked_by(requires, entry.requirement.extras, environment):
                if problem := unmet(lock, wanted):
                    problems.add(f"{package}: {problem}")
    assert not problems


def test_a_requirement_that_a_lock_lacks_is_seen() -> None:
    lock = {"coverage": Locked(Requirement("coverage==7.0"), ())}
    assert unmet(lock, Requirement("coverage>=6")) is None
    assert unmet(lock, Requirement("coverage[toml]>=6")) == "coverage is without ['toml']"
    assert unmet(lock, Requirement("coverage>=7.1")) == "coverage>=7.1 is 7.0"
    assert unmet(lock, Requirement("pytest")) == "pytest is not there"
    needs = ["tomli; python_full_version <= '3.11.0a6' and extra == 'toml'", "colorama; sys_platform == 'win32'", "x"]
    assert [str(one) for one in asked_by(needs, ["toml"], ENVIRONMENTS[0])] == ["x"]


def test_what_is_installed_fits_together() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_run_time_lock_is_a_part_of_the_other_without_its_tools() -> None:
    for package, entry in LOCKS[RUN].items():
        assert LOCKS[DEV][package].version == entry.version
        assert set(entry.hashes) == set(LOCKS[DEV][package].hashes)
    assert not LOCKS[RUN].keys() & {"pytest", "mypy", "ruff", "hypothesis", "django", "pip"}


@pytest.mark.parametrize("name", [RUN, DEV])
def test_a_lock_pins_and_hashes_each_package_and_names_no_host(name: str) -> None:
    assert all(entry.version and entry.hashes for entry in LOCKS[name].values())
    assert not re.search(
        r"https?:|file:|://|--(extra-)?index-url|--find-links|--trusted-host", (ROOT / name).read_text()
    )
