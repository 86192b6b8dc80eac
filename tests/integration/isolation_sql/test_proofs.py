"""Which proofs make a session a tenant's? The right one for this backend, database and time; no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import asyncpg
import pytest

from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.row import BIND
from tests.support.sessions import CARRY, READ, bind, carry, names, now_us, prove
from tests.support.world import World, row_key, signer

SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a forger has to work with, who would like to be row2."""

    database: str
    pid: int
    now: int

    def sign(self, by: Signer | None = None, tenant: str = "row2", pid: int | None = None, at: int = 0) -> str:
        by = by or signer(self.database)
        start = self.now + at
        return by.sign(tenant, pid=self.pid if pid is None else pid, from_us=start - SECOND, to_us=start + 60 * SECOND)


# Each differs from a good proof in the one thing that it is named after.
FORGERIES: Final[dict[str, Callable[[Case], str]]] = {
    "another key": lambda case: case.sign(Signer(bytes(32), database=case.database)),
    "the key of another database": lambda case: case.sign(Signer(row_key("postgres"), database=case.database)),
    "another database": lambda case: case.sign(Signer(row_key(case.database), database="postgres")),
    "an unknown key id": lambda case: case.sign(signer(case.database, 7)),
    "our key under another id": lambda case: case.sign(Signer(row_key(case.database), database=case.database, kid=2)),
    "another tenant": lambda case: case.sign(tenant="row1"),
    "a tenant with a longer name": lambda case: case.sign(tenant="row22"),
    "another backend": lambda case: case.sign(pid=case.pid + 1),
    "expired": lambda case: case.sign(at=-61 * SECOND),
    "not yet good": lambda case: case.sign(at=10 * SECOND),
    "one bit": lambda case: case.sign()[:-1] + ("0" if case.sign()[-1] != "0" else "1"),
    "no mac": lambda case: case.sign()[:50] + "0" * 64,
    "a mac that is no hex": lambda case: case.sign()[:50] + "z" * 64,
    "cut": lambda case: case.sign()[:-1],
    "longer": lambda case: case.sign() + "0",
    "longer time": lambda case: case.sign()[:33] + str(case.now + 9999 * SECOND) + case.sign()[49:],
    "another version": lambda case: "v2" + case.sign()[2:],
    "a pid that is no number": lambda case: case.sign()[:5] + "x" * 10 + case.sign()[15:],
    "a pid with a sign": lambda case: case.sign()[:5] + f"{-case.pid:010d}" + case.sign()[15:],
    "the word": lambda case: "bound",
    "nothing": lambda case: "",
    "blanks": lambda case: " " * 114,
}


@pytest.mark.parametrize("how", ["bound", "carried"])
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_proof_that_is_not_ours_opens_nothing(
    target: World, conn: asyncpg.Connection, forgery: str, how: str
) -> None:
    case = Case(database=target.shared.name, pid=conn.get_server_pid(), now=await now_us(conn))
    made = FORGERIES[forgery](case)
    if how == "bound":
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.DataError)):
            await conn.execute(BIND, "row2", made)
    else:
        await conn.execute(CARRY, "row2", made)
    with pytest.raises(
        (asyncpg.InsufficientPrivilegeError, asyncpg.DataError, asyncpg.ObjectNotInPrerequisiteStateError)
    ):
        await conn.fetch(READ)


@pytest.mark.parametrize("tenant", ["", None, "row2 ", "ROW2"])
async def test_a_proof_is_for_its_tenant_to_the_byte(
    conn: asyncpg.Connection, signer: Signer, tenant: str | None
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(BIND, tenant, await prove(conn, signer, "row2"))


async def test_a_proof_for_any_backend_may_be_carried_but_does_not_bind(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    now = await now_us(conn)
    anywhere = signer.sign("row1", pid=0, from_us=now - SECOND, to_us=now + 60 * SECOND)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(BIND, "row1", anywhere)
    await conn.execute(CARRY, "row1", anywhere)
    assert await names(conn) == ["row1 1", "row1 2", "row1 3"]


async def test_a_proof_seen_on_one_backend_is_worth_nothing_on_another(
    target: World, conn: asyncpg.Connection, signer: Signer
) -> None:
    seen = await prove(conn, signer, "row1")
    async with target.app(target.shared) as thief:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await thief.execute(BIND, "row1", seen)
        await thief.execute(CARRY, "row1", seen)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await thief.fetch(READ)


async def test_a_carried_proof_ends_with_its_window(conn: asyncpg.Connection, signer: Signer) -> None:
    now = await now_us(conn)
    proof = signer.sign("row1", pid=conn.get_server_pid(), from_us=now - SECOND, to_us=now + 200_000)
    await conn.execute(CARRY, "row1", proof)
    assert len(await names(conn)) == 3
    while await now_us(conn) <= now + 200_000:
        await conn.execute("SELECT pg_sleep(0.02)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.fetch(READ)


async def test_the_exact_form_holds_for_one_transaction(conn: asyncpg.Connection, signer: Signer) -> None:
    async with conn.transaction():
        challenge = await conn.fetchrow("SELECT pid, at_us FROM tenantproxy.challenge()")
        assert challenge is not None
        proof = signer.sign("row1", pid=challenge["pid"], from_us=challenge["at_us"], to_us=challenge["at_us"])
        await conn.execute(CARRY, "row1", proof)
        assert len(await names(conn)) == 3
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.fetch(READ)


@pytest.mark.parametrize("enter", [bind, carry], ids=["bound", "carried"])
async def test_a_proven_session_sees_its_own_rows(
    conn: asyncpg.Connection, signer: Signer, enter: Callable[..., object]
) -> None:
    await (bind if enter is bind else carry)(conn, signer, "row2")
    assert await names(conn) == ["row2 1", "row2 2", "row2 3"]
