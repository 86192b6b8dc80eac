"""What does a look at a whole installation find, when its tenants are in a table of the main database?"""

from __future__ import annotations

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.live_check import check_live
from tests.support.waiting import until
from tests.support.world import World, a_world


async def test_every_place_is_looked_at_once_and_rows_that_cannot_be_used_are_told(world: World) -> None:
    async with world.main.connect() as admin:
        await admin.execute(
            "INSERT INTO tenantproxy.tenants (id, isolation, server, database) VALUES ('lost', 'database', 'away', 'x')"
        )
    steps: list[tuple[int, int]] = []
    findings = await check_live(
        world.settings(registry="postgres"), progress=lambda done, total: steps.append((done, total))
    )
    assert steps[0] == (0, 5)
    assert steps[-1] == (5, 5)  # the shared database, two schemas, two databases
    assert [each.place for each in findings if each.state == "wrong"] == ["tenant lost"]
    assert "away" in next(each.what for each in findings if each.state == "wrong")
    names = [world.main.name, *{tenant.placement.database for tenant in world.tenants}]
    async with world.main.connect() as admin:

        async def all_are_gone() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY ($1) AND pid <> pg_backend_pid()"
            return bool(await admin.fetchval(query, names) == 0)

        await until(all_are_gone, "its connections are closed")


async def test_database_tenants_that_share_a_role_are_worth_a_note(postgres: EmbeddedPostgres) -> None:
    async with a_world(postgres, rows=0, schemas=0) as world:
        findings = await check_live(world.settings())
    notes = [each for each in findings if each.state == "note"]
    assert len(notes) == 2
    assert all("databases of other tenants" in each.what for each in notes)
    assert all(each.state != "wrong" for each in findings)
