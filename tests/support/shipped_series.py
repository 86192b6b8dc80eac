"""Which series do the shipped alerts and the dashboard read, and which of them are not in a scrape?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["missing_from"]

_CONFIG: Final = Path(__file__).parents[2] / "config"
_READ: Final = re.compile(r"(?<![:a-z_])(tenantproxy_[a-z_]+)(?:\{([^}]*)\})?")
# In scrapes of processes that have these: a fleet, workers, a registry that is asked.
_ELSEWHERE: Final = ("tenantproxy_fleet_", "tenantproxy_workers", "tenantproxy_registry_last_success")


def _expressions() -> Iterator[str]:
    rules = (_CONFIG / "prometheus" / "rules.yml").read_text()
    yield from re.findall(r"expr: (\|\n(?: {10,}.*\n)+|.+)", rules)
    dashboard = json.loads((_CONFIG / "grafana" / "tenantproxy.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def missing_from(scrape: str) -> set[str]:
    """What the shipped files read and a scrape of a single process has not: a series, or a label of one."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scrape):
        labels.setdefault(family.name, set())
        for ending in ("_total", "_bucket", "_count", "_sum"):
            labels.setdefault(family.name + ending, set())
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update({*sample.labels, "instance"})
    missing = set()
    for name, selectors in (found for expression in _expressions() for found in _READ.findall(expression)):
        if name.startswith(_ELSEWHERE):
            continue
        if name not in labels:
            missing.add(name)
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors))
        missing |= {f"{name}{{{label}}}" for label in asked - labels.get(name, asked) if labels.get(name)}
    return missing
