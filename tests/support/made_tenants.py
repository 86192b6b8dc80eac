"""What does a tenant consist of that was made, in all places at once, and how is it removed by hand?"""

from __future__ import annotations

from tenantproxy.lifecycle.provision import Wanted
from tenantproxy.model import Isolation
from tests.support.world import World

__all__ = ["everything", "remove"]


async def everything(world: World, **in_shared: str) -> dict[str, set[str]]:
    """The names of all that tenants may consist of; sealed templates left out, which belong to none.

    `in_shared`: more queries by what they find, on the database of shared tables.
    """
    async with world.main.connect() as conn, world.shared.connect() as shared:
        queries = {
            "databases": (conn, "SELECT datname FROM pg_database WHERE NOT datistemplate"),
            "roles": (conn, "SELECT rolname FROM pg_roles"),
            "registered": (conn, "SELECT id FROM tenantproxy.tenants"),
            "unfinished": (conn, "SELECT tenant FROM tenantproxy.sagas WHERE state NOT IN ('active', 'cleaned')"),
            "stock": (conn, "SELECT mark FROM tenantproxy.stock"),
            "schemas": (shared, "SELECT nspname FROM pg_namespace"),
            "may connect": (conn, f"SELECT datacl::text FROM pg_database WHERE datname = '{world.shared.name}'"),
            **{name: (shared, query) for name, query in in_shared.items()},
        }
        return {name: {str(row[0]) for row in await on.fetch(query)} for name, (on, query) in queries.items()}


async def remove(world: World, want: Wanted) -> None:
    """What was made for an active tenant, apart from its rows, which no saga undoes."""
    async with world.main.connect() as conn, world.shared.connect() as shared:
        await conn.execute("DELETE FROM tenantproxy.tenants WHERE id = $1", want.id)
        if want.isolation is Isolation.DATABASE:
            await conn.execute(f'DROP DATABASE "{want.database}" WITH (FORCE)')
        if want.schema is not None:
            await shared.execute(f'DROP SCHEMA "{want.schema}" CASCADE')
            await shared.execute(f'REVOKE ALL ON DATABASE "{want.database}" FROM "{want.role}"')
        if want.role is not None:
            await conn.execute(f'DROP ROLE "{want.role}"')
