"""Is an ordinary database, which knew no tenants before, clean after `install` and the SQL of the findings?"""

from __future__ import annotations

from typing import Any

from tenantproxy.cli.install import Request, run_install
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.doctor import AuditReport, examine
from tests.support.database import Database

TABLES = """
CREATE TABLE customers (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, email text UNIQUE);
CREATE TABLE orders (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, customer bigint REFERENCES customers);
CREATE TABLE countries (code text PRIMARY KEY);
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app
"""
TENANT = "00000000-0000-0000-0000-000000000001"


def mapping(server: EmbeddedPostgres) -> dict[str, Any]:
    admin = {"user": server.superuser, "password": server.password}
    here = {"host": server.host, "port": server.port, "user": "app", "password": "app", "ssl": "disable"}
    return {
        "main": {"server": "primary", "database": "shop"},
        "servers": {"primary": here | {"max_connections": 50, "admin": admin}},
        "registry": {"source": "file"},
        "row": {"key": "k" * 40},
        "tenants": {TENANT: {"isolation": "row", "database": "shop"}},
    }


def codes(report: AuditReport) -> list[str]:
    return sorted(each.code for each in report.findings)


async def run(database: Database, *statements: str) -> None:
    async with database.connect() as conn:
        for statement in statements:
            await conn.execute(statement)


async def test_an_ordinary_database_is_clean_after_install_and_its_sql(
    own_postgres: EmbeddedPostgres,
) -> None:
    maintenance, shop = (Database(server=own_postgres, name=name) for name in ("postgres", "shop"))
    await run(maintenance, "CREATE DATABASE shop", "CREATE ROLE app LOGIN PASSWORD 'app'")
    await run(shop, TABLES)
    settings = Settings.from_mapping(mapping(own_postgres))
    before = codes(await examine(settings))
    open_to_all = ["TPD051", "TPD060", "TPD060", "TPD064", "TPD081", "TPD081", "TPD088"]
    assert before == [*open_to_all, "TPD098", "TPD099", "TPD099", "TPD100", "TPD101", "TPD101", "TPD111"]
    await run_install(settings, Request(all_with=("tenant_id",)))
    report = await examine(settings)
    assert codes(report) == ["TPD051", "TPD060", "TPD060", "TPD088", "TPD098", "TPD099", "TPD099", "TPD100"]
    for finding in report.findings:
        await run(shop, *finding.sql)
    report = await examine(settings)
    assert codes(report) == ["TPD099"]  # referenced by a foreign key until its SQL had run
    assert report.exit_code == 0
    await run(shop, *report.findings[0].sql)
    assert codes(await examine(settings)) == []
    async with shop.connect("app", "app") as conn:  # PUBLIC alone had let it in
        assert await conn.fetchval("SELECT current_user") == "app"


async def test_row_tenants_in_the_main_database_reach_the_routers_own_table(own_postgres: EmbeddedPostgres) -> None:
    maintenance, shop = (Database(server=own_postgres, name=name) for name in ("postgres", "shop"))
    await run(maintenance, "CREATE DATABASE shop", "CREATE ROLE app LOGIN PASSWORD 'app'")
    given = mapping(own_postgres) | {"registry": {"source": "postgres"}}
    del given["tenants"]
    settings = Settings.from_mapping(given)
    assert codes(await examine(settings)) == ["TPD004", "TPD051", "TPD060", "TPD060"]
    await run_install(settings, Request(databases=("shop",)))
    await run(shop, f"INSERT INTO tenantproxy.tenants (id, isolation, server, database)"
              f" VALUES ('{TENANT}', 'row', 'primary', 'shop')")  # fmt: skip
    await run(
        shop, "INSERT INTO tenantproxy.tenants (id, isolation, server, database) VALUES ('x', 'row', 'y', 'shop')"
    )
    found = {each.code: each for each in (await examine(settings)).findings}
    assert found["TPD005"].object == "x"
    assert found["TPD104"].what == "tenantproxy.tenants is the router's own, and the role app reaches it."


KEYS = """
ALTER TABLE orders ADD twin bigint, ADD pair bigint;
ALTER TABLE customers ADD pair bigint, ADD CONSTRAINT pairs UNIQUE (tenant_id, id, pair), ADD UNIQUE (id, pair);
ALTER TABLE orders DROP CONSTRAINT orders_customer_fkey,
  ADD CONSTRAINT emptied FOREIGN KEY (customer) REFERENCES customers ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
  ADD CONSTRAINT defaulted FOREIGN KEY (twin) REFERENCES customers ON DELETE SET DEFAULT ON UPDATE CASCADE,
  ADD CONSTRAINT partly FOREIGN KEY (twin, pair) REFERENCES customers (id, pair) ON DELETE SET NULL (pair) NOT VALID,
  ADD CONSTRAINT full_match FOREIGN KEY (twin, pair) REFERENCES customers (id, pair) MATCH FULL;
"""
KEPT = {
    "emptied": "(tenant_id, customer) REFERENCES customers(tenant_id, id) ON DELETE SET NULL (customer)"
    " DEFERRABLE INITIALLY DEFERRED",
    "defaulted": "(tenant_id, twin) REFERENCES customers(tenant_id, id) ON UPDATE CASCADE ON DELETE SET DEFAULT (twin)",
    "partly": "(tenant_id, twin, pair) REFERENCES customers(tenant_id, id, pair) ON DELETE SET NULL (pair) NOT VALID",
    "full_match": "(twin, pair) REFERENCES customers(id, pair) MATCH FULL",
}


async def test_a_foreign_key_that_gets_the_tenant_keeps_its_actions(own_postgres: EmbeddedPostgres) -> None:
    maintenance, shop = (Database(server=own_postgres, name=name) for name in ("postgres", "shop"))
    await run(maintenance, "CREATE DATABASE shop", "CREATE ROLE app LOGIN PASSWORD 'app'")
    await run(shop, TABLES, KEYS)
    settings = Settings.from_mapping(mapping(own_postgres))
    await run_install(settings, Request(all_with=("tenant_id",)))
    for finding in (await examine(settings)).findings:
        if finding.code == "TPD100":
            await run(shop, *finding.sql)
    async with shop.connect() as conn:
        rows = await conn.fetch(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conname = ANY ($1)",
            list(KEPT),
        )
        assert {name: text.removeprefix("FOREIGN KEY ") for name, text in rows} == KEPT
        one = await conn.fetchval("INSERT INTO customers (tenant_id) VALUES ($1) RETURNING id", TENANT)
        await conn.execute("INSERT INTO orders (tenant_id, customer) VALUES ($1, $2)", TENANT, one)
        await conn.execute("DELETE FROM customers")
        assert [tuple(row) for row in await conn.fetch("SELECT tenant_id::text, customer FROM orders")] == [
            (TENANT, None)
        ]
