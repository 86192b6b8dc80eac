"""Does the sidecar, as a process, say how it is, serve its metrics, and leave in order?"""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tenantproxy.demo.world import World
from tests.e2e.conftest import Command, get
from tests.support.shipped_series import missing_from
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE, until

Serve = Callable[..., Served]

BACKENDS: Final = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantproxy'"


def named_server(url: str) -> str | None:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.headers["Server"]) if "Server" in answer.headers else None


async def test_it_is_alive_ready_and_tells_why(demo_world: World, serve: Serve) -> None:
    served = serve(demo_world.config)
    assert get(f"{served.admin}/livez")[0] == 200
    assert named_server(f"{served.admin}/livez") is None
    status, _, text = get(f"{served.admin}/readyz?verbose")
    assert status == 200
    assert text.splitlines() == [
        "[+] router open",
        "[+] registry loaded",
        "[+] a server up",
        "[+] listening",
        "[+] not draining",
        "ok",
    ]


async def test_metrics_come_in_both_formats_and_agree_with_postgresql(demo_world: World, serve: Serve) -> None:
    served = serve(demo_world.config)
    watch = await demo_world.connect()
    backends = 0

    async def agree() -> bool:
        """It opens and closes connections by itself: what PostgreSQL says before and after must be one number."""
        nonlocal backends
        backends = await watch.fetchval(BACKENDS)
        counted = scraped(served)["tenantproxy_server_connections", "primary"]
        listed = listed_server(served)["connections"]
        return bool(0 < backends == counted == listed == await watch.fetchval(BACKENDS))

    try:
        await until(agree, "metrics, admin API and PostgreSQL count the same connections")
    finally:
        await watch.close()
    samples = scraped(served)
    assert samples["tenantproxy_server_up", "primary"] == 1
    assert samples["tenantproxy_tenants", "active", "row"] == 2
    assert samples["tenantproxy_draining",] == 0
    status, content_type, text = get(f"{served.admin}/metrics")
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    assert "tenantproxy_build_info{" in text
    assert "_created" not in text
    server = listed_server(served)
    assert (server["server"], server["limit"], server["up"]) == ("primary", 40, True)
    status, content_type, text = get(f"{served.admin}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_what_alerts_and_dashboard_read_is_in_a_scrape_of_a_process(demo_world: World, serve: Serve) -> None:
    served = serve(demo_world.config)
    assert missing_from(get(f"{served.admin}/metrics")[2]) == set()


def scraped(served: Served) -> dict[tuple[str, ...], float]:
    """The samples of one scrape, by name and label values."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(get(f"{served.admin}/metrics")[2])
        for sample in family.samples
    }


def listed_server(served: Served) -> dict[str, Any]:
    """What the admin API says of the one server there is."""
    (server,) = json.loads(get(f"{served.admin}/v1/servers")[2])["servers"]
    found: dict[str, Any] = server
    return found


async def test_the_public_listener_serves_nothing_by_itself(demo_world: World, serve: Serve) -> None:
    served = serve(demo_world.config)
    status, content_type, text = get(f"{served.public}/demo/projects", Authorization="Bearer demo_anything")
    assert (status, content_type.partition(";")[0]) == (404, "application/problem+json")
    assert json.loads(text)["code"] == "not_found"
    assert get(f"{served.public}/metrics")[0] == 404


@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
async def test_a_signal_ends_it_in_order_and_leaves_no_backend(
    signalled: signal.Signals, demo_world: World, serve: Serve, tmp_path: Path
) -> None:
    served = serve(demo_world.config)
    served.process.send_signal(signalled)
    assert served.process.wait(timeout=PATIENCE) == 0
    assert "Traceback" not in (tmp_path / "sidecar.log").read_text()
    watch = await demo_world.connect()
    try:
        # The process waits for its backends to close their side; they leave the view a little after that.
        await until(lambda: none_left(watch), "no backend is left")
    finally:
        await watch.close()


async def none_left(watch: asyncpg.Connection[asyncpg.Record]) -> bool:
    return not await watch.fetchval(BACKENDS)


async def test_its_log_is_one_json_object_a_line(demo_world: World, serve: Serve, tmp_path: Path) -> None:
    served = serve(demo_world.config)
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(timeout=PATIENCE)
    lines = [json.loads(line) for line in (tmp_path / "sidecar.log").read_text().splitlines()]
    assert any(line.get("kind") == "pool_opened" and line.get("pool") for line in lines)
    text = (tmp_path / "sidecar.log").read_text()
    assert demo_world.password("tenantproxy_app") not in text
    assert demo_world.password("demo_wayne") not in text


async def test_a_taken_port_names_its_key(demo_world: World, serve: Serve, command: Command) -> None:
    served = serve(demo_world.config)
    taken = served.public.removeprefix("http://")
    ended = command("serve", "--config", str(demo_world.config), "--listen", taken)
    assert ended.returncode == 1
    assert "http.listen" in ended.stderr
    assert "Traceback" not in ended.stderr
