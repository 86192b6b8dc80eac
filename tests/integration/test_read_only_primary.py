"""A primary that takes no writes any more: are its connections ended, and those of a tenant that only reads kept?

What the server answers when it is asked is misquoted on the way: PostgreSQL has no way to make a session read only that
does not end it, or that a pin does not undo.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import Isolation
from tests.support.chaos import Link, Way
from tests.support.checked import checked
from tests.support.hostile import LyingProxy
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.world import SERVER, World, a_world

WRITE = "CREATE TABLE t ()"
_DIVISION = b"SERROR\0VERROR\0C22012\0Mdivision by zero\0\0"
_READY = b"Z\0\0\0\x05I"


class ReadOnlyProxy(LyingProxy):
    """In front of a server that, when asked, says that it takes no writes."""

    is_read_only = False

    async def _pass(self, link: Link, chunk: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        if self.is_read_only and way is Way.TO_SERVER and b"transaction_read_only') = 'off'" in chunk:
            self.lie = b"E" + (len(_DIVISION) + 4).to_bytes(4, "big") + _DIVISION + _READY
        await super()._pass(link, chunk, writer, way)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


@pytest.mark.parametrize("kind", list(Isolation))
async def test_the_library_ends_a_connection_and_its_idle_siblings_when_the_primary_only_reads(
    lasting: World, kind: Isolation
) -> None:
    tenant = lasting.of(kind)[0]
    async with ReadOnlyProxy(lasting.server.host, lasting.server.port) as proxy:
        settings = lasting.settings(servers={SERVER: {"port": proxy.port}})
        async with checked(settings, lasting) as router:
            scope = router.tenant(tenant.id)
            async with scope.connection() as one, scope.connection() as two:
                before = {one.get_server_pid(), two.get_server_pid()}
            proxy.is_read_only = True
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with scope.transaction(readonly=True) as conn:
                    await conn.execute(WRITE)
            await until(lambda: router.stats().resets["failed"], "the connection is ended")
            proxy.is_read_only = False
            async with scope.connection() as one, scope.connection() as two:
                assert before.isdisjoint({one.get_server_pid(), two.get_server_pid()})


@pytest.mark.parametrize("kind", list(Isolation))
async def test_the_port_ends_a_backend_and_its_idle_siblings_when_the_primary_only_reads(
    lasting: World, kind: Isolation
) -> None:
    tenant = lasting.of(kind)[0]
    async with ReadOnlyProxy(lasting.server.host, lasting.server.port) as proxy:
        async with a_port(lasting, servers={SERVER: {"port": proxy.port}}) as house:
            async with house.a_client(tenant.id) as one, house.a_client(tenant.id) as two:
                await one.query("BEGIN")
                await two.query("SELECT 1")
                await one.query("COMMIT")
                before = {backend.pid for backend in house.lending.backends()}
                assert len(before) == 2
                proxy.is_read_only = True
                answer = await one.query(f"BEGIN READ ONLY; {WRITE}")
                assert answer.errors[0]["C"] == "25006"
                await one.query("ROLLBACK")
                await until(
                    lambda: before.isdisjoint(backend.pid for backend in house.lending.backends()), "both are ended"
                )
                proxy.is_read_only = False
                assert (await two.query("SELECT 1")).rows == [["1"]]


@pytest.mark.parametrize("kind", list(Isolation))
async def test_a_tenant_that_writes_where_it_only_reads_keeps_the_librarys_connections(
    lasting: World, kind: Isolation
) -> None:
    tenant = lasting.of(kind)[0]
    async with checked(lasting.settings(pools={"max_size": 1, "shared_size": 1}), lasting) as router:
        scope = router.tenant(tenant.id)
        pid = await scope.fetchval("SELECT pg_backend_pid()")
        for _ in range(2):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with scope.transaction(readonly=True) as conn:
                    await conn.execute(WRITE)
            async with scope.connection() as conn:
                await conn.execute("SET default_transaction_read_only = on")
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    await conn.fetch(f"DO $$ BEGIN EXECUTE '{WRITE}'; END $$")
            assert await scope.fetchval("SELECT pg_backend_pid()") == pid
        assert router.stats().resets["failed"] == 0


async def test_a_client_that_writes_where_it_only_reads_keeps_its_tenants_backends(lasting: World) -> None:
    async with a_port(lasting, pools={"max_size": 1, "shared_size": 1}) as house:
        for name in ("row1", "schema1", "database1"):
            async with house.a_client(name) as client:
                pid = (await client.query("SELECT pg_backend_pid()")).rows
                for _ in range(2):
                    assert (await client.query(f"BEGIN READ ONLY; {WRITE}")).errors[0]["C"] == "25006"
                    await client.query("ROLLBACK")
                    assert (await client.query("SELECT pg_backend_pid()")).rows == pid
        assert house.router.stats().resets["failed"] == 0
