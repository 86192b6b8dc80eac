"""How does an operator answer a person who asks what is held of them? `gdpr export|erase|verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tenantproxy.cli.output import progress_of
from tenantproxy.config import Settings
from tenantproxy.lifecycle import gdpr
from tenantproxy.lifecycle.gdpr import Person, has_failed, verify

__all__ = ["erase", "erase_whole", "export", "has_failed", "verify"]


async def export(
    settings: Settings, tenants: Sequence[str], person: Person | None, into: Path, *, dry_run: bool = False
) -> list[dict[str, Any]]:
    """See `lifecycle.gdpr.export`."""
    with progress_of("tenants") as told:
        return await gdpr.export(settings, tenants, person, into, dry_run=dry_run, progress=told)


async def erase(
    settings: Settings, tenants: Sequence[str], person: Person, *, dry_run: bool, signed: bool
) -> tuple[list[dict[str, Any]], str]:
    """See `lifecycle.gdpr.erase`."""
    with progress_of("tenants") as told:
        return await gdpr.erase(settings, tenants, person, dry_run=dry_run, signed=signed, progress=told)


async def erase_whole(settings: Settings, tenant: str, **how: bool) -> tuple[dict[str, Any], str]:
    """What became of all that a tenant had, and the report. See `lifecycle.gdpr.erase_tenant`."""
    with progress_of("erasing") as told:
        erased, report = await gdpr.erase_tenant(settings, tenant, **how, progress=told)
    shown = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in asdict(erased).items()}
    return {**shown, "is_complete": erased.is_complete}, report
