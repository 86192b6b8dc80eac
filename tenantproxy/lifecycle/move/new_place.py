"""How is the new place of a move made, opened to its tenant, and removed where the move fails?"""

from __future__ import annotations

from contextlib import AsyncExitStack

import asyncpg

from tenantproxy.lifecycle.change_store import TenantChange
from tenantproxy.lifecycle.move import replicate, rights, structure, tables
from tenantproxy.lifecycle.move.state import MoveState
from tenantproxy.lifecycle.move.tools import MAINTENANCE, MoveTools
from tenantproxy.lifecycle.owned import OwnedPlace
from tenantproxy.lifecycle.provision import places
from tenantproxy.lifecycle.provision.wanted import Wanted, temporary_name
from tenantproxy.lifecycle.provisioner import (
    change_grants,
    close_database,
    close_functions,
    close_public,
    ensure_schema,
    grant_access,
)
from tenantproxy.lifecycle.readers import grant_reading
from tenantproxy.lifecycle.status.erase import erase_rows
from tenantproxy.lifecycle.tenant_roles import schemas_of_tenants
from tenantproxy.model import Isolation, Placement, TenantStatus, quote_identifier

__all__ = ["drop_owned", "finish_place", "make_place", "open_place", "remove_place", "slot_of"]


def slot_of(new: Wanted) -> str:
    """The name of publication, subscription and slot: no other move has it."""
    return f"tenantproxy_move_{new.mark[:16]}"


async def make_place(tools: MoveTools, change: TenantChange) -> TenantChange:
    """Its role and its database or schema, empty and closed to all others; the saga knows their identifiers."""
    new, roles, store = change.wanted, tools.settings.tenant_roles, tools.store
    if new.isolation is Isolation.ROW:
        return change
    async with tools.opened(new.server, MAINTENANCE) as conn:
        await places.make_roles(conn, new, roles)
        if new.isolation is Isolation.DATABASE:
            made = await places.make_database(conn, temporary_name(new.mark), None)
            change = await store.move(change, MoveState.REQUESTED, database=made)
            await places.name_database(conn, new, made)
            await close_database(conn, new.database, roles=[role_of(tools, new)])
    async with tools.opened(new.server, new.database) as conn:
        if new.isolation is Isolation.SCHEMA:
            assert new.schema is not None
            made = await places.make_schema(conn, new, new.schema, None)
            change = await store.move(change, MoveState.REQUESTED, schema=made)
        await close_functions(conn)
    return change


def role_of(tools: MoveTools, new: Wanted) -> str:
    """As whom the tenant's SQL runs there."""
    return new.role or tools.settings.servers[new.server].user


async def open_place(tools: MoveTools, target: asyncpg.Connection, new: Wanted) -> None:
    """The tenant's role may come in, and no other."""
    role = role_of(tools, new)
    if new.isolation is Isolation.ROW:
        async with tools.store.turn:  # it may have been fenced when it left these tables before
            await tools.door.open(tools.main, new.tenant(TenantStatus.ACTIVE))
        return
    if new.schema is None:
        await close_public(target, role=role)
        return
    await ensure_schema(target, new.schema, role=role)
    grant = f"GRANT CONNECT ON DATABASE {quote_identifier(new.database)} TO {quote_identifier(role)}"
    await change_grants(target, grant)


async def finish_place(
    tools: MoveTools, source: asyncpg.Connection, target: asyncpg.Connection, new: Wanted, *, former: Placement,
    is_renamed: bool,
) -> None:  # fmt: skip
    """Its schema has its name, its role the rights that provisioning gives, and its journal what was applied.

    `is_renamed`: its rows came into a schema that is called as in the `former` place.
    """
    role, schemas = role_of(tools, new), [new.schema or "public"]
    if is_renamed:
        assert former.schema is not None
        await structure.rename_schema(target, former.schema, "public")
        await open_place(tools, target, new)
    elif new.isolation is Isolation.DATABASE:
        schemas = await tables.schemas_of(target, None)
    for schema in schemas:
        await target.execute(f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {quote_identifier(role)}")
        await grant_access(target, schema, role=role)
    await _close_again(tools, source, target, new, former, role)
    if tools.settings.has_readers:
        await grant_reading(target, role)
    if former.isolation is not Isolation.ROW:  # else its own migrations ran at the new place
        await structure.copy_journal(
            source, target, old=former.schema or "public", new=new.schema or "public", is_own=new.schema is None
        )


async def _close_again(
    tools: MoveTools, source: asyncpg.Connection, target: asyncpg.Connection, new: Wanted, former: Placement, role: str
) -> None:
    if former.isolation is Isolation.ROW:
        return
    schemas = {former.schema or "public": new.schema or "public"}
    if former.schema is None and new.schema is None:
        schemas = {each: each for each in await tables.schemas_of(source, None)}
    old_role = former.role or tools.settings.servers[former.server].user
    await rights.close_again(source, target, schemas, old_role=old_role, role=role)


async def remove_place(tools: MoveTools, change: TenantChange, old: Placement) -> None:
    """Nothing of the new place is left, whatever of it was made; another one of its name is left alone."""
    new = change.wanted
    if new.isolation is Isolation.ROW:
        await erase_shared(tools, new)
        return
    if change.notes.get("follows"):
        async with tools.opened(old.server, old.database) as source, AsyncExitStack() as stack:
            async with tools.opened(new.server, MAINTENANCE) as conn:
                is_there = await conn.fetchval("SELECT true FROM pg_database WHERE oid = $1", change.database)
            target = await stack.enter_async_context(tools.opened(new.server, new.database)) if is_there else None
            await replicate.end_following(source, target, slot_of(new))
    place = OwnedPlace(wanted=new, database=change.database, schema=change.schema, is_proven=True)
    async with tools.opened(new.server, MAINTENANCE) as conn:
        connect = tools.connecting(new.server)
        await places.drop_database(conn, temporary_name(new.mark), None, connect=connect)  # structure was renamed there
    await drop_owned(tools, place)


async def drop_owned(tools: MoveTools, owned: OwnedPlace) -> None:
    """Drop a place that was made by us, with its role; nothing where that is not proven."""
    place = owned.wanted
    if place.isolation is Isolation.ROW:
        await erase_shared(tools, place)
        return
    if not owned.is_proven:
        return
    if place.isolation is Isolation.SCHEMA:
        async with tools.opened(place.server, place.database) as conn:
            await places.drop_schemas(conn, place, owned.schema)
    async with tools.opened(place.server, MAINTENANCE) as conn:
        connect = tools.connecting(place.server)
        if place.isolation is Isolation.DATABASE:
            temporary = temporary_name(place.mark)
            await places.drop_database(conn, temporary, owned.database, connect=connect, final=place.database)
        await places.drop_role(conn, place, connect)


async def erase_shared(tools: MoveTools, place: Wanted) -> None:
    """Delete the tenant's rows from shared tables."""
    async with tools.opened(place.server, place.database) as conn:
        default = tools.settings.main.server
        async with tools.store.turn:
            schemas = await schemas_of_tenants(
                tools.main, default=default, server=place.server, database=place.database
            )
        roles = await tools.roles_of_tenants(conn, place.server)
        await erase_rows(
            conn, place.id, tools.settings.migrations.column, own_schemas=schemas, own_roles=roles
        )  # fmt: skip
