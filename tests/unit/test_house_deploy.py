"""Are compose.yaml and the manifests safe to be run as they are? Their schemas: scripts/check-deploy."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tenantproxy.cli.commands.sidecar import serve
from tenantproxy.config import Http, Settings, is_loopback, load
from tenantproxy.config.version import VERSION
from tenantproxy.errors import ConfigurationError
from tests.support.waiting import PATIENCE

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "tenantproxy"
CONFIGS = {
    "compose": (DEPLOY / "compose" / "tenantproxy.toml").read_text(),
    "chart": yaml.safe_load((CHART / "values.yaml").read_text())["config"],
    "chart, sidecar": yaml.safe_load((DEPLOY / "helm" / "values-sidecar.yaml").read_text())["config"],
}
MANIFESTS = {
    name: list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text()))
    for name in ("standalone", "sidecar")
}


def of(form: str, kind: str) -> dict[str, Any]:
    (found,) = [each for each in MANIFESTS[form] if each is not None and each["kind"] == kind]
    return dict(found)


def pod(form: str) -> dict[str, Any]:
    return dict(of(form, "Deployment")["spec"]["template"]["spec"])


def proxy(form: str) -> dict[str, Any]:
    spec = pod(form)
    (found,) = [c for c in (*spec.get("initContainers", ()), *spec["containers"]) if c["name"] == "tenantproxy"]
    return dict(found)


def settings(text: str, folder: Path) -> Settings:
    (folder / "tenantproxy.toml").write_text(text)
    return load(folder / "tenantproxy.toml", secrets=False)


# --- the configurations ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CONFIGS)
def test_each_listener_is_on_the_loopback_or_speaks_tls(name: str, tmp_path: Path) -> None:
    read = settings(CONFIGS[name], tmp_path)
    assert not read.pg.listen or is_loopback(read.pg.listen) or read.pg.ssl_required == "always"
    assert not read.http.listen or is_loopback(read.http.listen) or read.http.ssl_cert_file
    assert is_loopback(read.admin.listen) or read.admin.token is not None, "in clear text, as it says"


@pytest.mark.parametrize("name", CONFIGS)
def test_each_server_is_on_the_loopback_or_verified(name: str, tmp_path: Path) -> None:
    for server in settings(CONFIGS[name], tmp_path).servers.values():
        assert server.host == "127.0.0.1" or (server.ssl == "verify-full" and server.ssl_root_cert_file)
        assert server.admin is None, "who serves has no credentials to install with"


def test_without_its_certificate_the_port_of_the_chart_does_not_open(tmp_path: Path) -> None:
    bare = "\n".join(line for line in CONFIGS["chart"].splitlines() if not line.startswith("ssl_"))
    with pytest.raises(ConfigurationError) as caught:
        settings(bare, tmp_path)
    assert [problem.key for problem in caught.value.problems] == ["admin.ssl_cert_file", "pg.ssl_cert_file"]


@pytest.mark.parametrize("name", CONFIGS)
def test_each_secret_is_a_file_that_is_mounted(name: str, tmp_path: Path) -> None:
    def files(section: Any) -> list[str]:
        if isinstance(section, dict):
            own = [value for key, value in section.items() if key in ("password_file", "key_file", "token_file")]
            return own + [path for value in section.values() for path in files(value)]
        return []

    assert {str(Path(path).parent) for path in files(tomllib.loads(CONFIGS[name]))} == {
        "/run/secrets" if name == "compose" else "/run/secrets/tenantproxy"
    }


@pytest.mark.parametrize("form", MANIFESTS)
def test_what_the_configuration_names_is_mounted(form: str, tmp_path: Path) -> None:
    text = of(form, "ConfigMap")["data"]["tenantproxy.toml"]
    mounts = {each["mountPath"] for each in proxy(form)["volumeMounts"]}
    read = settings(text, tmp_path)
    named = [read.pg.ssl_cert_file, *(each.ssl_root_cert_file for each in read.servers.values())]
    assert {str(Path(path).parent) for path in named if path} <= mounts
    assert {"/etc/tenantproxy", "/run/secrets/tenantproxy"} <= mounts


# --- the manifests ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", MANIFESTS)
def test_the_container_may_do_nothing_but_serve(form: str) -> None:
    security = proxy(form)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(form)["automountServiceAccountToken"] is False
    assert proxy(form)["resources"]["limits"]["memory"]
    assert "env" not in proxy(form)


@pytest.mark.parametrize("form", MANIFESTS)
def test_the_pod_is_not_killed_before_it_has_drained(form: str) -> None:
    args = dict(arg.removeprefix("--").split("=") for arg in proxy(form)["args"][1:])
    assert float(args["drain-timeout"]) == serve.__wrapped__.__defaults__[-2]  # type: ignore[attr-defined]
    delay = Http.model_fields.get("drain_delay")
    needed = float(args["drain-timeout"]) + (0.0 if delay is None else delay.default)
    if form == "standalone":
        needed += float(proxy(form)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod(form)["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("form", MANIFESTS)
def test_probes_ask_what_the_admin_listener_answers_without_a_token(form: str) -> None:
    ports = {each["name"]: each["containerPort"] for each in proxy(form)["ports"]}
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = proxy(form)[probe]["httpGet"]
        assert (asked["path"], ports[asked["port"]]) == (path, 8081)
    assert proxy(form)["startupProbe"]["httpGet"]["path"] == ("/livez" if form == "standalone" else "/readyz")


def test_the_sidecar_is_there_before_and_after_the_application() -> None:
    (first,) = pod("sidecar")["initContainers"]
    assert (first["name"], first["restartPolicy"]) == ("tenantproxy", "Always")


@pytest.mark.parametrize("form", MANIFESTS)
def test_no_port_is_open_to_every_pod_but_the_applications(form: str) -> None:
    for rule in of(form, "NetworkPolicy")["spec"]["ingress"]:
        assert rule.get("from") or [port["port"] for port in rule["ports"]] == [8000]


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION


# --- compose.yaml ----------------------------------------------------------------------------------------------------
def test_only_the_applications_port_is_published_and_on_the_loopback() -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    assert [port for service in services.values() for port in service.get("ports", ())] == ["127.0.0.1:8000:8000"]
    assert {name for name, service in services.items() if service.get("network_mode") != "service:postgres"} == {
        "postgres"
    }
    with_admin = {name for name, service in services.items() if "pg_admin" in service["secrets"]}
    assert with_admin == {"postgres", "install"}


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    for unit in (DEPLOY.parent / "config" / "systemd").iterdir():
        text = unit.read_text().replace("/opt/tenantproxy/bin/tenantproxy", "/bin/true")  # it must be there
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        [program, "verify", *tmp_path.iterdir()], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "tenantproxy" in line]
    assert (done.returncode, ours) == (0, [])
