"""Does what people install work with nothing but what it asks for?"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from tests.support.distributions import ROOT, build_wheel
from tests.support.waiting import PATIENCE

# Runs in a fresh interpreter: what is installed and is neither a core dependency nor one of theirs is refused; then
# each module of the wheel is imported that is not the process itself or named after an extra.
_IMPORT_ALL = """
import importlib, importlib.abc, importlib.metadata, pkgutil, re, sys

def closure(names):
    found = set()
    while names:
        name = names.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for need in importlib.metadata.requires(name) or ():
            if "extra ==" not in need and "python_version <" not in need and "python_full_version <" not in need:
                names.append(re.match(r"[\\w.-]+", need)[0])
    return found

core = closure(["asyncpg", "cachetools", "pydantic-settings"])
refused = {
    module for module, owners in importlib.metadata.packages_distributions().items()
    if not any(owner.lower().replace("_", "-") in core for owner in owners)
} - {"tenantproxy"}

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in refused:
            raise ModuleNotFoundError(f"{top} is not a core dependency", name=top)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
process = tuple("tenantproxy." + name for name in (
    "sidecar", "cli", "demo", "__main__",
    "metrics.prometheus", "metrics.exposition", "metrics.families", "metrics.tracing",
    "metrics.listeners", "metrics.logins", "metrics.pg", "metrics.app",
    "metrics.fleet", "middleware.aiohttp",
    "middleware.django", "sqlalchemy", "testing.plugin",
    "registry.mongo", "lifecycle.migrate.tool.alembic_tool", "lifecycle.migrate.tool.django_tool",
))
import tenantproxy
assert tenantproxy.__file__.startswith(sys.argv[1]), tenantproxy.__file__

def walk(package):
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if found.name.startswith(process):
            continue
        module = importlib.import_module(found.name)
        print(found.name)
        if found.ispkg:
            walk(module)

walk(tenantproxy)
for extra in ("aiohttp", "prometheus_client", "jwt", "typer", "rich", "uvloop"):
    try:
        importlib.import_module(extra)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{extra} was not refused: this test proves nothing")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel")))


def test_the_bare_wheel_imports_with_the_core_dependencies_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(_IMPORT_ALL), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {"tenantproxy.router", "tenantproxy.pools.pool", "tenantproxy.config", "tenantproxy.embedded"} <= set(
        done.stdout.split()
    )


def test_the_wheel_holds_what_is_read_at_run_time(wheel: zipfile.ZipFile) -> None:
    packed = set(wheel.namelist())
    assert "tenantproxy/py.typed" in packed
    sources = [path for path in (ROOT / "tenantproxy").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    missing = {path.relative_to(ROOT).as_posix() for path in sources} - packed
    assert not missing
    shipped = {"tenantproxy.toml", "prometheus/rules.yml", "grafana/tenantproxy.json"}
    shipped |= {path.relative_to(ROOT / "config").as_posix() for path in ROOT.glob("config/systems/**/*.*")}
    assert {f"tenantproxy/shipped/{name}" for name in shipped} <= packed


def test_its_description_links_to_files_that_exist_by_their_whole_address(wheel: zipfile.ZipFile) -> None:
    """A relative link leads nowhere on a package index, which shows the README."""
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    head, _, text = wheel.read(metadata).decode().partition("\n\n")
    (home,) = re.findall(r"Project-URL: Homepage, (\S+)", head)
    links = re.findall(r"\]\(([^)\s]+)\)|href=\"([^\"]+)\"", text)
    targets = {target for pair in links for target in pair if target}
    assert not {one for one in targets if not re.match(r"https?:|#", one)}
    ours = {one.removeprefix(f"{home}/blob/main/").partition("#")[0] for one in targets if one.startswith(home)}
    assert len(ours) >= 5
    assert all((ROOT / one).exists() for one in ours), ours


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    folders = {name.split("/", 1)[0] for name in wheel.namelist()}
    assert folders == {"tenantproxy", "tenantproxy-0.1.0.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
