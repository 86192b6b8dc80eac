"""Do the shipped alerts and panels read series that exist, and do alerts fire when they should?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import reduce
from pathlib import Path

import pytest

from docs.pages.source import HOME
from tenantproxy.fleet.stats import FleetServerStats, FleetStats
from tenantproxy.metrics.families import PREFIX
from tenantproxy.metrics.fleet import FleetCollector
from tenantproxy.metrics.listeners import HttpRequests, ListenerStats, ProcessCollector, ProcessStats
from tenantproxy.metrics.logins import LoginCollector
from tenantproxy.metrics.pg import PgCollector, PgStats
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.sidecar.workers.metrics import WorkerCollector
from tenantproxy.sidecar.workers.state import WorkerState
from tests.support.waiting import PATIENCE
from tests.unit.metrics.test_prometheus import STATS

CONFIG = Path(__file__).parents[3] / "config"
RULES = CONFIG / "prometheus"
DASHBOARD = CONFIG / "grafana" / "tenantproxy.json"
RUNBOOKS = CONFIG.parent / "docs" / "runbooks"
CAPACITY = CONFIG.parent / "docs" / "capacity.md"


PART = FleetServerStats(server="a", granted=1, target=1, wanted=1.0, used=1, cap=1, processes=1, ghosts=0)
FLEET = FleetStats(fleet="default", process="", servers=(PART,), last_renewal=0.0, calls=0, failures=0)


def expressions() -> list[str]:
    """Those of the dashboard, with Grafana's variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    told = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    filled = {"$__rate_interval": "5m", "$instance": ".*", "$tenant": "acme"}
    return [reduce(lambda expr, name: expr.replace(name, filled[name]), filled, expr) for expr in told]


def yielded() -> set[str]:
    """The names of all series."""
    now = ProcessStats(listeners=(ListenerStats(protocol="http", clients=0, limit=1),), draining=False, lag_seconds=0.0)
    collectors = (
        RouterCollector(lambda: STATS, version="1"),
        ProcessCollector(lambda: now, HttpRequests()),
        LoginCollector(lambda: None, lambda: 0),
        PgCollector(lambda: PgStats(queries={}, transactions={})),
        FleetCollector(lambda: FLEET),
        WorkerCollector(lambda: [WorkerState.READY], lambda: 0),
    )
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        family.name + ending
        for each in collectors
        for family in each.collect()
        for ending in endings.get(family.type, ("",))
    }


def alerts() -> dict[str, str]:
    """The text of each alert by its name."""
    return {rule.split("\n", 1)[0]: rule for rule in (RULES / "rules.yml").read_text().split("- alert: ")[1:]}


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(alerts())


def test_each_alert_leads_to_its_own_runbook() -> None:
    for name, rule in alerts().items():
        assert f"runbook_url: {HOME}docs/runbooks/{name}.md\n" in rule, name


def test_each_runbook_says_where_to_look_and_what_to_do() -> None:
    for page in RUNBOOKS.glob("Tenantproxy*.md"):
        text = page.read_text()
        assert text.startswith(f"# {page.stem}\n"), page.name
        assert re.findall("^## (.+)", text, re.M) == ["Look", "Do", "It ends"], page.name


def test_each_alert_is_tried_where_it_must_fire() -> None:
    told = (RULES / "rules_test.yml").read_text()
    assert {name for name in alerts() if f"runbook_url: {HOME}docs/runbooks/{name}.md" not in told} == set()


@pytest.mark.parametrize(
    "file", [RULES / "rules.yml", DASHBOARD, CAPACITY, *RUNBOOKS.glob("*.md")], ids=lambda file: file.name
)
def test_every_series_in_a_shipped_file_is_one_that_a_scrape_yields(file: Path) -> None:
    read = set(re.findall("(?<![:a-z_])" + PREFIX + "[a-z_]+", file.read_text()))
    assert read or file.parent == RUNBOOKS
    assert read <= yielded()


def test_the_dashboard_shows_every_gauge_of_a_fleet() -> None:
    shown = set(re.findall(PREFIX + "fleet_[a-z_]+", " ".join(expressions())))
    assert shown == {family.name for family in FleetCollector(lambda: FLEET).collect()}


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


@pytest.mark.parametrize("name", sorted(set(re.findall("record: (.+)", (RULES / "rules.yml").read_text()))))
def test_each_recorded_series_is_read_by_an_alert_or_a_page(name: str) -> None:
    texts = [*alerts().values(), *(page.read_text() for page in RUNBOOKS.glob("*.md"))]
    assert any(name in text for text in [*texts, (CONFIG.parent / "docs" / "observing.md").read_text()])
