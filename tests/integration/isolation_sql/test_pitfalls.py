"""Which ordinary mistakes around row security open rows, and which of them does our policy stop by itself?"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tenantproxy.isolation.proof import Signer
from tenantproxy.lifecycle.provisioner import ensure_role
from tests.support.sessions import bind
from tests.support.world import APP_ROLE, World

OWNER_PASSWORD = "password of the owner"


@pytest.fixture
async def view(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """The name of a view for this test alone; dropped afterwards."""
    name = f"view_{secrets.token_hex(4)}"
    yield name
    await admin.execute(f"DROP VIEW IF EXISTS {name}")


async def test_the_owner_of_the_table_is_held_to_the_policy_too(each_world: World) -> None:
    owner = f"owner_{secrets.token_hex(4)}"
    async with each_world.shared.connect() as admin:
        await ensure_role(admin, owner, password=OWNER_PASSWORD)
        await admin.execute(f"GRANT CONNECT ON DATABASE {each_world.shared.name} TO {owner}")
        await admin.execute(f"GRANT USAGE ON SCHEMA public TO {owner}; ALTER TABLE projects OWNER TO {owner}")
        async with each_world.shared.connect(owner, OWNER_PASSWORD) as conn:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch("SELECT * FROM projects")
        await admin.execute(f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}")


@pytest.mark.parametrize(("option", "rows"), [("security_invoker = true", 3), ("security_invoker = false", 6)])
async def test_a_view_follows_the_policy_only_as_its_invoker(
    conn: asyncpg.Connection, admin: asyncpg.Connection, signer: Signer, view: str, option: str, rows: int
) -> None:
    """The second line is the hole that doctor must find: a superuser's view shows all tenants' rows."""
    await admin.execute(f"CREATE VIEW {view} WITH ({option}) AS SELECT * FROM projects; GRANT SELECT ON {view} TO app")
    await bind(conn, signer, "row1")
    assert await conn.fetchval(f"SELECT count(*) FROM {view}") == rows


async def test_the_app_role_owns_nothing_and_reaches_no_other_role(admin: asyncpg.Connection) -> None:
    owned = await admin.fetchval("SELECT count(*) FROM pg_class WHERE relowner = $1::regrole", APP_ROLE)
    roles = await admin.fetchval(
        "SELECT count(*) FROM pg_roles WHERE pg_has_role($1, oid, 'MEMBER') AND rolname <> $1", APP_ROLE
    )
    assert (owned, roles) == (0, 0)


async def test_every_function_with_the_keepers_rights_has_a_fixed_search_path(admin: asyncpg.Connection) -> None:
    loose = await admin.fetch(
        "SELECT oid::regprocedure FROM pg_proc WHERE prosecdef AND pronamespace = 'tenantproxy'::regnamespace"
        " AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"
    )
    assert loose == []
