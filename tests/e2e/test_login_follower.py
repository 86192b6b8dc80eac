"""Does one of several sidecars keep the login directory true, and another one when it dies?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.login_outbox import outbox_places, watch_place
from tests.support.logins import HASH, PEPPER, QUERIES, change, directory, populate
from tests.support.sidecar import a_sidecar
from tests.support.waiting import until
from tests.support.world import World, a_world

LEADS = "login_following"


async def users(world: World) -> None:
    await populate(world, {})


def config_of(world: World, folder: Path) -> Path:
    queries = "".join(f'{name} = "{text}"\n' for name, text in QUERIES.items() if name != "lookup_query")
    config = folder / "tenantproxy.toml"
    admin = f'[servers.primary.admin]\nuser = "{world.server.superuser}"\npassword = "{world.server.password}"\n'
    config.write_text(
        f'{world.toml()}{admin}[login]\n{queries}watch_table = "users"\noutbox = true\noutbox_interval = 0.2\n'
        f'pepper = "{PEPPER}"\n'
        '[http]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'
    )
    return config


def leads(log: Path) -> Callable[[], bool]:
    return lambda: LEADS in log.read_text()


async def test_one_sidecar_follows_the_outboxes_and_the_other_one_when_it_dies(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with a_world(postgres, rows=2, schemas=1, databases=1, furnish=users) as world:
        await watch(world)
        config, logs = config_of(world, tmp_path), [tmp_path / "first.log", tmp_path / "second.log"]
        with a_sidecar(config, logs[0]) as first, a_sidecar(config, logs[1]) as second:
            await followed(world, "schema1", "a")
            await until(lambda: any(leads(log)() for log in logs), "one of them says that it follows")
            leader = [leads(log)() for log in logs].index(True)
            process = (first, second)[leader].process
            process.kill()
            process.wait()
            await followed(world, "database1", "b")
            assert leads(logs[1 - leader])()


async def watch(world: World) -> None:
    settings: Settings = world.settings(login={"watch_table": "users"})
    for place in outbox_places(world.tenants):
        await watch_place(settings, place, admin_connect(settings))


async def followed(world: World, tenant: str, user: str) -> None:
    """An application adds a user, and the directory has it soon."""
    insert = "INSERT INTO users (id, email, password_hash) VALUES ($1, $2, $3)"
    await change(world, tenant, insert, user, f"{user}@example.com", HASH)

    async def has_it() -> Any:
        return (tenant, user) in await directory(world.main)

    await until(has_it, "the directory follows")
