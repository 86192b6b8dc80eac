"""What do tests of sessions stand on? A main database as installed, and several processes on it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from tenantproxy.auth.refresh import Sessions
from tenantproxy.auth.revocation import Revocations
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth
from tenantproxy.lifecycle import install_auth, install_registry
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.model import Tenant
from tenantproxy.notifications import Listener
from tenantproxy.registry import CachedRegistry, PostgresRegistry, RowReader
from tenantproxy.registry.postgres import CHANNEL
from tests.contracts.main_database import MainDatabase
from tests.support.database import Database
from tests.support.world import APP_PASSWORD, APP_ROLE, SERVER

SECRET: Final = secrets.token_hex(32)
_ACME: Final = (
    "INSERT INTO tenantproxy.tenants (id, isolation, database) VALUES ('acme', 'database', 'acme_db'),"
    " ('globex', 'database', 'globex_db')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What one sidecar has of login."""

    main: MainDatabase
    registry: CachedRegistry
    listener: Listener
    revocations: Revocations
    tokens: Tokens
    sessions: Sessions

    async def tenant(self, name: str = "acme") -> Tenant:
        """As the registry has it now."""
        return await self.tokens.look_up(name)


async def install_main(database: Database) -> None:
    """As `tenantproxy install` leaves the main database, with two tenants."""
    async with database.connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)
        await install_registry(admin, app_role=APP_ROLE)
        await install_auth(admin, app_role=APP_ROLE)
        await admin.execute(_ACME)


@asynccontextmanager
async def a_process(
    database: Database, *, listens: bool = True, poll_interval: float = 5.0, grace: float = 10.0, **auth: Any
) -> AsyncIterator[Process]:
    """A process on that database. `listens`: it may use LISTEN; else it finds out by asking."""
    settings = Auth.model_validate({"key": SECRET} | auth)
    main = MainDatabase(database, user=APP_ROLE, password=APP_PASSWORD)
    registry = CachedRegistry(PostgresRegistry(main, reader=RowReader(default_server=SERVER, servers={SERVER})))
    listener = Listener(main, jitter=lambda: 0.0)
    listener.hear(CHANNEL, registry.invalidate)
    revocations = Revocations(main, settings, hearing=listener, poll_interval=poll_interval)
    tokens = Tokens(settings, tenants=registry, revoked=revocations)
    sessions = Sessions(main, tokens, revocations=revocations, grace=grace)
    if listens:
        listener.start()
        await listener.listening.wait()
    await revocations.open()
    try:
        if listens:
            await listener.listening.wait()
        yield Process(
            main=main, registry=registry, listener=listener, revocations=revocations, tokens=tokens, sessions=sessions
        )
    finally:
        await revocations.close()
        await listener.stop()
        await registry.close()
