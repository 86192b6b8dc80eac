"""Builds the wheel, and environments that hold it and exactly what some extras ask for, without a network."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.waiting import PATIENCE

ROOT: Final = Path(__file__).parents[2]
HERE: Final[Mapping[str, str]] = {name: str(value) for name, value in default_environment().items()}


def asked_by(requirements: Iterable[str], extras: Iterable[str], environment: Mapping[str, str]) -> list[Requirement]:
    """Those that apply in `environment` when `extras` are asked for."""
    found = []
    for one in map(Requirement, requirements):
        marker = one.marker
        if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)):
            found.append(one)
    return found


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, in `folder`; hatchling is one of the tools."""
    build = f"import hatchling.build as build; build.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    (path,) = folder.glob("*.whl")
    return path


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment outside the checkout."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def run(self, *command: str, timeout: float = 2 * PATIENCE, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs in its folder, with no variable that leads to the checkout."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTPROXY_", "PYTHON"))}
        return subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=self.folder, env={**kept, "COLUMNS": "200", "NO_COLOR": "1", **variables},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip


def environment_of(wheel: Path, folder: Path, *extras: str, also: Iterable[str] = ()) -> Environment:
    """What `pip install "tenantproxy[EXTRAS]" ALSO` makes of `wheel` in a new environment, in versions of the locks.

    Packages are linked from the environment that runs this, which has them from the lock, and not downloaded.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=PATIENCE)
    made = Environment(folder)
    (library,) = (folder / "lib").glob("python*/site-packages")
    for name in _closure("tenantproxy", extras).union(*({name, *_closure(name, ())} for name in also)):
        _link(name, library)
    for name in also:
        _add_commands(name, made)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", made.python, "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    return made


def _add_commands(name: str, made: Environment) -> None:
    for point in importlib.metadata.distribution(name).entry_points.select(group="console_scripts"):
        command = made.folder / "bin" / point.name
        command.write_text(f"#!{made.python}\nfrom {point.module} import {point.attr}\n{point.attr}()\n")
        command.chmod(0o755)


def _closure(name: str, extras: Iterable[str]) -> set[str]:
    """What is installed here of the requirements of `name` and of theirs."""
    found: set[str] = set()
    open_ends = [(name, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while open_ends:
        package, wanted = end = open_ends.pop()
        if end in seen:
            continue
        seen.add(end)
        found.add(package)
        needs = asked_by(importlib.metadata.requires(package) or (), wanted, HERE)
        open_ends += [(canonicalize_name(need.name), frozenset(need.extras)) for need in needs]
    return found - {name}


def _link(name: str, library: Path) -> None:
    """Put the files of a package into another `site-packages`; its commands are not taken along."""
    distribution = importlib.metadata.distribution(name)
    for path in distribution.files or ():
        if ".." in path.parts or "__pycache__" in path.parts:
            continue
        target = library / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(str(distribution.locate_file(path))))
