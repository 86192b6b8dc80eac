"""Can an operator make tenants from the command line, and see what was interrupted?"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Command
from tests.fault.conftest import own_world
from tests.support.world import OWN_PROJECTS


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[Path]:
    async with own_world() as world:
        (tmp_path / "schema.sql").write_text(f"{OWN_PROJECTS};\n")
        path = tmp_path / "tenantproxy.toml"
        admin = f'[servers.primary.admin]\nuser = "{world.server.superuser}"\npassword = "{world.server.password}"\n'
        provision = f'[provision]\nsql_files = ["schema.sql"]\nshared_database = "{world.shared.name}"\nstock = 1\n'
        (tmp_path / "migrations").mkdir()
        (tmp_path / "migrations" / "1_due.sql").write_text("ALTER TABLE projects ADD due date;")
        path.write_text(f'{world.toml()}{admin}{provision}[migrations]\nfolder = "migrations"\n')
        yield path


def rows(command: Command, config: Path, *args: str, code: int = 0) -> list[dict[str, Any]]:
    done = command("tenants", *args, "--config", str(config), "--json")
    assert done.returncode == code, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


async def test_tenants_are_made_and_served_and_a_name_that_is_taken_is_told(command: Command, config: Path) -> None:
    (planned,) = rows(command, config, "create", "acme", "--dry-run")
    assert (planned["state"], planned["database"]) == ("would_create", "tenant_acme")
    made = rows(command, config, "create", "acme", "globex", "--isolation", "schema")
    assert [(row["tenant"], row["state"], row["schema"]) for row in made] == [
        ("acme", "active", "tenant_acme"),
        ("globex", "active", "tenant_globex"),
    ]
    done = command(
        "sql", "acme", "insert into projects (name) values ('Anvils') returning name", "--config", str(config)
    )
    assert "Anvils" in done.stdout, done.stderr
    assert rows(command, config, "stock") == [{"server": "primary", "wanted": 1, "ready": 1, "making": 0, "going": 0}]
    (taken,) = rows(command, config, "create", "initech", "--isolation", "database")
    assert taken["state"] == "active"
    (left,) = rows(command, config, "stock", "--dry-run")
    assert left["ready"] == 0, "it was taken"
    (again,) = rows(command, config, "create", "Acme", code=1)
    assert "only by case" in again["error"]
    assert rows(command, config, "unfinished") == []
    (config.parent / "migrations" / "2_done.sql").write_text("ALTER TABLE projects ADD done boolean;")
    migrated = command("migrate", "run", "--tenant", "acme", "--config", str(config), "--json")
    (line,) = json.loads(migrated.stdout)
    assert (line["tenant"], line["version"], line["applied"]) == ("acme", 2, "2"), "it came with the first"
    (unknown,) = [command("tenants", "abandon", "acme", "--config", str(config))]
    assert unknown.returncode == 1
    assert "tenant acme: is not being made" in unknown.stderr


async def test_a_file_that_cannot_be_read_is_named_before_anything_is_made(command: Command, config: Path) -> None:
    (config.parent / "schema.sql").unlink()
    (row,) = rows(command, config, "create", "acme", code=1)
    assert "schema.sql cannot be read: FileNotFoundError" in row["error"]
    assert rows(command, config, "unfinished") == []
