"""Do the shipped alerts read series that exist, and fire when they should?"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tenantproxy.metrics.families import PREFIX
from tenantproxy.metrics.listeners import ListenerStats, ProcessCollector, ProcessStats, Requests
from tenantproxy.metrics.prometheus import RouterCollector
from tests.unit.metrics.test_prometheus import STATS

RULES = Path(__file__).parents[3] / "config" / "prometheus"


def test_every_series_in_the_rules_is_one_that_a_scrape_yields() -> None:
    now = ProcessStats(listeners=(ListenerStats(protocol="http", clients=0, limit=1),), draining=False, lag_seconds=0.0)
    collectors = (RouterCollector(lambda: STATS, version="1"), ProcessCollector(lambda: now, Requests()))
    yielded = {
        family.name + ("_total" if family.type == "counter" else "") for each in collectors for family in each.collect()
    }
    text = (RULES / "rules.yml").read_text()
    read = set(re.findall(PREFIX + "[a-z_]+", text))
    assert read
    assert read <= yielded


def test_promtool_agrees_with_the_rules_own_tests() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", "rules_test.yml"],
        cwd=RULES,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
