"""Do the shipped alerts and panels read series that exist, and do alerts fire when they should?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tenantproxy.fleet.stats import FleetServerStats, FleetStats
from tenantproxy.metrics.families import PREFIX
from tenantproxy.metrics.fleet import FleetCollector
from tenantproxy.metrics.listeners import HttpRequests, ListenerStats, ProcessCollector, ProcessStats
from tenantproxy.metrics.logins import LoginCollector
from tenantproxy.metrics.pg import PgCollector, PgStats
from tenantproxy.metrics.prometheus import RouterCollector
from tests.support.waiting import PATIENCE
from tests.unit.metrics.test_prometheus import STATS

CONFIG = Path(__file__).parents[3] / "config"
RULES = CONFIG / "prometheus"
DASHBOARD = CONFIG / "grafana" / "tenantproxy.json"


PART = FleetServerStats(server="a", granted=1, target=1, wanted=1.0, used=1, cap=1, processes=1, ghosts=0)
FLEET = FleetStats(fleet="default", process="", servers=(PART,), last_renewal=0.0, calls=0, failures=0)


def expressions() -> list[str]:
    """Those of the dashboard, with Grafana's variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    told = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [expr.replace("$__rate_interval", "5m").replace("$instance", ".*") for expr in told]


def yielded() -> set[str]:
    """The names of all series."""
    now = ProcessStats(listeners=(ListenerStats(protocol="http", clients=0, limit=1),), draining=False, lag_seconds=0.0)
    collectors = (
        RouterCollector(lambda: STATS, version="1"),
        ProcessCollector(lambda: now, HttpRequests()),
        LoginCollector(lambda: None, lambda: 0),
        PgCollector(lambda: PgStats(queries={}, transactions={})),
        FleetCollector(lambda: FLEET),
    )
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        family.name + ending
        for each in collectors
        for family in each.collect()
        for ending in endings.get(family.type, ("",))
    }


@pytest.mark.parametrize("file", [RULES / "rules.yml", DASHBOARD], ids=lambda file: file.name)
def test_every_series_in_a_shipped_file_is_one_that_a_scrape_yields(file: Path) -> None:
    read = set(re.findall(PREFIX + "[a-z_]+", file.read_text()))
    assert read
    assert read <= yielded()


def test_prometheus_understands_every_panel_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "rules.yml", folder=tmp_path)


def test_promtool_agrees_with_the_rules_own_tests() -> None:
    promtool("test", "rules", "rules_test.yml", folder=RULES)


def test_prometheus_takes_the_shipped_configuration_and_sends_a_token() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml", folder=RULES)
    assert "bearer_token_file: /run/secrets/admin" in (RULES / "prometheus.yml").read_text()


def promtool(*args: str, folder: Path) -> None:
    """Run it; it must be content."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    done = subprocess.run([program, *args], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
