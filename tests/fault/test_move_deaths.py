"""Is a tenant whole, in one place alone, wherever its mover is killed, and whatever else changes it meanwhile?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tenantproxy import Router
from tenantproxy.lifecycle.migrate import Migrator, targets_of
from tenantproxy.lifecycle.migrate.runs import running
from tenantproxy.lifecycle.move import MoveFailed, MoveOptions, Mover, MoveState
from tenantproxy.lifecycle.status.entry import look_up
from tenantproxy.model import Isolation, Placement, TenantStatus
from tests.fault.test_moves import Two, a_tenant, moved, remove, two_servers
from tests.support.killed import killed_movers
from tests.support.lasting import lasting as kept
from tests.support.world import OWN_PROJECTS

DATABASE, SCHEMA, ROW = Isolation.DATABASE, Isolation.SCHEMA, Isolation.ROW
STATES: Final = (
    MoveState.HAS_PLACE, MoveState.HAS_TABLES, MoveState.PAUSED, MoveState.COPIED, MoveState.VERIFIED,
    MoveState.SWITCHED,
)  # fmt: skip


@pytest.fixture(scope="module")
def pair() -> Iterator[Two]:
    with kept(two_servers()) as both:
        yield both


def besides(found: dict[str, set[str]], place: Placement) -> dict[str, set[str]]:
    """All but what `place` consists of, and who may connect to the database of all."""
    own = {place.schema, place.role, place.database if place.isolation is DATABASE else None}
    return {name: names - own for name, names in found.items() if name != "may connect"}


@pytest.mark.parametrize(
    ("kind", "to"),
    [pytest.param(ROW, SCHEMA, id="row to schema"), (SCHEMA, ROW), (ROW, DATABASE)],
)
async def test_a_mover_that_is_killed_behind_any_step_leaves_each_row_once_in_the_place_that_serves(
    pair: Two, tmp_path: Path, kind: Isolation, to: Isolation
) -> None:
    settings = pair.settings(tmp_path, OWN_PROJECTS)
    first = await pair.everything()
    name = await a_tenant(pair, settings, kind)
    expected: list[str] = []

    async def place() -> Placement:
        async with pair.world.main.connect() as conn:
            found = await look_up(conn, settings, name)
        assert found.status is TenantStatus.ACTIVE
        return found.placement

    async def check(text: str) -> None:
        """Each row is there once, in the place that serves; and one more, which that takes."""
        is_shared = (await place()).isolation is ROW
        async with Router(settings) as router:
            scope = router.tenant(name)
            assert [row["name"] for row in await scope.fetch("SELECT name FROM projects ORDER BY id")] == expected
            whose, value = (", tenant_id", f", '{name}'") if is_shared else ("", "")
            await scope.execute(f"INSERT INTO projects (name{whose}) VALUES ($1{value})", text)
        expected.append(text)
        async with pair.world.shared.connect() as shared:
            count = await shared.fetchval("SELECT count(*) FROM projects WHERE tenant_id = $1", name)
        assert count == (len(expected) if is_shared else 0), "rows are left in shared tables"

    async with killed_movers() as movers:
        await check("one")
        for state in STATES:
            before, old = await pair.everything(), await place()
            await movers.move(pair.mapping(tmp_path, OWN_PROJECTS), name, to, behind=state)
            async with pair.world.main.connect() as conn:
                await conn.execute("UPDATE tenantproxy.sagas SET seen_at = now() - interval '5 minutes'")
            async with Mover(settings).open() as mover:
                assert await mover.abort(name) is (state is not MoveState.SWITCHED)
            now = await place()
            assert now.isolation is (to if state is MoveState.SWITCHED else kind)
            assert besides(await pair.everything(), now) == besides(before, old), state
            await check(f"behind {state}")
    await remove(settings, name)
    assert await pair.everything() == first


async def test_a_tenant_is_not_moved_and_migrated_at_once(pair: Two, tmp_path: Path) -> None:
    settings, folder, seen = pair.settings(tmp_path, OWN_PROJECTS), tmp_path / "migrations", list[str | None]()
    folder.mkdir()
    (folder / "1_f.sql").write_text("CREATE FUNCTION added() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    rules = settings.migrations.model_copy(update={"folder": str(folder)})
    migrated = settings.model_copy(update={"migrations": rules})
    name = await a_tenant(pair, settings, SCHEMA)

    async def migrate(state: MoveState) -> None:
        if state is MoveState.HAS_TABLES:
            async with pair.world.main.connect() as conn:
                tenant = await look_up(conn, settings, name)
            migrator = Migrator(migrated)
            migrator.read()
            seen.extend(each.error for each in await migrator.run(targets_of(migrated, [tenant])))

    async with Mover(settings, told=migrate).open() as mover:
        await mover.move(name, MoveOptions(isolation=DATABASE, drop_old=True))
    assert seen == [f"the tenant {name} is being moved at this moment: run it again behind that"]
    async with pair.world.main.connect() as conn, running(conn, 1):
        with pytest.raises(MoveFailed, match="migrations run at this moment"):
            await moved(settings, name, isolation=SCHEMA)
    async with pair.world.main.connect() as conn:
        await conn.execute("DELETE FROM tenantproxy.migration_runs")
    await remove(settings, name)
