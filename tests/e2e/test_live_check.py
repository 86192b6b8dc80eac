"""Does `config check --live` tell what is wrong on the servers, all of it, with the command that closes it?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenantproxy.demo.world import APP_ROLE, SHARED, World

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def checks_of(command: Command, config: Path, *, code: int) -> list[dict[str, Any]]:
    """The rows that it prints for programs."""
    done = command("config", "check", "--live", "--config", str(config), "--json")
    assert done.returncode == code, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is (code == 0)
    rows: list[dict[str, Any]] = answer["checks"]
    return rows


def wrong(rows: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(row["place"], row["what"], row["fix"]) for row in rows if row["state"] == "wrong"}


def test_the_demo_is_as_it_must_be(demo_world: World, command: Command) -> None:
    rows = checks_of(command, demo_world.config, code=0)
    assert {row["state"] for row in rows} == {"ok"}
    assert len(rows) == 7  # main, the registry, the shared database, and four tenants that have a place of their own
    done = command("config", "check", "--live", "--config", str(demo_world.config))
    assert done.returncode == 0
    assert "demo_shared" in done.stdout
    assert done.stderr == ""


async def test_everything_that_is_wrong_is_told_at_once(own_world: World, command: Command) -> None:
    admin = await own_world.connect(SHARED)
    await admin.execute(
        f"CREATE TABLE invoices (tenant_id text); GRANT SELECT ON invoices TO {APP_ROLE};"
        f"CREATE VIEW totals AS SELECT count(*) FROM projects; GRANT SELECT ON totals TO {APP_ROLE};"
        "CREATE FUNCTION counted() RETURNS int SECURITY DEFINER RETURN 1"
    )
    await admin.execute("ALTER ROLE demo_hooli BYPASSRLS; GRANT CONNECT ON DATABASE demo_wayne TO demo_umbrella")
    await admin.close()
    admin = await own_world.connect("demo_schemas")
    await admin.execute(
        "GRANT USAGE ON SCHEMA tenant_hooli TO demo_initech; GRANT SELECT ON tenant_hooli.projects TO demo_initech"
    )
    await admin.close()
    found = wrong(checks_of(command, own_world.config, code=1))
    install = "tenantproxy install --table public.invoices --column tenant_id"
    assert ("primary/demo_shared", "table public.invoices: it has no row-level security", install) in found
    places = sorted(place for place, _, _ in found)
    assert places == [
        "primary/demo_schemas/tenant_hooli/demo_hooli",
        "primary/demo_schemas/tenant_initech/demo_initech",
        "primary/demo_shared",
        "primary/demo_shared",
        "primary/demo_umbrella/demo_umbrella",
    ]
    table = command("config", "check", "--live", "--config", str(own_world.config))
    assert table.returncode == 1
    assert "security_invoker" in table.stdout


async def test_a_server_that_is_down_is_one_line_and_not_the_end(own_world: World, command: Command) -> None:
    config = own_world.config
    config.write_text(
        config.read_text()
        + '[servers.away]\nhost = "127.0.0.1"\nport = 1\nuser = "x"\npassword = "x"\nssl = "disable"\n'
        + '[tenants.lost]\nisolation = "database"\nserver = "away"\ndatabase = "lost"\n'
    )
    rows = checks_of(command, config, code=1)
    assert [place for place, _, _ in wrong(rows)] == ["away/lost"]
    assert len(rows) == 8


async def test_sql_as_a_tenant_that_could_read_others_is_refused(own_world: World, command: Command) -> None:
    admin = await own_world.connect("demo_schemas")
    await admin.execute(
        "GRANT USAGE ON SCHEMA tenant_hooli TO demo_initech; GRANT SELECT ON tenant_hooli.projects TO demo_initech"
    )
    await admin.close()
    done = command("sql", "initech", "select name from tenant_hooli.projects", "--config", str(own_world.config))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "tenant_hooli.projects" in done.stderr
    assert "tenantproxy install --roles" in done.stderr
