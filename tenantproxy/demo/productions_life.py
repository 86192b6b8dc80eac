"""What becomes of Productions behind its first day: plans, the next file, backups, an organization that goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from tenantproxy.demo.productions_stage import bearer
from tenantproxy.demo.stage import Seen, eventually
from tenantproxy.demo.system_stage import SystemStage, seen
from tenantproxy.demo.tour import SystemStep

__all__ = ["LIFE"]

_DEFINERS: Final = ("public.accounts()", "public.workspace_totals()")
_LATER: Final = """
CREATE TABLE tours (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}',
    UNIQUE (workspace_id, id)
);
CALL platform.entity('tours');
"""


async def plans(stage: SystemStage) -> AsyncIterator[Seen]:
    """The policy that goes through the workspace costs an index scan, also among many rows of others."""
    first, second = stage.kept["organizations"][:2]
    await stage.watch.execute(
        "INSERT INTO workspaces (id, organization_id, name, slug)"
        " SELECT md5(n::text)::uuid, $1::text::uuid, 'Branch', 'branch-' || n FROM generate_series(1, 100) n",
        second,
    )  # fmt: skip
    await stage.watch.execute(
        "INSERT INTO resources (workspace_id, name, created_by)"
        " SELECT md5(n::text)::uuid, 'Guide ' || m, NULL FROM generate_series(1, 100) n, generate_series(1, 50) m"
    )
    await stage.watch.execute("ANALYZE resources, workspaces")
    async with stage.router.tenant(first).transaction() as conn:
        plan = [row[0] for row in await conn.fetch("EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM resources")]
    served = any("Index Cond" in line and "workspace_id = ANY" in line for line in plan)
    yield seen("SELECT * FROM resources, 5000 of another organization's: a condition of the index", "True", served)
    await stage.watch.execute("DELETE FROM workspaces WHERE name = 'Branch'")


async def migration(stage: SystemStage) -> AsyncIterator[Seen]:
    """The next file: its table is isolated in its transaction, through its workspace."""
    (stage.world.config.parent / "migrations" / "014_tours.sql").write_text(_LATER)
    yield await stage.command("migrate run", "14", lambda rows: rows[0]["version"])
    policy = await stage.watch.fetchval(
        "SELECT count(*) FROM pg_policies WHERE tablename = 'tours' AND policyname = 'tenantproxy'"
    )
    yield seen("the new table's policy", "1", policy)


async def saving(stage: SystemStage) -> AsyncIterator[Seen]:
    """All are saved and tried; one is deleted, and comes back under another identifier."""
    number = stage.size + 1
    yield await stage.command("backup create --all", f"saved: {number}", _states)
    yield await stage.command("backup verify", str(number), lambda rows: sum(bool(row["verified_at"]) for row in rows))
    last, neighbour = stage.kept["organizations"][-1], stage.kept["organizations"][0]
    before = await stage.count(_OF, last)
    yield await stage.command(f"tenants delete {last} --grace 0", "deleted", _state)
    yield seen("rows of its workspaces that are left", "0", await stage.count(_OF, last))
    token = stage.kept["tokens"][last]
    status = 0

    async def refused() -> bool:
        nonlocal status
        status, _ = await stage.ask("GET", "/api/productions", **bearer(token))
        return status == 401

    await eventually(refused)
    yield seen("with the token that it had", "401", status)
    again = stage.kept["again"] = "0b5e55ed-0000-4000-8000-000000000001"
    yield await stage.command(f"backup restore {last} --as {again}", "restored", _state)
    yield seen("its rows", str(before), await stage.count(_OF, again))
    status, _ = await stage.ask("GET", "/api/productions", **bearer(stage.kept["tokens"][neighbour]))
    yield seen("another organization meanwhile", "200", status)


async def verdict(stage: SystemStage) -> AsyncIterator[Seen]:
    """Does isolation hold, as the catalogues say it and as an attacker finds it?"""
    first, second = stage.kept["organizations"][0], stage.kept["again"]
    known = " ".join(f"--ignore 'TPD071:{each}'" for each in _DEFINERS)  # looked at: docs/productions.md
    yield await stage.command(f"doctor {known}", "exit 0")
    yield await stage.command(f"prove --door library --tenants {first},{second} --timeout 300", "exit 0")


_OF: Final = """
WITH of AS (SELECT id FROM workspaces WHERE organization_id = $1::text::uuid)
SELECT (SELECT count(*) FROM project_tasks WHERE workspace_id IN (SELECT id FROM of))
     + (SELECT count(*) FROM activities WHERE workspace_id IN (SELECT id FROM of))
     + (SELECT count(*) FROM organizations WHERE id = $1::text::uuid)"""


def _states(rows: Sequence[Mapping[str, Any]]) -> str:
    states = sorted({str(row["state"]) for row in rows})
    return f"{', '.join(states)}: {len(rows)}"


def _state(row: Any) -> object:
    return (row[0] if isinstance(row, list) else row)["state"]


LIFE: Final[Sequence[SystemStep[SystemStage]]] = (plans, migration, saving, verdict)
