"""Does the command line log a user in, and make the directory agree with the tenants' tables?"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import command
from tests.support.logins import LOGIN_PASSWORD, LOGIN_ROLE, PASSWORD, PEPPER, QUERIES, change, directory, populate
from tests.support.world import APP_PASSWORD, APP_ROLE, ROLE_SECRET, ROW_SECRET, World

PEOPLE = {
    "row1": ["ann@example.org", "both@example.org"],
    "schema1": ["cem@example.org"],
    "database1": ["dan@example.org", "both@example.org"],
}


@pytest.fixture
async def config(world: World, tmp_path: Path) -> Path:
    """The TOML of a world with people in it."""
    await populate(world, PEOPLE)
    sections: dict[str, dict[str, Any]] = {
        "main": {"server": "primary", "database": world.main.name},
        "servers.primary": {
            "host": world.server.host,
            "port": world.server.port,
            "user": APP_ROLE,
            "password": APP_PASSWORD,
            "ssl": "disable",
        },
        "servers.primary.login": {"user": LOGIN_ROLE, "password": LOGIN_PASSWORD},
        "registry": {"source": "postgres"},
        "row": {"key": ROW_SECRET.decode()},
        "tenant_roles": {"key": ROLE_SECRET.decode()},
        "login": {**QUERIES, "pepper": PEPPER, "pad_to": 0},
    }
    path = tmp_path / "tenantproxy.toml"
    lines = [
        line
        for name, keys in sections.items()
        for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()))
    ]
    path.write_text("\n".join(lines))
    return path


def without(config: Path, key: str) -> None:
    """Take a key out of the file."""
    config.write_text("\n".join(line for line in config.read_text().splitlines() if not line.startswith(key)))


async def test_a_person_logs_in_with_a_password_from_a_pipe(config: Path) -> None:
    ended = await command("login", "both@example.org", "--json", "--config", str(config), given=PASSWORD + "\n")
    assert ended.returncode == 0, ended.stderr
    assert {row["tenant"]: row["user"] for row in json.loads(ended.stdout)} == {
        "row1": "row1-2",
        "database1": "database1-2",
    }
    ended = await command("login", "both@example.org", "--config", str(config), given="wrong\n")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: e-mail or password is wrong\n  docs/errors.md#invalid_credentials\n"


async def test_reconciling_fills_the_directory_drops_what_is_gone_and_names_who_could_not_be_asked(
    config: Path, world: World
) -> None:
    async with world.main.connect() as admin:
        await admin.execute(
            "INSERT INTO tenantproxy.login_directory VALUES (sha256('1'), 'deleted', '1'), (sha256('2'), 'row1', '2')"
        )
    await change(world, "database2", "ALTER TABLE users RENAME TO away")
    ended = await command("login", "reconcile", "--json", "--config", str(config))
    assert ended.returncode == 1
    rows = {row["tenant"]: row for row in json.loads(ended.stdout)}
    assert rows["row1"] == {"tenant": "row1", "accounts": 2, "removed": 1, "error": None}
    assert rows["schema2"] == {"tenant": "schema2", "accounts": 0, "removed": 0, "error": None}
    assert rows["deleted"] == {"tenant": "deleted", "accounts": 0, "removed": "all", "error": None}
    assert "42P01" in rows["database2"]["error"]
    assert await directory(world.main) == {
        (tenant, f"{tenant}-{number}") for tenant, people in PEOPLE.items() for number in range(1, len(people) + 1)
    }
    await change(world, "database2", "ALTER TABLE away RENAME TO users")
    ended = await command("login", "reconcile", "--json", "--config", str(config))
    assert ended.returncode == 0
    assert not any(row["removed"] for row in json.loads(ended.stdout))


async def test_on_a_terminal_it_shows_how_far_it_is_on_stderr(config: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tenantproxy", "login", "reconcile", "--config", str(config),
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}, stderr=theirs, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert "reconciling" in shown
    assert "6/6" in shown
    assert "reconciling" not in output.decode()


async def test_without_a_list_query_it_says_which_key_is_missing(config: Path) -> None:
    without(config, "list_query")
    ended = await command("login", "reconcile", "--config", str(config))
    assert ended.returncode == 1
    assert "login.list_query" in ended.stderr
    assert "Traceback" not in ended.stderr
