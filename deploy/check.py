"""Do the chart and the manifests hold? Renders the chart with Helm's engine, and checks all by Kubernetes' schemas.

`--write` writes deploy/kubernetes, which is the chart rendered; without it they must be equal. Called by
scripts/check-deploy in an environment of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import compose_spec
import helm_python as helm
import kubernetes_validate
import yaml

HERE: Final = Path(__file__).parent
CHART: Final = HERE / "helm" / "tenantproxy"
RULES: Final = HERE.parent / "config" / "prometheus" / "rules.yml"
VERSIONS: Final = ("1.29", "1.33", "1.37")
HEADING: Final = "# The chart deploy/helm/tenantproxy, rendered by scripts/check-deploy --write; do not edit.\n"

SIDECAR: Final[dict[str, Any]] = yaml.safe_load((HERE / "helm" / "values-sidecar.yaml").read_text())
PLAIN: Final[dict[str, dict[str, Any]]] = {"standalone.yaml": {}, "sidecar.yaml": SIDECAR}
ALL: Final[dict[str, Any]] = {
    "install": {"enabled": True, "args": ["--all-with-column", "tenant_id"]},
    "http": {"enabled": True},
    "monitoring": {"podMonitor": True, "prometheusRule": True, "labels": {"release": "prometheus"}},
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "podLabels": {"team": "data"},
    "podAnnotations": {"note": "x"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
}
REFUSED: Final[tuple[dict[str, Any], ...]] = (
    {"replica": 1},
    {"image": {"digest": "latest"}},
    {"networkPolicy": {"clients": []}},
    {"networkPolicy": {"monitoring": []}},
    {"networkPolicy": {"servers": []}},
)
OPERATOR: Final = {"PodMonitor", "PrometheusRule"}  # of the Prometheus operator: no schema of Kubernetes has them


def rendered(chart: helm.Chart, values: dict[str, Any]) -> str:
    """All manifests, as `helm template tenantproxy` prints them."""
    chart.validate_schema(values)
    texts = chart.render(values, name="tenantproxy", namespace="default")
    return "".join(f"---\n{text.strip()}\n" for _, text in sorted(texts.items()) if text.strip())


def plain(text: str) -> str:
    """Without what only Helm has a use for."""
    return HEADING + "".join(
        line for line in text.splitlines(keepends=True) if line.strip() != "app.kubernetes.io/managed-by: Helm"
    )


def problems_of(name: str, text: str) -> Iterator[str]:
    """What Kubernetes would refuse of `text`."""
    seen = set()
    for each in yaml.safe_load_all(text):
        if each is None:
            continue
        kind = each["kind"]
        if (kind, each["metadata"]["name"]) in seen:
            yield f"{name}: {kind} {each['metadata']['name']} is there twice"
        seen.add((kind, each["metadata"]["name"]))
        if kind == "PrometheusRule" and each["spec"] != yaml.safe_load(RULES.read_text()):
            yield f"{name}: the rules are not those of {RULES.name}"
        for version in VERSIONS if kind not in OPERATOR else ():
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as exc:
                yield f"{name}: {kind} for {version}: {'.'.join(map(str, exc.path))}: {exc.message}"


def compose_problems() -> Iterator[str]:
    """What is not in the specification of Compose."""
    try:
        merged = yaml.safe_dump(yaml.safe_load((HERE / "compose" / "compose.yaml").read_text()))  # it knows no `<<`
        compose_spec.PyCompose.from_yaml(merged).validate()
    except ValueError as exc:
        yield f"compose.yaml: {exc}"


def problems(*, write: bool) -> Iterator[str]:
    """Everything that is wrong."""
    yield from compose_problems()
    with helm.Chart.load(CHART) as chart:
        for name, values in PLAIN.items():
            text, path = plain(rendered(chart, values)), HERE / "kubernetes" / name
            if write:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
            elif not path.exists() or path.read_text() != text:
                yield f"{path.name} is not the chart as it is now: scripts/check-deploy --write"
            yield from problems_of(name, text)
        yield from problems_of("everything", rendered(chart, ALL))
        yield from problems_of("everything, sidecar", rendered(chart, {**SIDECAR, **ALL}))
        for values in REFUSED:
            try:
                rendered(chart, values)
            except helm.HelmError:
                continue
            yield f"the chart takes {values}"


def main() -> int:
    """Print what is wrong; 1 when something is."""
    found = list(problems(write="--write" in sys.argv[1:]))
    good = f"compose.yaml, the chart and deploy/kubernetes hold for Kubernetes {', '.join(VERSIONS)}"
    sys.stdout.write("\n".join(found or [good]) + "\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
