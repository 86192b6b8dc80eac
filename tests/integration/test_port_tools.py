"""Do the first statements of graphical tools answer on the port, for every kind of tenant, in both modes?

They are what pgAdmin 4 (its psycopg3/connection.py) and DBeaver (PostgreDataSource, PostgreDatabase, PostgreSchema) ask
when they connect and open their tree of objects; shortened, with the same functions and catalogues.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tests.support.port_house import a_port
from tests.support.wire_client import PASSWORD
from tests.support.world import World, a_world

PGADMIN_BEGINS: Final = (
    "SET DateStyle=ISO; SET client_min_messages=notice; SELECT set_config('bytea_output','hex',false)"
    " FROM pg_settings WHERE name = 'bytea_output'; SET client_encoding='utf-8';"
)
PGADMIN: Final = (
    "SELECT version()",
    "SELECT db.oid as did, db.datname, db.datallowconn, pg_encoding_to_char(db.encoding) AS serverencoding,"
    " has_database_privilege(db.oid, 'CREATE') as cancreate, datistemplate"
    " FROM pg_catalog.pg_database db WHERE db.datname = current_database()",
    "SELECT roles.oid as id, roles.rolname as name, roles.rolsuper as is_superuser,"
    " CASE WHEN roles.rolsuper THEN true ELSE roles.rolcreaterole END as can_create_role,"
    " CASE WHEN 'pg_signal_backend'=ANY(ARRAY(WITH RECURSIVE cte AS (SELECT pg_roles.oid, pg_roles.rolname"
    " FROM pg_roles WHERE pg_roles.oid = roles.oid UNION ALL SELECT m.roleid, pgr.rolname FROM cte cte_1"
    " JOIN pg_auth_members m ON m.member = cte_1.oid JOIN pg_roles pgr ON pgr.oid = m.roleid) SELECT rolname FROM cte))"
    " THEN True ELSE False END as can_signal_backend FROM pg_catalog.pg_roles as roles WHERE rolname = current_user",
    "SELECT nsp.oid, nsp.nspname as name, has_schema_privilege(nsp.oid, 'CREATE') as can_create,"
    " has_schema_privilege(nsp.oid, 'USAGE') as has_usage FROM pg_catalog.pg_namespace nsp"
    " WHERE nspname NOT LIKE 'pg\\_%' ORDER BY nspname",
    "SELECT rel.oid, rel.relname AS name, (SELECT count(*) FROM pg_catalog.pg_trigger WHERE tgrelid = rel.oid)"
    " AS triggers FROM pg_catalog.pg_class rel WHERE rel.relkind IN ('r','s','t','p') ORDER BY rel.relname LIMIT 100",
)
PGADMIN_IS_REFUSED: Final = (
    "SELECT gss_authenticated, encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_backend_pid()"
)
DBEAVER_BEGINS: Final = ("SET application_name = 'DBeaver - Main'", "SET extra_float_digits = 3")
DBEAVER: Final = (
    "SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate OR db.datname"
    " = current_database()",
    "select * from pg_catalog.pg_settings where name='standard_conforming_strings'",
    "select string_agg(word, ',') from pg_catalog.pg_get_keywords() where word <> ALL ('{a,abs}'::text[])",
    "SELECT version()",
    "SELECT current_schema(), session_user",
    "SHOW search_path",
    "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path'",
    "SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n LEFT OUTER JOIN pg_catalog.pg_description d"
    " ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass ORDER BY nspname",
    "SELECT t.oid,t.*,c.relkind,format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, d.description"
    " FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid=t.typrelid"
    " LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid=d.objoid WHERE t.typname IS NOT NULL"
    " ORDER BY t.oid LIMIT 50",
    "SELECT c.oid,c.*,d.description,pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr"
    " FROM pg_catalog.pg_class c LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0"
    " WHERE c.relkind not in ('i','I','c') AND c.relname = 'projects'",
    "SELECT a.oid,a.* FROM pg_catalog.pg_roles a ORDER BY a.oid",
    "SELECT am.oid,am.* FROM pg_catalog.pg_am am ORDER BY am.oid",
    "SELECT pg_catalog.pg_size_pretty(pg_catalog.pg_relation_size('projects'))",
)
SEATS: Final = [(tenant, user) for tenant in ("row1", "schema1", "database1") for user in ("all", "session")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


@pytest.mark.parametrize(("tenant", "user"), SEATS)
async def test_what_pgadmin_asks_first_is_answered(world: World, tenant: str, user: str) -> None:
    async with a_port(world) as house:
        conn = await psycopg.AsyncConnection.connect(
            host="127.0.0.1", port=house.number, user=user, password=PASSWORD, dbname=tenant, sslmode="disable",
            application_name="pgAdmin 4 - DB:" + tenant, autocommit=True,
        )  # fmt: skip
        async with conn:
            await conn.execute(PGADMIN_BEGINS)
            for sql in PGADMIN:
                assert await (await conn.execute(sql)).fetchall()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):  # which it takes for "no GSSAPI"
                await conn.execute(PGADMIN_IS_REFUSED)
            shown = await (await conn.execute("SELECT count(*) FROM projects")).fetchone()
            assert shown == (3,)


@pytest.mark.parametrize(("tenant", "user"), SEATS)
async def test_what_dbeaver_asks_first_is_answered(world: World, tenant: str, user: str) -> None:
    """Its driver prepares everything, as asyncpg does."""
    async with a_port(world) as house:
        login: dict[str, Any] = {"host": "127.0.0.1", "port": house.number, "user": user, "password": PASSWORD}
        conn = await asyncpg.connect(**login, database=tenant)
        try:
            for sql in DBEAVER_BEGINS:
                await conn.execute(sql)
            for sql in DBEAVER:
                assert await conn.fetch(sql), sql
            schema = await conn.fetchval("SELECT current_schema()")
            await conn.execute(f'SET search_path = "$user","{schema}"')
            assert await conn.fetchval("SELECT count(*) FROM projects") == 3
            assert await conn.fetchval("SHOW application_name") == "DBeaver - Main"
            await conn.execute("RESET search_path")  # what goes along with the client would stay on an idle backend
        finally:
            await conn.close()
