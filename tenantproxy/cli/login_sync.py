"""How does the login directory follow users tables? The commands `login watch` and `login sync`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.login_outbox import OutboxPlace, watch_place, watch_sql
from tenantproxy.lifecycle.login_sync import FAILURES, check_can_sync, places_of, sync_all
from tenantproxy.router import Router

__all__ = ["sync", "sync_on", "sync_with", "watch", "watching_sql"]


async def watch(settings: Settings, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Triggers and an outbox in each database of tenants; a row for each."""
    connect, rows = admin_connect(settings), list[dict[str, Any]]()
    for place in await places_of(settings):
        try:
            watch_sql(settings, place)
            if not dry_run:
                await watch_place(settings, place, connect)
            rows.append(_row(place, error=None))
        except ConfigurationError:
            raise
        except FAILURES as exc:
            rows.append(_row(place, error=said(exc)))
    return rows


async def watching_sql(settings: Settings) -> str:
    """The same as SQL for psql, each database with its name."""
    places = await places_of(settings)
    return "\n".join(f"-- {each.server}: {each.database}\n{watch_sql(settings, each)}" for each in places)


async def sync(settings: Settings, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Empty all outboxes into the directory once; a row for each database. With `dry_run`: `left` is what waits."""
    check_can_sync(settings)
    async with Router(settings) as router:
        return await sync_with(router, dry_run=dry_run)


async def sync_on(settings: Settings, *, every: float, told: Callable[[list[dict[str, Any]]], None]) -> None:
    """Again and again, with `every` seconds in between, until it is cancelled; `told` of each time."""
    check_can_sync(settings)
    async with Router(settings) as router:
        while True:
            told(await sync_with(router))
            await asyncio.sleep(every)


async def sync_with(router: Router, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """As `sync`, with a router that is open."""
    done = await sync_all(router, dry_run=dry_run)
    return [_row(each.place, rows=each.rows, left=each.left, error=each.error) for each in done]


def _row(place: OutboxPlace, **more: Any) -> dict[str, Any]:
    return {"server": place.server, "database": place.database, **more}
