"""Does the PostgreSQL port give each tenant its own rows, to a client that knows nothing of us?"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tenantproxy.demo.world import PG_USER, World
from tenantproxy.model import Isolation
from tests.e2e.conftest import Command
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE, until

Serve = Callable[..., Served]


@pytest.fixture
def config(demo_world: World, tmp_path: Path) -> Path:
    """The demo's configuration, and a user whose clients keep their backends."""
    path = demo_world.config.with_name(f"{tmp_path.name}.toml")
    users = (
        '[pg.users.session]\npassword_file = "pg_password"\ntenants = "*"\npool_mode = "session"\n'
        '[pg.users.only_acme]\npassword_file = "pg_password"\ntenants = ["acme"]\n'
    )
    path.write_text(f"{demo_world.config.read_text()}\n{users}")
    return path


@pytest.fixture
def port(config: Path, serve: Serve) -> int:
    """Where a sidecar serves it."""
    return int(serve(config).pg.rpartition(":")[2])


@pytest.mark.parametrize("user", [PG_USER, "session"])
async def test_every_tenant_reads_its_own_rows_and_no_others(user: str, port: int, demo_world: World) -> None:
    for tenant in demo_world.tenants:
        conn = await asyncpg.connect(
            host="127.0.0.1",
            port=port,
            user=user,
            password=demo_world.pg_password,
            database=tenant.id,
            ssl=False,
            timeout=PATIENCE,
        )
        try:
            rows = await conn.fetch("SELECT name FROM projects ORDER BY id")
        finally:
            await conn.close(timeout=PATIENCE)
        assert [row["name"] for row in rows] == list(tenant.projects)


async def connected(port: int, user: str, password: str, database: str, **more: Any) -> list[str]:
    """The projects that a client sees. Raises what the port says."""
    conn = await asyncpg.connect(
        host="127.0.0.1",
        port=port,
        user=user,
        password=password,
        database=database,
        ssl=False,
        timeout=PATIENCE,
        **more,
    )
    try:
        return [row["name"] for row in await conn.fetch("SELECT name FROM projects ORDER BY id")]
    finally:
        await conn.close(timeout=PATIENCE)


async def test_a_wrong_password_an_unknown_user_and_another_tenant_look_the_same(port: int, demo_world: World) -> None:
    good = demo_world.pg_password
    heard = []
    for user, password, tenant in (
        ("only_acme", "guess", "acme"),
        ("only_acme", good, "globex"),
        ("only_acme", good, "no_such_tenant"),
        ("nobody_knows", good, "acme"),
        ("only_acme", good, "tenantproxy"),
    ):
        with pytest.raises(asyncpg.InvalidPasswordError) as caught:
            await connected(port, user, password, tenant)
        heard.append((caught.value.sqlstate, str(caught.value).replace(user, "USER"), caught.value.as_dict().keys()))
    assert all(each == heard[0] for each in heard)
    assert await connected(port, "only_acme", good, "acme") == list(demo_world.one(Isolation.ROW).projects)


async def test_all_that_a_client_names_must_mean_the_same_tenant(port: int, demo_world: World) -> None:
    umbrella = demo_world.one(Isolation.DATABASE)
    agreeing = {"options": f"-c tenant={umbrella.id}"}
    for database in (umbrella.id, umbrella.database):  # its id, and the name of the database that it has to itself
        seen = await connected(port, PG_USER, demo_world.pg_password, database, server_settings=agreeing)
        assert seen == list(umbrella.projects)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connected(port, PG_USER, demo_world.pg_password, "wayne", server_settings=agreeing)


async def test_an_access_token_is_a_password_for_its_own_tenant_alone(
    port: int, config: Path, command: Command, demo_world: World
) -> None:
    issued = command("token", "issue", "acme", "--user", "ann", "--config", str(config))
    assert issued.returncode == 0, issued.stderr
    token = issued.stdout.strip()
    assert await connected(port, "jwt", token, "acme") == list(demo_world.one(Isolation.ROW).projects)
    for password, tenant in ((token, "globex"), (token[:-2], "acme"), (demo_world.pg_password, "acme")):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await connected(port, "jwt", password, tenant)


async def test_a_transaction_ends_and_its_client_hears_57p01_when_the_sidecar_is_told_to_leave(
    serve: Serve, config: Path, demo_world: World
) -> None:
    served = serve(config)
    port = int(served.pg.rpartition(":")[2])
    place: dict[str, Any] = {"host": "127.0.0.1", "port": port, "user": PG_USER, "password": demo_world.pg_password}
    busy = await asyncpg.connect(**place, database="acme", ssl=False, timeout=PATIENCE)
    idle = await asyncpg.connect(**place, database="acme", ssl=False, timeout=PATIENCE)
    transaction = busy.transaction()
    await transaction.start()
    assert await busy.fetchval("SELECT 1") == 1
    served.process.send_signal(signal.SIGTERM)
    await until(idle.is_closed, "the idle client is told to leave")
    assert await busy.fetchval("SELECT count(*) FROM projects") == 2
    await transaction.commit()
    await until(busy.is_closed, "the other one when its transaction is over")
    assert served.process.wait(timeout=PATIENCE) == 0


def without(config: Path, user: str) -> None:
    """Take the last user out of the file."""
    config.write_text(config.read_text().partition(f"[pg.users.{user}]")[0])


async def test_a_user_that_is_removed_is_refused_after_a_reload_and_connected_clients_stay(
    serve: Serve, config: Path, demo_world: World
) -> None:
    served = serve(config)
    port, password = int(served.pg.rpartition(":")[2]), demo_world.pg_password
    conn = await asyncpg.connect(
        host="127.0.0.1", port=port, user="only_acme", password=password, database="acme", ssl=False, timeout=20
    )
    without(config, "only_acme")
    served.process.send_signal(signal.SIGHUP)

    async def is_refused() -> bool:
        try:
            await connected(port, "only_acme", password, "acme")
        except asyncpg.InvalidPasswordError:
            return True
        return False

    await until(is_refused, "the user is gone")
    assert await conn.fetchval("SELECT count(*) FROM projects") == 2
    await conn.close(timeout=PATIENCE)
