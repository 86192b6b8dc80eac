"""Finds the files that come with the package: an example configuration, alert rules and a dashboard."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

__all__ = ["DASHBOARD", "EXAMPLE", "RULES", "shipped"]

EXAMPLE: Final = "tenantproxy.toml"
RULES: Final = "prometheus/rules.yml"
DASHBOARD: Final = "grafana/tenantproxy.json"


def shipped(name: str) -> str:
    """The text of `name`, a path in the folder config of a checkout, which a wheel has inside the package."""
    package = files("tenantproxy")
    inside = package / "shipped" / name
    return (inside if inside.is_file() else package / ".." / "config" / name).read_text(encoding="utf-8")
