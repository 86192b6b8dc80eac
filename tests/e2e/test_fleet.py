"""Do sidecars of one configuration share their servers, and can an operator see it?"""

from __future__ import annotations

import json
from collections.abc import Callable

from tenantproxy.demo.world import World
from tests.e2e.conftest import Command, get
from tests.support.sidecar import Served
from tests.support.waiting import wait_until


def test_two_sidecars_share_a_server_and_show_it(
    own_world: World, command: Command, serve: Callable[..., Served]
) -> None:
    config = own_world.config.with_name("fleet.toml")
    config.write_text(own_world.config.read_text() + "\n[fleet]\nttl = 3.0\ninterval = 0.3\n")
    installed = command("install", "--config", str(config), "--json")
    assert "budget of the fleet default" in installed.stdout, installed.stderr

    def rows() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(command("fleet", "--config", str(config), "--json").stdout)
        return [row for row in found if row["process"] is not None]

    first, second = serve(config), serve(config)
    assert len({row["process"] for row in rows()}) == 2
    assert all(row["state"] == "live" for row in rows())

    def processes(served: Served) -> bool:
        return "tenantproxy_fleet_processes" in (text := get(f"{served.admin}/metrics")[2]) and "} 2.0" in text

    wait_until(lambda: processes(first), "the first tells of both")
    second.process.kill()
    wait_until(lambda: sorted({str(row["state"]) for row in rows()}) == ["live", "silent"], "the second is missed")
