"""How is a session made one tenant's in shared tables? A setting for policies, and a proof that we set it.

Facts, attacks and figures: docs/isolation.md; the other half is lifecycle/sql/.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from tenantproxy.errors import TenantNotFound
from tenantproxy.isolation.base import KEEP_RESET, SOFT_RESET
from tenantproxy.isolation.proof import Signer
from tenantproxy.model import Binding, Isolation, PoolKey, Proof, Route, RowForm, Session, Tenant

__all__ = ["BIND", "ENTER", "BindStatement", "RowPlan", "change_reset", "enter", "keep_reset", "window_us"]

BIND: Final = "SELECT tenantproxy.bind($1, $2)"
ENTER: Final = {
    Proof.BOUND: BIND,
    Proof.CARRIED: (
        "SELECT pg_catalog.set_config($1, $2, false), pg_catalog.set_config('app.tenant_proof', $3, false),"
        # No reset touches the seed of random(); bind() sees to it by itself.
        " pg_catalog.setseed(('x' || pg_catalog.right(pg_catalog.gen_random_uuid()::text, 8))::bit(32)::int"
        " / 2147483648.0)"
    ),
    Proof.PLAIN: "SELECT pg_catalog.set_config($1, $2, false)",
}
"""The statement that makes a session a tenant's, by proof; `enter` gives its parameters."""

_EARLY_US: Final = 2_000_000  # a proof is good from two seconds ago: the clocks agree to one


class RowPlan:
    """Row tenants of one database share a pool; each session is bound to its tenant before a caller has it."""

    def __init__(
        self,
        *,
        signed: bool = True,
        setting: str = "app.current_tenant_id",
        form: RowForm = "bound",
        signs_context: bool = False,
    ) -> None:
        self._context = "{}" if signed and signs_context else None  # of a caller who gives none
        self._proof = (Proof.TRUSTED if form == "trusted" else Proof.BOUND) if signed else Proof.PLAIN
        self._setting = setting

    def plan(self, tenant: Tenant, *, system: str | None = None, replica: str | None = None) -> Route:
        """See `base.Plan`. On a replica the proof is carried: a standby cannot bind."""
        if system is not None:
            raise TenantNotFound("a tenant in shared tables has no systems to choose from")
        place = tenant.placement
        proof = self._proof if replica is None or self._proof is Proof.PLAIN else Proof.CARRIED
        return Route(
            tenant=tenant.id,
            isolation=Isolation.ROW,
            pool=PoolKey(
                server=replica or place.server,
                database=place.database,
                user=place.role,
                schema=place.schema,
                shared=True,
            ),
            session=Session(
                binding=Binding(tenant=tenant.id, proof=proof, setting=self._setting),
                signed=self._context,
                standby=replica is not None,
            ),
            limits=tenant.limits,
        )


@dataclass(frozen=True, slots=True)
class BindStatement:
    """One statement with its bind parameters; its first column must come back as `answer`."""

    sql: str
    args: tuple[str, ...]
    answer: str

    def __repr__(self) -> str:
        return f"Statement({self.sql!r})"  # the parameters hold a proof


def window_us(server_now: float, window: float) -> tuple[int, int]:
    """From and to (unix microseconds) of a proof made at `server_now` (unix seconds) for `window` seconds.

    It ends with a full second, since a binding keeps whole seconds: the rest of one would be cut off.
    """
    return round(server_now * 1_000_000) - _EARLY_US, ceil(server_now + window) * 1_000_000


def enter(binding: Binding, signer: Signer | None, *, pid: int, server_now: float, window: float) -> BindStatement:
    """The statement that makes a fresh or reset session the tenant's.

    Raises ValueError when a proof is wanted and no signer given.
    """
    if binding.proof is Proof.PLAIN:
        return BindStatement(ENTER[Proof.PLAIN], (binding.setting, binding.tenant), binding.tenant)
    if signer is None:
        raise ValueError("a signed session needs a signer")
    start, end = window_us(server_now, window)
    proof = signer.sign(binding.tenant, pid=pid, from_us=start, to_us=end)
    if binding.proof is Proof.BOUND:
        return BindStatement(BIND, (binding.tenant, proof), binding.tenant)
    return BindStatement(ENTER[Proof.CARRIED], (binding.setting, binding.tenant, proof), binding.tenant)


def change_reset(prepared: int, proof: Proof) -> str:
    """Before a backend goes to another tenant, for a driver that has `prepared` statements. Its tag: SELECT 1.

    Fails, and so destroys the connection, when a statement was prepared in SQL: it may have a name of the driver's.
    Also when fewer statements are there: a tenant can deallocate them where no client sees it (`DO`), and the queries
    of all who come next would fail.
    """
    # As a serializable, deferrable transaction, which a session can be told to begin, it would wait for others.
    reset = f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {SOFT_RESET}"
    if proof is not Proof.PLAIN:
        return f"{reset}; SELECT tenantproxy.prepared_check({prepared:d})"
    # Nothing is installed: we ask as the tenants' role, so that tenants too can read what others prepared.
    return (
        f"{reset}; SELECT 1/(1-(count(*) < {prepared:d} OR bool_or(from_sql))::int)"
        " FROM pg_catalog.pg_prepared_statement()"
    )


def keep_reset(binding: Binding) -> str:
    """The reset of a bound session that stays with its tenant: its binding lives on, the two settings are put back.

    A tenant identifier holds no quote and no backslash (`model.tenant_id`), so it may stand here as a literal whatever
    standard_conforming_strings the session was left with.
    """
    return f"{KEEP_RESET}; SET {binding.setting} = '{binding.tenant}'; SET app.tenant_proof = 'bound'"
