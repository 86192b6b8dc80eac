"""How does an operator bring all tenants to one version? The commands `migrate plan|run|status|rollback`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tenantproxy.cli.output import progress_bar
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connection, registered
from tenantproxy.lifecycle.migrate import Migrated, Migrator, SchemaPlace, all_targets, last_run

__all__ = ["has_failed", "plan", "roll_back", "run", "status"]


async def plan(settings: Settings, tenants: Sequence[str], to: str | None = None) -> list[dict[str, Any]]:
    """A row for each place: its version, and how many files it lacks. Changes nothing. `to` must be a version."""
    migrator, targets = await _prepared(settings, tenants)
    try:
        migrator.check(to)
        return [_row(outcome) for outcome in await migrator.look(targets)]
    finally:
        await migrator.close()


async def status(settings: Settings) -> dict[str, Any]:
    """The newest run, as the main database has it; of one that runs, how far it is."""
    async with admin_connection(settings, settings.main.server, settings.main.database) as conn:
        found = await last_run(conn)
    return found or {"state": "none yet"}


async def run(settings: Settings, tenants: Sequence[str], to: str | None) -> list[dict[str, Any]]:
    """Apply what is missing; a row for each place that was begun."""
    return await _told(settings, tenants, lambda migrator, targets: migrator.run(targets, to=to))


async def roll_back(settings: Settings, tenants: Sequence[str], to: str) -> list[dict[str, Any]]:
    """Take back what is above `to`; a row for each place that was begun."""
    return await _told(settings, tenants, lambda migrator, targets: migrator.roll_back(targets, to=to))


async def _told(settings: Settings, tenants: Sequence[str], work: Any) -> list[dict[str, Any]]:
    with progress_bar() as bar:
        task = bar.add_task("migrating", total=None)
        migrator, targets = await _prepared(settings, tenants, told=lambda outcome: bar.advance(task))
        bar.update(task, total=len(targets))
        try:
            outcomes = await work(migrator, targets)
        finally:
            await migrator.close()
    begun = {outcome.target for outcome in outcomes}
    left = [Migrated(target=each, version=None, error="not begun") for each in targets if each not in begun]
    return [_row(outcome) for outcome in [*outcomes, *left]]


async def _prepared(settings: Settings, tenants: Sequence[str], told: Any = None) -> tuple[Migrator, list[SchemaPlace]]:
    """Raises ConfigurationError for folders that cannot be read, and tenants that are not registered."""
    migrator = Migrator(settings, told=told)
    migrator.read()
    targets = all_targets(settings, await registered(settings))
    if unknown := sorted(set(tenants) - {name for target in targets for name in target.tenants}):
        fix = "tenantproxy tenants list shows those that are registered"
        raise ConfigurationError([Problem(key=f"--tenant {name}", problem="has no place", fix=fix) for name in unknown])
    return migrator, [each for each in targets if not tenants or set(tenants) & set(each.tenants)]


def _row(outcome: Migrated) -> dict[str, Any]:
    target = outcome.target
    return {
        "tenant": target.name,
        "server": target.server,
        "database": target.database,
        "schema": target.schema,
        "version": outcome.version,
        "applied": ", ".join(map(str, outcome.applied)),
        "left": outcome.left,
        "error": outcome.error,
    }


def has_failed(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether any place is not where it was to be."""
    return any(row["error"] for row in rows)
