"""Does a running sidecar take over its configuration, all or nothing, and say what it did? As processes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from tenantproxy.demo.world import World
from tests.e2e.conftest import get
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE, until

Serve = Callable[..., Served]
TOKEN = "an admin token for tests"
SINGLE_AND_SEVERAL = pytest.mark.parametrize("workers", ["1", "2"])


@pytest.fixture
def config(demo_world: World, tmp_path: Path) -> Path:
    return written(demo_world, tmp_path)


def written(world: World, folder: Path) -> Path:
    text = world.config.read_text().replace('_file = "', f'_file = "{world.config.parent}/')
    path = folder / "reloaded.toml"
    path.write_text(
        text.replace("[admin]\n", f'[admin]\ntoken = "{TOKEN}"\n')
        + '\n[pg.users.ops]\npassword = "ops"\nconsole = true\n'
    )
    return path


def change(path: Path, *pairs: tuple[str, str], more: str = "") -> None:
    """As an editor saves it: at once."""
    text = path.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    other = path.with_suffix(".new")
    other.write_text(text + more)
    other.replace(path)


def read(path: Path) -> str:
    return path.read_text()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def reload(served: Served, token: str = TOKEN) -> dict[str, Any]:
    """The answer of the admin listener, an error too."""
    request = urllib.request.Request(f"{served.admin}/v1/reload", b"", {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            found = json.load(exc)
    return found


Connect: TypeAlias = "Callable[[str], Awaitable[asyncpg.Connection[Any]]]"


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections that are closed where the test fails too: left open, they fail a later one."""
    async with AsyncExitStack() as stack:

        async def opened(dsn: str) -> asyncpg.Connection[Any]:
            conn = await asyncpg.connect(dsn, timeout=PATIENCE)
            stack.callback(conn.terminate)
            return conn

        yield opened


async def answers(served: Served, user: str, password: str, database: str, sql: str = "SELECT 1") -> list[Any]:
    """On new connections, one after the other: of several workers, each gets some."""
    dsn = f"postgresql://{user}:{password}@{served.pg}/{database}?sslmode=disable"
    found = []
    for _ in range(6):
        conn = await asyncpg.connect(dsn, timeout=PATIENCE)
        found.append(await conn.fetchval(sql))
        await conn.close()
    return found


@SINGLE_AND_SEVERAL
async def test_tenants_servers_budgets_limits_and_users_are_taken_over(
    workers: str, config: Path, demo_world: World, serve: Serve, connect: Connect
) -> None:
    served = serve(config, "--workers", workers)
    kept = await connect(f"postgresql://demo:{demo_world.pg_password}@{served.pg}/acme?sslmode=disable")
    text = read(config)
    server = text[text.index("[servers.primary]") : text.index("[servers.primary.admin]")]
    change(
        config,
        ("max_connections = 40", "max_connections = 36"),
        ("max_size = 2", "max_size = 4"),
        (f'token = "{TOKEN}"', 'token = "another token for tests"'),
        ('listen = "127.0.0.1:0"\n', 'listen = "127.0.0.1:0"\nmax_clients = 500\n'),
        more=server.replace("primary", "second").replace("max_connections = 40", "max_connections = 36")
        + '\n[tenants.umbrella_too]\nserver = "second"\nisolation = "database"\ndatabase = "demo_main"\n'
        + '\n[pg.users.late]\npassword = "late"\ntenants = ["acme", "umbrella_too"]\n',
    )
    assert reload(served)["changed"] == [
        "admin.token",
        "http.max_clients",
        "pg.users.late",
        "pools.max_size",
        "servers.primary.max_connections",
        "servers.second",
        "tenants.umbrella_too",
    ]
    assert await answers(served, "late", "late", "acme") == [1] * 6
    assert await answers(served, "late", "late", "umbrella_too", "SELECT current_database()") == ["demo_main"] * 6
    assert await kept.fetchval("SELECT 1") == 1, "who is connected stays"
    await kept.close()
    assert get(f"{served.admin}/metrics", Authorization=f"Bearer {TOKEN}")[0] == 401
    metrics = get(f"{served.admin}/metrics", Authorization="Bearer another token for tests")[2]
    assert 'tenantproxy_server_connections_limit{server="primary"} 36.0' in metrics
    assert 'tenantproxy_clients_limit{protocol="http"} 500.0' in metrics
    change(config, ("[tenants.umbrella_too]\n", '[tenants.umbrella_too]\nstatus = "suspended"\n'))
    assert reload(served, "another token for tests")["changed"] == ["tenants.umbrella_too.status"]
    with pytest.raises(asyncpg.PostgresError):
        await answers(served, "late", "late", "umbrella_too")


@SINGLE_AND_SEVERAL
async def test_what_cannot_be_taken_over_is_named_and_nothing_is_changed(
    workers: str, config: Path, serve: Serve, connect: Connect, command: Any
) -> None:
    served = serve(config, "--workers", workers)
    good = read(config)
    change(
        config,
        ("max_size = 2", "max_size = 9"),
        ("[row]\n", '[row]\nform = "trusted"\n'),
        ('database = "demo_main"', 'database = "demo_other"'),
    )
    text = json.dumps(reload(served))
    assert "row.form" in text
    assert "main.database" in text
    assert "max_size" not in text, "that alone would be taken over"
    write(config, "[main\n")
    assert "TOML" in json.dumps(reload(served))
    change_user = '\n[pg.users.nobody_knows]\npassword_file = "/nowhere"\ntenants = "*"\n'
    write(config, good.replace("max_size = 2", "max_size = 9") + change_user)
    assert "pg.users.nobody_knows" in json.dumps(reload(served))
    conn = await connect(f"postgresql://ops:ops@{served.pg}/tenantproxy?sslmode=disable")
    shown = {row["key"]: row["value"] for row in await conn.fetch("SHOW CONFIG")}
    assert shown["pools.max_size"] == "2"
    write(config, good)
    said: list[str] = []
    conn.add_log_listener(lambda _, message: said.append(message.message))
    await conn.execute("RELOAD")
    assert said == ["nothing has changed"]
    await conn.close()
    ended = command("reload", "--config", str(config), "--url", served.admin)
    assert ended.returncode == 0
    assert "nothing has changed" in ended.stdout + ended.stderr


@SINGLE_AND_SEVERAL
async def test_keys_of_tokens_change_with_an_overlap(
    workers: str, config: Path, demo_world: World, serve: Serve
) -> None:
    served = serve(config, "--workers", workers)
    folder = demo_world.config.parent
    old = token(served, demo_world)
    second = config.parent / "second_key"
    second.write_text("s" * 64)
    one = f'key_file = "{folder}/jwt_key"'
    change(config, (one, f'key_files = {{ 1 = "{folder}/jwt_key", 2 = "{second}" }}'))
    assert "auth.key_files" in " ".join(reload(served)["changed"])
    new = token(served, demo_world)
    for each in (old, new) * 3:
        assert get(f"{served.public}/auth/check", Authorization=f"Bearer {each}")[0] == 200
    change(config, (f'1 = "{folder}/jwt_key", ', ""))
    reload(served)
    for _ in range(3):
        assert get(f"{served.public}/auth/check", Authorization=f"Bearer {old}")[0] == 401
        assert get(f"{served.public}/auth/check", Authorization=f"Bearer {new}")[0] == 200


def token(served: Served, world: World) -> str:
    body = json.dumps({"email": "ann@acme.example", "password": world.people_password, "tenant": "acme"}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{served.public}/auth/login", body, headers), timeout=60) as it:
        return str(json.load(it)["access_token"])


async def test_a_new_key_of_row_tenants_signs_from_a_reload_on(
    own_world: World, tmp_path: Path, serve: Serve, command: Any
) -> None:
    config = written(own_world, tmp_path)
    served = serve(config)
    assert await answers(served, "demo", own_world.pg_password, "acme") == [1] * 6
    second = tmp_path / "second_row_key"
    second.write_text("r" * 64)
    first = f'key_file = "{own_world.config.parent}/row_key"'
    change(config, (first, f'key_files = {{ 1 = "{own_world.config.parent}/row_key", 2 = "{second}" }}'))
    ended = command("install", "--config", str(config))
    assert ended.returncode == 0, ended.stderr
    assert "row.key_files" in " ".join(reload(served)["changed"])
    assert await answers(served, "demo", own_world.pg_password, "acme") == [1] * 6
    change(config, (f'1 = "{own_world.config.parent}/row_key", ', ""))
    assert command("install", "--config", str(config)).returncode == 0
    await until(lambda: "row.key_files" in " ".join(reload(served).get("changed", ["row.key_files"])), "reloaded")
    assert await answers(served, "demo", own_world.pg_password, "acme") == [1] * 6, "signed by the second"
