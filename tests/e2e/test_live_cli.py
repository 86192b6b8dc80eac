"""Do the groups of an operator do what they say to a running sidecar: `pools`, `servers`, `users`, `tokens`?"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from tenantproxy.cli.main import app
from tenantproxy.demo.people import email_of
from tenantproxy.demo.world import PG_USER, World
from tenantproxy.wire.scram import Verifier
from tests.support.sidecar import Served, a_sidecar
from tests.support.waiting import PATIENCE

ADMIN_TOKEN = "an admin token for tests"
Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def config(demo_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, with an admin token."""
    text = demo_world.config.read_text()
    text = text.replace('_file = "', f'_file = "{demo_world.config.parent}/')
    text = text.replace("[admin]\n", f'[admin]\ntoken = "{ADMIN_TOKEN}"\n')
    path = tmp_path_factory.mktemp("live") / "tenantproxy.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def served(config: Path) -> Iterator[Served]:
    with a_sidecar(config, config.with_name("log")) as running:
        yield running


@pytest.fixture
def cli(config: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TENANTPROXY_CONFIG", str(config))

    def run(*args: str, **how: Any) -> Result:
        ended = CliRunner().invoke(app, [*args], catch_exceptions=False, **how)
        assert ADMIN_TOKEN not in ended.output
        return ended

    return run


@pytest.fixture
def at(served: Served) -> list[str]:
    return ["--url", served.admin]


def said(ended: Result) -> Any:
    assert ended.exit_code == 0, ended.stderr
    return json.loads(ended.stdout)


@contextmanager
def whose(rows: list[dict[str, Any]], state: str) -> Iterator[dict[str, Any]]:
    (row,) = rows
    assert (row["tenant"], row["state"]) == ("acme", state)
    yield row


async def test_a_tenant_is_shown_paused_and_resumed(cli: Cli, at: list[str], served: Served, demo_world: World) -> None:
    dsn = f"postgresql://{PG_USER}:{demo_world.pg_password}@{served.pg}/acme?sslmode=disable"
    conn = await asyncpg.connect(dsn, timeout=PATIENCE)
    try:
        await conn.execute("SELECT 1")
        shown = said(cli("pools", "show", "acme", "--json", *at))
        assert [client["id"] for client in shown["clients"]] == [conn.get_server_pid()]
        assert str(conn.get_server_pid()) in cli("pools", "show", "acme", *at).stdout
        with whose(said(cli("pools", "pause", "acme", "--dry-run", "--json", *at)), "would_pause") as would:
            assert would["clients"] == 1
        assert not said(cli("pools", "show", "acme", "--json", *at))["paused"]
        with whose(said(cli("pools", "pause", "acme", "--json", *at)), "paused") as paused:
            assert paused["idle"] is True
        assert said(cli("pools", "show", "acme", "--json", *at))["paused"]
        with whose(said(cli("pools", "resume", "acme", "--json", *at)), "resumed"):
            await conn.execute("SELECT 1", timeout=PATIENCE)
        with whose(said(cli("pools", "kill", "acme", "--json", *at)), "killed"):
            with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
                await conn.execute("SELECT 1", timeout=PATIENCE)
        assert cli("pools", "resume", "acme", *at).exit_code == 0
    finally:
        conn.terminate()


def test_pools_and_servers_are_listed_by_the_name_of_the_group_alone(cli: Cli, at: list[str]) -> None:
    assert said(cli("pools", "--json", *at)) == said(cli("pools", "list", "--json", *at))
    (server,) = said(cli("servers", "--json", *at))
    assert server["server"] == "primary"
    assert "primary" in cli("servers", "list", *at).stdout
    for verb in ("evict", "drain"):
        assert said(cli("pools", verb, "acme", "--json", *at))[0]["tenant"] == "acme"


@pytest.mark.parametrize("verb", ["show", "evict", "pause"])
def test_a_tenant_that_cannot_be_is_an_error_in_its_own_words(verb: str, cli: Cli, at: list[str]) -> None:
    ended = cli("pools", verb, "no/such tenant", *at)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert "answers 404" not in ended.stderr


def test_the_sessions_of_a_person_are_listed_and_ended(
    cli: Cli, at: list[str], served: Served, demo_world: World
) -> None:
    body = json.dumps({"email": email_of("acme"), "password": demo_world.people_password}).encode()
    asked = urllib.request.Request(f"{served.public}/auth/login", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        user = json.load(answer)["user"]
    session, *others = said(cli("users", "sessions", "acme", user, "--json", *at))  # the newest is the first
    would = said(cli("users", "end", "acme", user, "--dry-run", "--json", *at))
    assert (would["state"], would["sessions"]) == ("would_end", 1 + len(others))
    ended = said(cli("users", "end", "acme", user, "--session", session["id"], "--json", *at))
    assert (ended["state"], ended["sessions"]) == ("ended", 1)
    assert said(cli("users", "sessions", "acme", user, "--json", *at)) == others
    assert cli("users", "end", "acme", user, "--session", session["id"], *at).exit_code == 1


def test_users_of_the_port_are_listed_without_their_proofs(cli: Cli, demo_world: World) -> None:
    rows = said(cli("users", "list", "--json"))
    assert PG_USER in [row["user"] for row in rows]
    assert demo_world.pg_password not in cli("users", "list").output


def test_a_verifier_is_made_of_a_password_that_no_output_shows(cli: Cli) -> None:
    made = cli("users", "verifier", input="s3cr3t-canary\n")
    assert Verifier.parse(made.stdout).matches("s3cr3t-canary")
    assert "canary" not in made.output
    assert cli("users", "verifier", input="\n").exit_code == 1


def test_tokens_are_made_under_either_name_of_the_group(cli: Cli) -> None:
    for name in ("tokens", "token"):
        issued = said(cli(name, "issue", "acme", "--user", "ann", "--json"))
        assert issued["tenant"] == "acme"
