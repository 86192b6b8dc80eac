"""Does each command do what it says, speak JSON to programs, and end with 0, 1 or 2 and one clear message?"""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tenantproxy.cli.main import app
from tenantproxy.demo.world import SHARED, World
from tests.support.sidecar import Served

Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("tenants", "list")` in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("TENANTPROXY_CONFIG", raising=False)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def said(result: Result) -> Any:
    """What a successful command printed as JSON."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "args",
    [["nonsense"], ["sql", "acme"], ["tenants", "list", "--status", "asleep"], ["serve", "--drain-timeout", "soon"]],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(args: list[str], cli: Cli) -> None:
    result = cli(*args)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_an_unknown_log_level_is_wrong_usage(demo_world: World, cli: Cli) -> None:
    result = cli("serve", "--config", demo_world.config, "--log-level", "LOUD")
    assert result.exit_code == 2
    assert "--log-level" in result.stderr


def test_the_version_is_said(cli: Cli) -> None:
    result = cli("--version")
    assert result.exit_code == 0
    assert result.stdout.strip()


# --- config ----------------------------------------------------------------------------------------------------------
def test_a_missing_file_is_named(cli: Cli, tmp_path: Path) -> None:
    result = cli("config", "check", "--config", tmp_path / "nowhere.toml")
    assert result.exit_code == 1
    assert "nowhere.toml" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_problem_of_a_configuration_is_told_at_once(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[main]\nserver = "x"\ndatabase = "d"\n[pools]\nmax_sise = 3\n[http]\nlisten = "nowhere"\n')
    result = cli("config", "check", "--config", file)
    assert result.exit_code == 1
    for words in ("pools.max_sise", "max_size", "http.listen", "main.server"):
        assert words in result.stderr


def test_a_good_configuration_is_good_in_json_too(demo_world: World, cli: Cli) -> None:
    assert cli("config", "check", "--config", demo_world.config).exit_code == 0
    assert said(cli("config", "check", "--config", demo_world.config, "--json"))["ok"] is True


def test_what_is_in_force_is_shown_with_defaults_and_without_secrets(demo_world: World, cli: Cli) -> None:
    shown = said(cli("config", "show", "--config", demo_world.config, "--json"))
    assert shown["pools"]["max_pools"] == 4
    assert shown["pools"]["max_waiting"] == 100
    for result in (
        cli("config", "show", "--config", demo_world.config),
        cli("config", "show", "--config", demo_world.config, "--json"),
    ):
        assert result.exit_code == 0
        assert demo_world.server.password not in result.stdout
        assert demo_world.password("tenantproxy_app") not in result.stdout


def test_the_schema_is_json_and_needs_no_configuration(cli: Cli) -> None:
    assert "pools" in said(cli("config", "schema"))["properties"]


# --- tenants ---------------------------------------------------------------------------------------------------------
def test_tenants_are_listed_in_order_and_by_status(demo_world: World, cli: Cli) -> None:
    config = ("--config", demo_world.config)
    rows = said(cli("tenants", "list", *config, "--json"))
    assert [row["id"] for row in rows] == sorted(tenant.id for tenant in demo_world.tenants)
    assert rows[0] == {
        "id": "acme", "isolation": "row", "status": "active", "server": "primary", "database": SHARED,
        "schema": None, "role": None, "tier": "standard",
    }  # fmt: skip
    assert said(cli("tenants", "list", *config, "--status", "suspended", "--json")) == []
    table = cli("tenants", "list", *config)
    assert table.exit_code == 0
    assert "tenant_hooli" in table.stdout


def test_one_tenant_is_shown_and_an_unknown_one_is_said_to_be(demo_world: World, cli: Cli) -> None:
    shown = said(cli("tenants", "show", "wayne", "--config", demo_world.config, "--json"))
    assert (shown["isolation"], shown["database"], shown["role"]) == ("database", "demo_wayne", "demo_wayne")
    for name in ("unknown", "'; drop table x"):
        result = cli("tenants", "show", name, "--config", demo_world.config)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert result.stdout == ""


# --- sql -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tenant", ["acme", "initech", "wayne"])
def test_sql_runs_as_the_tenant(tenant: str, demo_world: World, cli: Cli) -> None:
    rows = said(cli("sql", tenant, "select name from projects order by 1", "--config", demo_world.config, "--json"))
    expected = next(each.projects for each in demo_world.tenants if each.id == tenant)
    assert tuple(row["name"] for row in rows) == expected


def test_sql_shows_columns_of_one_name_values_of_any_type_and_what_changed(demo_world: World, cli: Cli) -> None:
    config = ("--config", demo_world.config, "--json")
    assert said(cli("sql", "acme", "select 1, 2", *config)) == [{"?column?": 1, "?column?_2": 2}]
    (row,) = said(cli("sql", "acme", "select 1.50 as n, date '2024-02-29' as d, '\\x00ff'::bytea as b", *config))
    assert (row["n"], row["d"], row["b"]) == ("1.50", "2024-02-29", "\\x00ff")
    assert said(cli("sql", "acme", "update projects set budget = 1", *config)) == [{"status": "UPDATE 2"}]
    assert said(cli("sql", "globex", "select sum(budget)::int as s from projects", *config)) == [{"s": 0}]


def test_sql_stops_at_its_limit_and_says_so(demo_world: World, cli: Cli) -> None:
    series = "select * from generate_series(1, 50) as n"
    result = cli("sql", "acme", series, "--limit", 3, "--config", demo_world.config, "--json")
    assert said(result) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert "first 3 rows" in result.stderr


def test_what_postgresql_refuses_is_told_with_its_code_and_a_next_step(demo_world: World, cli: Cli) -> None:
    result = cli("sql", "initech", "select * from tenant_hooli.projects", "--config", demo_world.config)
    assert result.exit_code == 1
    assert "42501" in result.stderr
    error, step = result.stderr.splitlines()
    assert error.startswith("error: PostgreSQL says 42501: ")
    assert "appendix A" in step


# --- pools -----------------------------------------------------------------------------------------------------------
def test_the_pools_of_a_running_sidecar_are_shown(demo_world: World, serve: Callable[..., Served], cli: Cli) -> None:
    served = serve(demo_world.config)
    rows = said(cli("pools", "--url", served.admin, "--json"))
    assert {row["pool"] for row in rows} == {"primary/demo_main", f"primary/{SHARED}"}
    assert all(row["limit"] > 0 for row in rows)
    assert cli("pools", "--url", served.admin).exit_code == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "file:///etc/passwd"])
def test_no_sidecar_at_an_address_is_said(url: str, cli: Cli) -> None:
    result = cli("pools", "--url", url)
    assert result.exit_code == 1
    assert url in result.stderr
    assert "Traceback" not in result.stderr


def test_an_admin_listener_without_a_fixed_port_must_be_named(demo_world: World, cli: Cli) -> None:
    result = cli("pools", "--config", demo_world.config)
    assert result.exit_code == 1
    assert "--url" in result.stderr


# --- install ---------------------------------------------------------------------------------------------------------
def test_install_puts_registry_and_signed_context_in_place_again_and_again(
    own_world: World, cli: Cli, tmp_path: Path
) -> None:
    """A registry in PostgreSQL, from nothing to a row tenant that reads its rows."""
    text = own_world.config.read_text().partition("[tenants.")[0].replace('source = "file"', 'source = "postgres"')
    config = own_world.config.with_name("postgres.toml")
    config.write_text(text)
    assert tomllib.loads(text)["registry"]["source"] == "postgres"
    uninstalled = cli("tenants", "list", "--config", config)
    assert uninstalled.exit_code == 1
    assert "tenantproxy install" in uninstalled.stderr

    done = said(cli("install", "--config", config, "--json"))
    main = [
        ("registry", "demo_main"),
        ("sessions and login directory", "demo_main"),
        ("budget of the fleet default", "demo_main"),
    ]
    assert [(row["installed"], row["database"]) for row in done] == main
    assert said(cli("tenants", "list", "--config", config, "--json")) == []
    asyncio.run(
        _execute(
            own_world,
            (
                "demo_main",
                f"INSERT INTO tenantproxy.tenants (id, isolation, database) VALUES ('acme', 'row', '{SHARED}')",
            ),
            (SHARED, "DELETE FROM tenantproxy.context_key"),
        )
    )
    refused = cli("sql", "acme", "select name from projects", "--config", config)
    assert refused.exit_code == 1

    for _ in range(2):
        done = said(cli("install", "--config", config, "--json"))
        assert [(row["installed"], row["database"], row["role"]) for row in done] == [
            ("registry", "demo_main", "tenantproxy_app"),
            ("sessions and login directory", "demo_main", "tenantproxy_app"),
            ("budget of the fleet default", "demo_main", "tenantproxy_app"),
            ("signed context", SHARED, "tenantproxy_app"),
            ("closed functions", SHARED, "tenantproxy_app"),
            ("account lookup", SHARED, "tenantproxy_login"),
        ]
    rows = said(cli("sql", "acme", "select name from projects order by 1", "--config", config, "--json"))
    assert [row["name"] for row in rows] == ["Anvils", "Rocket skates"]
    named = said(
        cli("install", "--config", config, "--database", "primary/demo_main", "--no-close-functions", "--json")
    )
    assert "it is the router's own" in "".join(row.get("note", "") for row in named)
    assert [(row["installed"], row["database"]) for row in named if "installed" in row] == [
        *main,
        ("signed context", "demo_main"),
        ("account lookup LEFT OUT: what lookup_query names is not there yet", "demo_main"),
    ]


def test_install_isolates_a_table_that_was_open(own_world: World, cli: Cli) -> None:
    config = own_world.config
    made = "CREATE TABLE notes (tenant_id text, name text); INSERT INTO notes VALUES ('acme', 'a'), ('globex', 'g')"
    asyncio.run(_execute(own_world, (SHARED, made)))
    asked = ("install", "--table", "public.notes", "--column", "tenant_id", "--config", config)
    would = said(cli(*asked, "--dry-run", "--json"))
    assert "public.notes: permissive policy tenantproxy" in [row.get("would_install") for row in would]
    printed = cli(*asked, "--print-sql")
    assert printed.exit_code == 0
    assert 'CREATE POLICY tenantproxy ON public.notes AS PERMISSIVE USING ("tenant_id" =' in printed.stdout
    assert "INSERT INTO tenantproxy.context_key" not in printed.stdout
    done = said(cli(*asked, "--json"))
    assert "public.notes: permissive policy tenantproxy" in [row.get("installed") for row in done]
    rows = said(cli("sql", "acme", "select name from notes", "--config", config, "--json"))
    assert rows == [{"name": "a"}]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--column", "tenant_id"), "--all-with-column"),
        (("--table", "a", "--column", "x", "--column", "y"), "2 times for 1 tables"),
    ],
    ids=["a column without a table", "more columns than tables"],
)
def test_columns_that_do_not_fit_the_tables_are_wrong_usage(
    demo_world: World, cli: Cli, args: tuple[str, ...], said: str
) -> None:
    result = cli("install", *args, "--config", demo_world.config)
    assert result.exit_code == 2
    assert said in result.stderr


async def _execute(world: World, *statements: tuple[str, str]) -> None:
    for database, statement in statements:
        conn = await world.connect(database)
        try:
            await conn.execute(statement)
        finally:
            await conn.close()


def test_install_without_admin_credentials_names_the_section(demo_world: World, cli: Cli, tmp_path: Path) -> None:
    text = demo_world.config.read_text()
    config = demo_world.config.with_name("no_admin.toml")
    start, end = text.index("[servers.primary.admin]"), text.index("[pools]")
    config.write_text(text[:start] + text[end:])
    result = cli("install", "--config", config)
    assert result.exit_code == 1
    assert "servers.primary.admin" in result.stderr


def test_install_into_a_server_that_is_not_configured_says_so(demo_world: World, cli: Cli) -> None:
    result = cli("install", "--config", demo_world.config, "--database", "elsewhere/db")
    assert result.exit_code == 1
    assert "servers.elsewhere" in result.stderr
    assert asyncio.run(_has_fleet(demo_world)) is False, "nothing is installed"


async def _has_fleet(world: World) -> bool:
    conn = await world.connect("demo_main")
    try:
        return bool(await conn.fetchval("SELECT to_regclass('tenantproxy.fleet') IS NOT NULL"))
    finally:
        await conn.close()
