"""Which tenants does `tenants idle` list? Those without a login, a session and a beginning in that time."""

from __future__ import annotations

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.idle import idle_tenants
from tests.support.world import World, a_world


async def login(world: World, tenant: str, ago: str, kind: str = "login_succeeded") -> None:
    async with world.main.connect() as conn:
        query = (
            "INSERT INTO tenantproxy.audit_log (at, kind, tenant, detail)"
            " VALUES (now() - $1::text::interval, $2, $3, '{}')"
        )
        await conn.execute(query, ago, kind, tenant)


async def session(world: World, tenant: str, ago: str) -> None:
    query = """
    INSERT INTO tenantproxy.sessions (family, id, tenant, user_id, epoch, claims, kid, mac, current, rotated_at,
      idle_until, expires_at)
    VALUES (sha256($1::text::bytea), $1, $1, 'u', 1, '{}', '1', '', '', now() - $2::text::interval, now(), now())
    """
    async with world.main.connect() as conn:
        await conn.execute(query, tenant, ago)


async def test_a_tenant_without_a_login_or_session_in_that_time_is_idle(postgres: EmbeddedPostgres) -> None:
    async with a_world(postgres, rows=5, schemas=0, databases=1) as world:
        admin = {"user": world.server.superuser, "password": world.server.password}
        settings = world.settings(registry="postgres", servers={"primary": {"admin": admin}})
        assert await idle_tenants(settings, days=30) == [], "they are new"
        async with world.main.connect() as conn:
            await conn.execute(
                "UPDATE tenantproxy.tenants SET created_at = now() - interval '1 year' WHERE id <> 'row5'"
            )
        await login(world, "row1", "1 day")
        await login(world, "row2", "31 days")
        await login(world, "row2", "1 day", kind="login_failed")
        await login(world, "row3", "40 days")
        await session(world, "row3", "1 day")
        await session(world, "row4", "50 days")
        idle = await idle_tenants(settings, days=30)
        assert [(each.tenant, each.seen is None) for each in idle] == [
            ("database1", True), ("row4", False), ("row2", False)
        ]  # fmt: skip
        assert [each.tenant for each in await idle_tenants(settings, days=45)] == ["database1", "row4"]
