"""Does `tenantproxy doctor` tell what it finds, repair what is safe, and end with the right code?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenantproxy.demo.world import APP_ROLE, SHARED, World

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def answer(command: Command, config: Path, *options: str, code: int) -> dict[str, Any]:
    """What it prints for programs."""
    done = command("doctor", "--config", str(config), "--json", *options)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"] is (code == 0)
    assert found["complete"] is (code != 2)
    return found


def test_nothing_is_found_in_the_demos_world(demo_world: World, command: Command) -> None:
    done = command("doctor", "--config", str(demo_world.config))
    assert done.returncode == 0, done.stdout
    assert done.stdout == "nothing found; 1 server, 5 databases looked at\n"
    assert done.stderr == ""


async def test_what_is_safe_is_repaired_and_the_rest_is_left(own_world: World, command: Command) -> None:
    admin = await own_world.connect(SHARED)
    await admin.execute(
        f"CREATE TABLE invoices (tenant_id text PRIMARY KEY); GRANT pg_monitor TO demo_wayne;"
        f"GRANT TRUNCATE ON projects TO {APP_ROLE}; CREATE VIEW totals AS SELECT 1;"
        'CREATE VIEW "to\x1b[2Jtals" AS SELECT 1'
    )
    await admin.close()
    told = command("doctor", "--config", str(own_world.config), "--fix", "--dry-run")
    assert told.returncode == 1
    assert "would repair: TPD081 primary/demo_shared public.invoices" in told.stdout
    assert "\x1b" not in told.stdout  # of a name, into the terminal
    assert "4 critical, 1 high; 1 server, 5 databases looked at; --fix repairs 3 of them" in told.stdout
    found = answer(command, own_world.config, "--fix", code=1)
    assert [(each["code"], each["error"]) for each in found["repaired"]] == [
        ("TPD081", ""),
        ("TPD089", ""),
        ("TPD093", ""),
    ]
    assert [(each["code"], each["object"]) for each in found["findings"]] == [
        ("TPD013", "demo_wayne"),
        ("TPD089", "public.to\\x1b[2Jtals"),  # no statement is made of such a name
    ]
    assert found["findings"][0]["sql"] == ["REVOKE pg_monitor FROM demo_wayne"]
    assert (found["servers"], found["databases"]) == (1, 5)


async def test_what_cannot_be_looked_at_is_told_and_stops_nothing_else(own_world: World, command: Command) -> None:
    admin = await own_world.connect()
    await admin.execute("ALTER DATABASE demo_wayne ALLOW_CONNECTIONS false")
    await admin.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    await admin.close()
    found = answer(command, own_world.config, "--ignore", "TPD060:template1", code=2)
    assert [(each["code"], each["database"]) for each in found["findings"]] == [
        ("TPD002", "demo_wayne"),
        ("TPD060", ""),
    ]


def test_an_unknown_server_is_refused(demo_world: World, command: Command) -> None:
    done = command("doctor", "--config", str(demo_world.config), "--server", "none")
    assert done.returncode == 1
    assert "there is no [servers.none]" in done.stderr
