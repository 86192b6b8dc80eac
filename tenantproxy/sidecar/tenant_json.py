"""How do a tenant, its making, its backups and its versions look in an answer of the admin listener?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tenantproxy.lifecycle.backup import BackupOutcome, StoredBackup, TriedBackup
from tenantproxy.lifecycle.gdpr import TenantErased
from tenantproxy.lifecycle.migrate import Migrated
from tenantproxy.lifecycle.provision import Saga
from tenantproxy.model import Tenant, TenantStatus

__all__ = [
    "backup_json",
    "erased_json",
    "migrated_json",
    "outcome_json",
    "saga_json",
    "tenant_json",
    "tried_json",
    "wanted_json",
]


def wanted_json(tenant: Tenant) -> dict[str, Any]:
    """A tenant that would be made."""
    return tenant_json(tenant) | {"status": "would_create"}


def tenant_json(tenant: Tenant) -> dict[str, Any]:
    """A tenant as it is registered."""
    place = tenant.placement
    return {
        "id": tenant.id,
        "status": tenant.status.value,
        "isolation": place.isolation.value,
        "server": place.server,
        "database": place.database,
        "schema": place.schema,
        "role": place.role,
        "tier": tenant.tier,
        "region": tenant.region,
        "epoch": tenant.epoch,
        "systems": dict(tenant.systems),
    }


def saga_json(saga: Saga) -> dict[str, Any]:
    """A tenant that is being made, and how far it is."""
    shown = tenant_json(saga.wanted.tenant(TenantStatus.PROVISIONING))
    return shown | {"status": str(saga.state), "error": saga.error}


def backup_json(backup: StoredBackup) -> dict[str, Any]:
    """A finished backup."""
    manifest = backup.manifest
    return {
        "backup": backup.id,
        "kind": manifest.kind.value,
        "snapshot_at": manifest.snapshot_at.isoformat(),
        "rows": manifest.rows,
        "bytes": backup.bytes,
        "encrypted": manifest.encrypted,
        "verified_at": None if backup.verified_at is None else backup.verified_at.isoformat(),
    }


def outcome_json(outcome: BackupOutcome) -> dict[str, Any]:
    """What became of one tenant, or of the main database, in a run that saves several."""
    return {"tenant": outcome.name, "state": outcome.state, "backup": outcome.backup, "error": outcome.error}


def tried_json(tried: TriedBackup) -> dict[str, Any]:
    """A backup that was tried among others."""
    return backup_json(tried.backup) | {"error": tried.error}


def migrated_json(outcome: Migrated) -> dict[str, Any]:
    """What became of one place, and its version now."""
    target = outcome.target
    return {
        "place": target.name,
        "server": target.server,
        "database": target.database,
        "schema": target.schema,
        "version": outcome.version,
        "applied": list(outcome.applied),
        "left": outcome.left,
        "error": outcome.error,
    }


def erased_json(erased: TenantErased, report: str) -> dict[str, Any]:
    """What became of all that a tenant had, with the signed report of it."""
    return {**asdict(erased), "is_complete": erased.is_complete, "report": json.loads(report)}
