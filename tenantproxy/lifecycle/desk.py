"""How does a program make, change and remove tenants? `router.lifecycle`: what commands and requests do too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle import doctor, gdpr, status
from tenantproxy.lifecycle.access import admin_connect, admin_connection, registered, registry_of
from tenantproxy.lifecycle.backup import (
    BackupContent,
    BackupOutcome,
    Restored,
    SaveRequest,
    StoredBackup,
    TriedBackup,
    backup_tenant,
    find_backup,
    list_backups,
    plan_restore,
    prune_backups,
    restore_backup,
    save_all,
    verify_all,
    verify_backup,
)
from tenantproxy.lifecycle.backup.store import folder_of
from tenantproxy.lifecycle.doctor import AuditReport
from tenantproxy.lifecycle.doctor.repair import DoctorRepair, repair
from tenantproxy.lifecycle.gdpr import Person, TenantErased
from tenantproxy.lifecycle.migrate import Migrated, Migrator, SchemaPlace, all_targets, last_run
from tenantproxy.lifecycle.move import MOVE_STEPS, Moved, MoveOptions, Mover
from tenantproxy.lifecycle.operations.progress import Progress, silent
from tenantproxy.lifecycle.prove import IsolationProof, Options, prove, signed_report
from tenantproxy.lifecycle.provision import FirstAdmin, Provisioner, Saga, Wanted, wanted
from tenantproxy.lifecycle.status import FolderBackups, Removed, StatusChanged
from tenantproxy.model import Isolation, Tenant, TenantStatus, tenant_id

__all__ = ["Lifecycle", "StatusChange", "finishing"]

StatusChange = Literal["suspend", "resume", "archive", "undelete"]


@asynccontextmanager
async def finishing(settings: Settings) -> AsyncIterator[Provisioner]:
    """One that can finish and abandon tenants that are being restored too."""
    content = BackupContent(settings, admin_connect(settings))
    try:
        async with Provisioner(settings, content=content).open() as making:
            yield making
    finally:
        await content.close()


class Lifecycle:
    """The life of tenants, with the admin credentials of each server (`[servers.X.admin]`); no state of its own.

    Each call connects and disconnects, apart from all pools and budgets. All raise ConfigurationError, before anything
    is changed, where credentials, our own tables or a section of the configuration are missing. What was cancelled, or
    ended with its process, is gone on with by the same call made again.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        """`settings`: as they are at each call, for they can be reloaded."""
        self._now = settings

    # --- coming ------------------------------------------------------------------------------------------------------
    def wanted(
        self, tenant: str, *, isolation: Isolation | str | None = None, server: str | None = None,
        tier: str = "standard", region: str | None = None, domain: str | None = None,
    ) -> Wanted:  # fmt: skip
        """What `create` would make: its kind, place and names. None: as `[provision]` says. Nothing is connected to."""
        kind = Isolation(isolation) if isolation is not None else None
        return wanted(self._now(), tenant, isolation=kind, server=server, tier=tier, region=region, domain=domain)

    async def create(self, want: Wanted, *, key: str | None = None, admin: FirstAdmin | None = None) -> Saga:
        """Make a tenant: its role, place, schema, entries, proven. With a `key` of before: that one, gone on with.

        Raises ProvisioningFailed (`.saga` says what is left), SagaHeld (another process is at it).
        """
        async with Provisioner(self._now()).open() as making:
            return await making.create(want, key=key, admin=admin)

    async def unfinished(self) -> list[Saga]:
        """Those that are being made, or whose making was interrupted."""
        async with Provisioner(self._now()).open() as making:
            return await making.store.unfinished()

    async def finish(self, tenant: str) -> Saga:
        """Go on with one whose making was interrupted. Raises as `create`."""
        async with finishing(self._now()) as making:
            return await making.finish(await _of(making, tenant))

    async def abandon(self, tenant: str) -> Saga:
        """Undo the making of one that was never active. Raises as `create`."""
        async with finishing(self._now()) as making:
            return await making.abandon(await _of(making, tenant))

    # --- changing ----------------------------------------------------------------------------------------------------
    async def migration_plan(self, tenants: Sequence[str] = ()) -> list[Migrated]:
        """Where each place is, and how many files it lacks; of these tenants, or of all. Changes nothing."""
        async with self._migrating(tenants, silent) as (migrator, targets):
            return await migrator.look(targets)

    async def migrate(
        self, tenants: Sequence[str] = (), *, to: str | None = None, progress: Progress = silent
    ) -> list[Migrated]:
        """Apply what is missing, canaries first; a value for each place that was begun. Raises MigrationsRunning."""
        async with self._migrating(tenants, progress) as (migrator, targets):
            return await migrator.run(targets, to=to)

    async def roll_back(
        self, to: str, tenants: Sequence[str] = (), *, progress: Progress = silent
    ) -> list[Migrated]:  # fmt: skip
        """Take back what is above version `to`, the last first. Raises as `migrate`."""
        async with self._migrating(tenants, progress) as (migrator, targets):
            return await migrator.roll_back(targets, to=to)

    async def migration_status(self) -> dict[str, object] | None:
        """The newest run, and how far it is; None: there was none."""
        settings = self._now()
        async with admin_connection(settings, settings.main.server, settings.main.database) as conn:
            return await last_run(conn)

    @asynccontextmanager
    async def _migrating(
        self, tenants: Sequence[str], progress: Progress
    ) -> AsyncIterator[tuple[Migrator, list[SchemaPlace]]]:
        settings, done = self._now(), 0
        targets: list[SchemaPlace] = []

        def told(outcome: Migrated) -> None:
            nonlocal done
            done += 1
            progress(done, len(targets), outcome.target.name)

        migrator = Migrator(settings, told=told)
        try:
            await asyncio.to_thread(migrator.read)  # it may wait for a project's own process
            places = all_targets(settings, await registered(settings))
            if unknown := sorted(set(tenants) - {name for place in places for name in place.tenants}):
                fix = "tenantproxy tenants list shows those that are registered"
                raise ConfigurationError(
                    [Problem(key=f"tenant {name}", problem="has no place", fix=fix) for name in unknown]
                )
            targets += [each for each in places if not tenants or set(tenants) & set(each.tenants)]
            progress(0, len(targets), "migrating")
            yield migrator, targets
        finally:
            await migrator.close()

    async def suspend(self, tenant: str) -> StatusChanged:
        """Refuse it everywhere within a second. Raises TenantNotFound."""
        return await status.suspend(self._now(), tenant)

    async def resume(self, tenant: str) -> StatusChanged:
        """Serve it again. Raises TenantNotFound."""
        return await status.resume(self._now(), tenant)

    async def would(self, tenant: str, change: StatusChange) -> TenantStatus:
        """The status that it has now, where it could be changed so; nothing is done. Raises as the change itself."""
        return await status.would(self._now(), tenant, change)

    async def move_plan(self, tenant: str, options: MoveOptions) -> Wanted:
        """Where `move` would bring it. Raises ConfigurationError with all that forbids it; nothing is changed."""
        async with Mover(self._now()).open() as mover:
            return await mover.plan(tenant, options)

    async def move(self, tenant: str, options: MoveOptions, *, progress: Progress = silent) -> Moved:
        """Bring it to another server or kind of place while it is served. Raises MoveFailed, ChangeHeld."""
        steps = len(MOVE_STEPS)

        async with Mover(
            self._now(), told=lambda state: progress(MOVE_STEPS.get(state, 0), steps, state.value)
        ).open() as mover:
            return await mover.move(tenant, options)

    async def abort_move(self, tenant: str) -> bool:
        """Undo a move that was interrupted; False: there was none. Raises ChangeHeld."""
        async with Mover(self._now()).open() as mover:
            return await mover.abort(tenant)

    # --- backups -----------------------------------------------------------------------------------------------------
    async def back_up(self, tenant: str) -> StoredBackup:
        """Save it into `[backup] folder`. Raises BackupFailed; nothing is left of it then."""
        settings = self._now()
        return await backup_tenant(settings, await _registered_one(settings, tenant))

    async def back_up_all(
        self, request: SaveRequest | None = None, *, key: str | None = None, dry_run: bool = False,
        progress: Progress = silent,
    ) -> list[BackupOutcome]:  # fmt: skip
        """Save the main database and all tenants, or those of `request`; what became of each, or whom it would save.

        With a `key` of before it goes on with that run: what is whole is not saved again. Raises BackupFailed while
        another process works on it, OSError.
        """
        wanted = request or SaveRequest(everything=True)
        return await save_all(self._now(), wanted, key=key, dry_run=dry_run, progress=progress)

    async def verify_all(
        self, backups: Sequence[str] = (), *, dry_run: bool = False, progress: Progress = silent
    ) -> list[TriedBackup]:
        """Try those named, or the newest of each tenant, one after the other. Raises BackupNotFound, BackupDamaged."""
        return await verify_all(self._now(), backups, dry_run=dry_run, progress=progress)

    async def prune(
        self, tenants: Sequence[str] = (), *, keep: int | None = None, keep_days: int | None = None,
        dry_run: bool = False, progress: Progress = silent,
    ) -> list[str]:  # fmt: skip
        """Remove what the rules of `[backup]`, or these, let go; the names of it. Raises OSError."""
        return await prune_backups(
            self._now(), tenants, keep=keep, keep_days=keep_days, dry_run=dry_run, progress=progress
        )

    async def backups(self, tenant: str | None = None) -> list[StoredBackup]:
        """Those that are finished, the oldest of a tenant first. Raises OSError."""
        return await asyncio.to_thread(list_backups, folder_of(self._now()), None if tenant is None else [tenant])

    async def verify(self, backup: str) -> StoredBackup:
        """Restore it into a scratch place and compare. Raises BackupNotFound, BackupDamaged, BackupFailed."""
        settings = self._now()
        return await verify_backup(settings, await _found(settings, backup))

    async def restore_plan(self, backup: str, *, as_id: str | None = None, server: str | None = None) -> Wanted:
        """What `restore` would make. Raises as it does; nothing is changed."""
        settings = self._now()
        return await plan_restore(settings, await _found(settings, backup), as_id=as_id, server=server)

    async def restore(
        self, backup: str, *, as_id: str | None = None, server: str | None = None, key: str | None = None
    ) -> Restored:
        """Make a tenant of it, one that does not exist. Raises BackupNotFound, RestoreRefused, BackupDamaged.

        `key`: what its saga is known by.
        """
        settings = self._now()
        return await restore_backup(settings, await _found(settings, backup), as_id=as_id, server=server, key=key)

    # --- does isolation hold? ----------------------------------------------------------------------------------------
    async def doctor(
        self, *, servers: Sequence[str] = (), tenants: Sequence[str] = (), ignored: Sequence[str] = (),
        fix: bool = False, progress: Progress = silent,
    ) -> tuple[AuditReport, list[DoctorRepair]]:  # fmt: skip
        """What is wrong on servers and databases; with `fix` after what is safe to repair was repaired."""
        settings, repairs = self._now(), list[DoctorRepair]()

        async def look() -> AuditReport:
            return await doctor.examine(settings, servers=servers, tenants=tenants, ignored=ignored, progress=progress)

        report = await look()
        if fix and (fixable := [each for each in report.findings if each.is_fixable]):
            repairs = await repair(settings, fixable)
            report = await look()
        return report, repairs

    async def prove(self, options: Options | None = None, *, progress: Progress = silent) -> IsolationProof:
        """Try to break isolation in the live deployment. A leak is a result, not an error."""
        return await prove(self._now(), options or Options(), progress=lambda what: progress(0, None, what))

    def signed_proof(self, proof: IsolationProof) -> str:
        """The report of `prove`, signed. Raises ConfigurationError without a key that signs."""
        return signed_report(proof, self._now())

    # --- who asks what is held of them -------------------------------------------------------------------------------
    async def export(
        self, into: Path, *, tenants: Sequence[str] = (), person: Person | None = None, dry_run: bool = False,
        progress: Progress = silent,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Write what tenants hold, or hold of a person, into the folder `into`, with a signed report.

        A row for each tenant and thing, with its error where it could not be asked.
        """
        return await gdpr.export(self._now(), tenants, person, into, dry_run=dry_run, progress=progress)

    async def erase(
        self, person: Person, *, tenants: Sequence[str] = (), dry_run: bool = False, signed: bool = True,
        progress: Progress = silent,
    ) -> tuple[list[dict[str, Any]], str]:  # fmt: skip
        """Erase a person by `[[gdpr.person]]`; the rows as `export`, and the signed report."""
        return await gdpr.erase(self._now(), tenants, person, dry_run=dry_run, signed=signed, progress=progress)

    async def erase_tenant(
        self, tenant: str, *, keep_backups: bool = False, dry_run: bool = False, progress: Progress = silent
    ) -> tuple[TenantErased, str]:
        """Remove all that a tenant has, its backups too, for good; and the signed report. Raises as `delete`."""
        return await gdpr.erase_tenant(
            self._now(), tenant, keep_backups=keep_backups, dry_run=dry_run, progress=progress
        )

    # --- going -------------------------------------------------------------------------------------------------------
    async def archive(self, tenant: str, *, drop_place: bool = False) -> Removed:
        """Suspend it, save it and verify that; it stays registered, as inactive. Raises as `delete`."""
        settings = self._now()
        folder_of(settings)
        return await status.archive(settings, tenant, backups=FolderBackups(settings), drop_place=drop_place)

    async def delete(self, tenant: str, *, grace_days: float = 7.0, dry_run: bool = False) -> Removed:
        """Refuse it everywhere; with the grace passed, called again, remove what it has behind a verified backup.

        Raises TenantNotFound, ChangeHeld, BackupFailed. Without a backup: the command line alone.
        """
        settings = self._now()
        backups = FolderBackups(settings) if settings.backup.folder else None
        return await status.delete(settings, tenant, grace_days=grace_days, backups=backups, dry_run=dry_run)

    async def undelete(self, tenant: str) -> StatusChanged:
        """Take a deletion back while its grace lasts."""
        return await status.undelete(self._now(), tenant)


async def _registered_one(settings: Settings, tenant: str) -> Tenant:
    async with registry_of(settings) as registry:
        return await registry.get(tenant_id(tenant))


async def _found(settings: Settings, backup: str) -> StoredBackup:
    return await asyncio.to_thread(find_backup, folder_of(settings), backup)


async def _of(making: Provisioner, tenant: str) -> Saga:
    for saga in await making.store.unfinished():
        if saga.wanted.id == tenant:
            return saga
    fix = "tenantproxy tenants unfinished lists those that are"
    raise ConfigurationError([Problem(key=f"tenant {tenant}", problem="is not being made", fix=fix)])
