"""A tenant whose role owns its schemas or its database, in a world of its own, with code that tells who ran it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.provision import Provisioner, Wanted, wanted
from tenantproxy.lifecycle.status import delete
from tenantproxy.model import Isolation, Tenant, TenantStatus
from tests.support.world import World, a_world

NAMES: Final = (f"o{number}" for number in itertools.count())
# Raises where the session could become a superuser's, which RESET ROLE or SET ROLE NONE would do.
CANARY: Final = """
CREATE FUNCTION {schema}.canary() RETURNS void LANGUAGE plpgsql AS $$BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user) THEN
    RAISE 'ran as %', session_user;
  END IF;
END$$;
CREATE FUNCTION {schema}.soft(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN PERFORM {schema}.canary(); RETURN $1; END';
CREATE FUNCTION {schema}.fires() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM {schema}.canary(); RETURN NEW; END';
CREATE FUNCTION {schema}.holds(text) RETURNS bool LANGUAGE plpgsql AS
  'BEGIN PERFORM {schema}.canary(); RETURN true; END';
CREATE FUNCTION {schema}.apart(int, int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN PERFORM {schema}.canary(); RETURN 1; END';
"""


@asynccontextmanager
async def own_world() -> AsyncIterator[World]:
    # A thing too many for one transaction is soon made.
    few = {"max_locks_per_transaction": "10", "max_prepared_transactions": "4"}
    async with EmbeddedPostgres(version=18, durable=False, max_connections=60, settings=few) as server:
        async with a_world(server, rows=1, schemas=1, databases=0) as world:
            yield world


def settings_of(house: World, folder: Path, **more: Any) -> Settings:
    backup = {"folder": str(folder / "saved"), **more.pop("backup", {})}
    provision = {"shared_database": house.shared.name, **more.pop("provision", {})}
    return house.settings(registry="postgres", backup=backup, provision=provision, **more)


@asynccontextmanager
async def an_owner(
    house: World, settings: Settings, kind: Isolation
) -> AsyncIterator[tuple[Wanted, Tenant, asyncpg.Connection]]:
    """A tenant whose role owns its schemas, or its database; a session of that role. It is gone behind the block."""
    name = next(NAMES)  # one that was deleted is not given again
    async with Provisioner(settings).open() as making:
        want = (await making.create(wanted(settings, name, isolation=kind))).wanted
    tenant = want.tenant(TenantStatus.ACTIVE)
    async with house.database(tenant).connect() as admin:
        if kind is Isolation.DATABASE:
            await admin.execute(f'ALTER DATABASE "{want.database}" OWNER TO "{want.role}"')
        else:
            for schema in (want.schema, *dict(want.systems).values()):
                await admin.execute(f'ALTER SCHEMA "{schema}" OWNER TO "{want.role}"')
    try:
        async with house.as_role_of(tenant) as conn:
            schema = want.schema or "public"
            await conn.execute(f"SET search_path = {schema}")
            await conn.execute(CANARY.format(schema=schema))
            yield want, tenant, conn
    finally:
        async with house.main.connect() as main:
            there = await main.fetchval("SELECT true FROM tenantproxy.tenants WHERE id = $1", name)
        if there:
            await delete(settings, name, grace_days=0, no_backup=True)
