"""What does the main database hear of a new tenant? Its first account in the login directory, and a row of the audit.

Both are written in the transaction in which its saga ends: they are there when it has, and only then.
"""

from __future__ import annotations

import json
import time
from typing import Final

import asyncpg

from tenantproxy.auth.directory import Directory
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import OneConnection
from tenantproxy.lifecycle.provision.state import SagaState
from tenantproxy.lifecycle.provision.store import Saga, Within

__all__ = ["check_entries", "entries"]

_MAY_AUDIT: Final = """
SELECT coalesce(has_function_privilege(to_regprocedure('tenantproxy.record_audit(jsonb)'), 'EXECUTE'), false)
"""
_AUDIT: Final = "SELECT tenantproxy.record_audit($1::text::jsonb)"
_ENDS: Final = {SagaState.HAS_ADMIN: "tenant_provisioned", SagaState.CLEANING: "tenant_provisioning_undone"}


async def check_entries(conn: asyncpg.Connection, settings: Settings) -> None:
    """Whether they can be written, on the main database's `conn`. Raises ConfigurationError."""
    if settings.audit.table and not await conn.fetchval(_MAY_AUDIT):
        problem = "the admin user cannot write the audit table"
        raise ConfigurationError([Problem(key="audit.table", problem=problem, fix="run: tenantproxy install")])


def entries(saga: Saga, settings: Settings) -> Within:
    """What is written with the last step of `saga`, which is at the state before it."""

    async def write(conn: asyncpg.Connection) -> None:
        admin, pepper = saga.admin, settings.login.pepper
        if saga.state is SagaState.HAS_ADMIN and admin is not None and admin.user is not None and pepper is not None:
            directory = Directory(OneConnection(conn), pepper=pepper.read_bytes())
            await directory.add(directory.key(admin.address), saga.wanted.id, admin.user)
        if settings.audit.table:
            await conn.fetch(_AUDIT, json.dumps([_row(saga)]))

    return write


def _row(saga: Saga) -> dict[str, object]:
    want = saga.wanted
    detail = {
        "saga": saga.id, "key": saga.key, "isolation": str(want.isolation), "server": want.server,
        "database": want.database, "schema": want.schema, "role": want.role, "error": saga.error,
    }  # fmt: skip
    return {
        "at": time.time(),
        "kind": _ENDS[saga.state],
        "tenant": want.id,
        "user_id": None if saga.admin is None else saga.admin.user,
        "detail": detail,
    }
