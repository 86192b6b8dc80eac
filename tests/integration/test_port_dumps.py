"""Do PostgreSQL's own pg_dump and pg_restore take a tenant's data out of the port and put it back, and nothing else?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres, all_binaries
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import PASSWORD
from tests.support.world import World, a_world

ROWS: Final = "SELECT * FROM projects ORDER BY id"
# As docs/clients.md says: what a tenant of each kind dumps, and how it is put back.
DUMPS: Final = {
    "database1": ["-Fc"],
    "schema1": ["-Fc", "--schema=schema1"],
    "row1": [
        "-Fc", "--data-only", "--enable-row-security", "--inserts", "--table=projects", "--exclude-table-data=*_seq",
    ],
}  # fmt: skip
RESTORES: Final = {
    "database1": ["--data-only", "--single-transaction"],
    "schema1": ["--data-only", "--single-transaction"],
    "row1": ["--data-only", "--single-transaction", "--enable-row-security"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(each_postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """On the newest and the oldest PostgreSQL, each with programs of its own version."""
    async with a_world(each_postgres) as made:
        yield made


async def run(house: PortHouse, world: World, tenant: str, user: str, program: str, *arguments: str) -> str:
    """What a program of the server's version says, when all is well."""
    found = next(each for each in all_binaries() if each.version == world.server.version)
    given = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if found.libraries is not None:
        given["LD_LIBRARY_PATH"] = str(found.libraries)
    to = {"PGHOST": "127.0.0.1", "PGPORT": str(house.number), "PGUSER": user, "PGPASSWORD": PASSWORD}
    process = await asyncio.create_subprocess_exec(
        str(found.bin_dir / program), *arguments, env=given | to | {"PGDATABASE": tenant, "PGSSLMODE": "disable"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


@pytest.mark.parametrize("user", ["all", "session"])
@pytest.mark.parametrize("tenant", list(DUMPS))
async def test_a_tenants_data_is_dumped_and_restored(world: World, tmp_path: Path, tenant: str, user: str) -> None:
    dump = str(tmp_path / "dump")
    async with a_port(world) as house:
        async with house.a_client(tenant) as client:
            before = (await client.query(ROWS)).rows
            assert len(before) == 3
        await run(house, world, tenant, user, "pg_dump", *DUMPS[tenant], "-f", dump)
        shown = await run(house, world, tenant, user, "pg_restore", "--data-only", "-f", "-", dump)
        others = [other.id for other in world.tenants if other.id != tenant]
        assert not [other for other in others if f"{other} 1" in shown], "it is its own data alone"
        async with house.a_client(tenant) as client:
            assert (await client.query("DELETE FROM projects")).tags == ["DELETE 3"]
        await run(house, world, tenant, user, "pg_restore", *RESTORES[tenant], "-d", tenant, dump)
        async with house.a_client(tenant) as client:
            assert (await client.query(ROWS)).rows == before
            columns, values = ("tenant_id, name", f"'{tenant}', 'new'") if tenant == "row1" else ("name", "'new'")
            assert (await client.query(f"INSERT INTO projects ({columns}) VALUES ({values})")).errors == []
            assert (await client.query("DELETE FROM projects WHERE name = 'new'")).tags == ["DELETE 1"]


async def test_row_tenants_read_no_sequence_for_it_counts_the_rows_of_all(world: World) -> None:
    async with a_port(world) as house, house.a_client("row1") as client:
        answer = await client.query("SELECT last_value FROM projects_id_seq")
        assert answer.sqlstate == "42501"


@pytest.mark.parametrize("tenant", ["schema1", "database1"])
async def test_a_tenant_with_sequences_of_its_own_reads_those_to_come_too(world: World, tenant: str) -> None:
    owner = next(each for each in world.tenants if each.id == tenant)
    schema = owner.placement.schema or "public"
    async with world.database(owner).connect() as admin:
        await admin.execute(f"CREATE SEQUENCE {schema}.later")
    async with a_port(world) as house, house.a_client(tenant) as client:
        assert (await client.query("SELECT setval('later', 7)")).value == "7"
        assert (await client.query("SELECT last_value FROM later")).value == "7"
