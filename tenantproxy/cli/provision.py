"""How do tenants come and, half made, go? The commands `tenants create|unfinished|finish|abandon|stock`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from tenantproxy.cli.output import progress_bar
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.change_store import change_store
from tenantproxy.lifecycle.desk import finishing
from tenantproxy.lifecycle.provision import (
    LOCKED,
    FirstAdmin,
    Provisioner,
    Saga,
    SagaState,
    Wanted,
    first_admin,
    wanted,
)
from tenantproxy.model import Isolation

__all__ = ["CreateRequest", "abandon", "create", "fill_stock", "finish", "has_failed", "stock", "unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What was typed; None: as `[provision]` says. `admin`: the address of the first account, with its password."""

    tenants: tuple[str, ...]
    isolation: Isolation | None = None
    server: str | None = None
    tier: str = "standard"
    region: str | None = None
    domain: str | None = None
    key: str | None = None
    admin: str | None = None
    password: str | None = field(default=None, repr=False)


async def create(settings: Settings, request: CreateRequest, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """A row for each tenant that was asked for, with its error where it could not be made; nothing for `dry_run`.

    Raises ConfigurationError with all that forbids any of them, before any is begun.
    """
    asked = [_wanted(settings, request, each) for each in dict.fromkeys(request.tenants)]
    if dry_run:
        return [_row(each, "would_create") for each in asked]
    async with _provisioner(settings) as making:
        admin = await _admin(request)
        return await _each(settings, asked, lambda each: making.create(each, key=request.key, admin=admin))


async def _admin(request: CreateRequest) -> FirstAdmin | None:
    if request.admin is None:
        return None
    if request.password is None:
        return first_admin(request.admin, LOCKED)
    from tenantproxy.auth.passwords import Passwords

    passwords = Passwords(threads=1)
    try:
        return first_admin(request.admin, await passwords.hash(request.password))
    except ValueError as exc:
        problem, fix = str(exc), "choose another one"
        raise ConfigurationError([Problem(key="the password", problem=problem, fix=fix)]) from None
    finally:
        passwords.close()


async def stock(settings: Settings) -> list[dict[str, Any]]:
    """A row for each server: how many databases are ready, being made, and to be removed; `wanted` by `[provision]`."""
    async with _provisioner(settings) as making:
        found = {each.server: each for each in await making.stocked()}
    here = settings.provision.server or settings.main.server
    rows = []
    for server in dict.fromkeys([here, *found]):
        each, most = found.get(server), settings.provision.stock if server == here else 0
        counts = (0, 0, 0) if each is None else (each.ready, each.making, each.going)
        rows.append({"server": server, "wanted": most, **dict(zip(("ready", "making", "going"), counts, strict=True))})
    return rows


async def fill_stock(settings: Settings) -> list[dict[str, Any]]:
    """Make what is missing, and remove what no tenant can take; the rows of `stock` behind it."""
    async with _provisioner(settings) as making:
        with progress_bar() as bar:
            task = bar.add_task("databases", total=settings.provision.stock)
            await making.fill_stock(told=lambda: bar.advance(task))
    return await stock(settings)


def _wanted(settings: Settings, request: CreateRequest, tenant: str) -> Wanted:
    return wanted(
        settings, tenant, isolation=request.isolation, server=request.server, tier=request.tier, region=request.region,
        domain=request.domain,
    )  # fmt: skip


async def unfinished(settings: Settings) -> list[dict[str, Any]]:
    """A row for each tenant that is being made, moved or removed, or where that was interrupted."""
    async with _provisioner(settings) as making:
        rows = [_row(saga.wanted, saga.state, saga.error) for saga in await making.store.unfinished()]
    main = settings.main
    async with admin_connection(settings, main.server, main.database) as conn, change_store(conn) as store:
        changes = [change for kind in ("archive", "delete", "move") for change in await store.unfinished(kind)]
    return rows + [_row(change.wanted, f"{change.kind}: {change.state}", change.error) for change in changes]


async def finish(settings: Settings, tenants: Sequence[str], *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Go on with these, or with all that are unfinished; a row for each."""
    async with finishing(settings) as making:
        sagas = await _named(making, tenants)
        if dry_run:
            return [_row(saga.wanted, "would_finish") for saga in sagas]
        return await _each(settings, sagas, making.finish)


async def abandon(settings: Settings, tenants: Sequence[str], *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Undo what was made for these; a row for each."""
    async with finishing(settings) as making:
        sagas = await _named(making, tenants)
        if dry_run:
            return [_row(saga.wanted, "would_abandon") for saga in sagas]
        return await _each(settings, sagas, making.abandon)


def _provisioner(settings: Settings) -> AbstractAsyncContextManager[Provisioner]:
    return Provisioner(settings).open()


async def _named(making: Provisioner, tenants: Sequence[str]) -> list[Saga]:
    sagas = await making.store.unfinished()
    if not tenants:
        return sagas
    unknown = sorted(set(tenants) - {saga.wanted.id for saga in sagas})
    if unknown:
        fix = "tenantproxy tenants unfinished lists those that are"
        raise ConfigurationError(
            [Problem(key=f"tenant {name}", problem="is not being made", fix=fix) for name in unknown]
        )
    return [saga for saga in sagas if saga.wanted.id in tenants]


async def _each(
    settings: Settings, items: Sequence[Any], work: Callable[[Any], Awaitable[Saga]]
) -> list[dict[str, Any]]:
    """`work` on all of them, some at once; the failure of one is its row."""
    places = asyncio.Semaphore(settings.provision.parallel)

    async def one(item: Any) -> dict[str, Any]:
        want = item if isinstance(item, Wanted) else item.wanted
        async with places:
            try:
                saga = await work(item)
            except TenantProxyError as exc:
                left = getattr(exc, "saga", None)
                return _row(want, left.state if left is not None else "refused", str(exc))
            finally:
                bar.advance(task)
            return _row(saga.wanted, saga.state)

    with progress_bar() as bar:
        task = bar.add_task("tenants", total=len(items))
        return list(await asyncio.gather(*(one(item) for item in items)))


def _row(want: Wanted, state: str, error: str | None = None) -> dict[str, Any]:
    return {
        "tenant": want.id,
        "state": str(state),
        "isolation": str(want.isolation),
        "server": want.server,
        "database": want.database,
        "schema": want.schema,
        "role": want.role,
        "error": error,
    }


def has_failed(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether any of them did not become what was asked for."""
    good = (SagaState.ACTIVE, SagaState.CLEANED)
    return any(row["error"] or not (row["state"] in good or row["state"].startswith("would_")) for row in rows)
