"""How does a test take turns on a plain connection, as the router does, or with a proof of something else?"""

from __future__ import annotations

import time

import asyncpg

from tenantproxy.isolation.proof import Signer, TurnForm
from tenantproxy.isolation.turn import RESET

__all__ = ["EnteredSession"]


class EnteredSession:
    """What the router keeps of one connection: the nonce of its next proof."""

    def __init__(self, conn: asyncpg.Connection, signer: Signer, nonce: int, form: TurnForm) -> None:
        self.form = form
        self.conn = conn
        self.signer = signer
        self.nonce = nonce

    @classmethod
    async def of(cls, conn: asyncpg.Connection, signer: Signer, form: TurnForm = "bound") -> EnteredSession:
        """Before its first turn."""
        return cls(conn, signer, await conn.fetchval("SELECT tenantproxy.hello()"), form)

    def entry(self, tenant: str, *, seconds: int = 60, window: int = 60, prepared: int = 0, **changes: int) -> str:
        """The statement; it counts as sent. `window`: what it says that `seconds` are. `changes`: of what is signed."""
        ends = int(time.time()) + seconds
        until = window << 32 | ends
        signed = {"pid": self.conn.get_server_pid(), "nonce": self.nonce} | changes
        proof = self.signer.turn(tenant, form=self.form, until=until, **signed)
        self.echo, self.next = f"{proof.echo} {tenant}", proof.nonce
        given = f"'{tenant}', {self.signer.kid}, {until}, '{proof.proof}', {prepared}"
        self.until = ends
        if self.form == "bound":
            return f"SELECT tenantproxy.enter({given})"
        return f"SELECT tenantproxy.trust({given}, {str(self.form == 'chained').lower()})"

    async def enter(self, tenant: str) -> None:
        """A turn, in one message."""
        await self.conn.execute(f"{RESET.sql}; {self.entry(tenant)}")
        self.nonce = self.next
