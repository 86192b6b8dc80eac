"""How is ours compared with them? One router per subject, opened and used as the README says."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final, Literal

from benchmarks.world import ROW_TENANTS, SELECT, TASKS, World, item, row_tenant
from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.model import RowForm

__all__ = ["Ours", "OursInTransactions", "database_subject", "row_entries", "row_subject", "schema_subject"]

Reset = Literal["always", "on_tenant_change"]
Order = Literal["one tenant", "20 in turns", "20 at random"]

_RANDOM: Final = random.Random(20).choices(ROW_TENANTS, k=10_007)
_ORDERS: Final[Mapping[Order, Callable[[int], str]]] = {
    "one tenant": lambda number: ROW_TENANTS[0],
    "20 in turns": row_tenant,
    "20 at random": lambda number: _RANDOM[number % len(_RANDOM)],
}


def row_entries(database: str) -> dict[str, dict[str, object]]:
    """The registry's entries of the row tenants."""
    return {tenant: {"isolation": "row", "database": database} for tenant in ROW_TENANTS}


class Ours:
    """A router, asked for the tenant that `choose` names for each call."""

    def __init__(self, name: str, settings: Callable[[int], Settings], choose: Callable[[int], str]) -> None:
        self.name = name
        self.tasks = TASKS
        self._settings = settings  # for a number of connections
        self._choose = choose
        self._router: Router | None = None

    async def open(self, size: int) -> None:
        """Hold `size` connections at once, so that all of them are open when it starts."""
        self._router = Router(self._settings(size))
        await self._router.open()
        async with AsyncExitStack() as stack:
            for number in range(size):
                await stack.enter_async_context(self._router.tenant(self._choose(number)).connection())

    async def call(self, task: int, number: int) -> object:
        """Look the tenant up, lease, enter, select; the reset follows the release."""
        assert self._router is not None
        return await self._router.tenant(self._choose(number)).fetchrow(SELECT, item(number))

    async def close(self) -> None:
        """Close the router."""
        if self._router is not None:
            await self._router.close()


def database_subject(world: World, reset: Reset) -> Ours:
    """A tenant with a database of its own."""
    tenants = {"own": {"isolation": "database", "database": "bench_database"}}
    return Ours(
        f"ours, database, reset {reset}",
        lambda size: world.settings(tenants, max_size=size, reset=reset, signed=False),
        lambda number: "own",
    )


class OursInTransactions(Ours):
    """A tenant with a database of its own, and a transaction for each call."""

    def __init__(self, world: World, reset: Reset) -> None:
        tenants = {"own": {"isolation": "database", "database": "bench_database"}}
        super().__init__(
            f"ours, database, reset {reset}, a transaction each",
            lambda size: world.settings(tenants, max_size=size, reset=reset, signed=False),
            lambda number: "own",
        )

    async def call(self, task: int, number: int) -> object:
        """Lease, begin, select, commit; the reset follows."""
        assert self._router is not None
        async with self._router.tenant(self._choose(number)).transaction() as connection:
            return await connection.fetchrow(SELECT, item(number))


def schema_subject(world: World, reset: Reset) -> Ours:
    """A tenant with a schema of its own."""
    tenants = {"first": {"isolation": "schema", "database": "bench_schemas", "schema": "first"}}
    return Ours(
        f"ours, schema, reset {reset}",
        lambda size: world.settings(tenants, max_size=size, reset=reset, signed=False),
        lambda number: "first",
    )


def row_subject(world: World, reset: Reset, *, signed: bool, order: Order, form: RowForm = "bound") -> Ours:
    """Row tenants in a shared pool, in one of three orders."""
    kind = ("trusted" if form == "trusted" else "signed") if signed else "plain"
    tenants = row_entries(f"bench_{kind}")
    return Ours(
        f"ours, row {kind}, reset {reset}, {order}",
        lambda size: world.settings(tenants, max_size=size, shared_size=size, reset=reset, signed=signed, form=form),
        _ORDERS[order],
    )
