"""Is a registry class of the user's own believed only as far as it can be?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pytest

from tenantproxy import Router
from tenantproxy.errors import RegistryUnavailable
from tenantproxy.model import InvalidTenant, Limits, Placement, Tenant, TenantId, TenantStatus
from tenantproxy.registry import MemoryRegistry, cached
from tenantproxy.registry.base import TenantMisconfigured
from tests.support.leases import own_rows, rows_of
from tests.support.world import World


class Own:
    """A registry as a user writes it; each part can be replaced."""

    source = "own"

    def __init__(self, world: World, **parts: Callable[..., Any]) -> None:
        self.inner = MemoryRegistry(world.tenants)
        self.parts = parts

    async def get(self, tenant: TenantId) -> Any:
        if "get" in self.parts:
            return self.parts["get"](await self.inner.get(tenant))
        return await self.inner.get(tenant)

    def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Any]:
        if "tenants" in self.parts:
            return self.parts["tenants"]()  # type: ignore[no-any-return]
        return self.inner.tenants(status=status)

    async def open(self) -> None:
        if "open" in self.parts:
            await self.parts["open"]()

    async def close(self) -> None:
        if "close" in self.parts:
            await self.parts["close"]()


def _of(value: Any, **changes: Any) -> Any:
    return replace(value, **changes)


WRONG: Final[dict[str, Callable[[Tenant], Any]]] = {
    "another tenant": lambda tenant: _of(tenant, id=TenantId("row2")),
    "the same name in capitals": lambda tenant: _of(tenant, id=TenantId("ROW1")),
    "an identifier with a quote": lambda tenant: _of(tenant, id="row1'; set statement_timeout='7777"),
    "an identifier that is a number": lambda tenant: _of(tenant, id=7),
    "nothing": lambda tenant: None,
    "a dict": lambda tenant: {"id": "row1", "database": "x"},
    "a status that is text": lambda tenant: _of(tenant, status="active"),
    "a placement that is text": lambda tenant: _of(tenant, placement="db"),
    "a database that is None": lambda tenant: _of(tenant, placement=_of(tenant.placement, database=None)),
    "an isolation that is text": lambda tenant: _of(tenant, placement=_of(tenant.placement, isolation="row")),
    "limits that are a dict": lambda tenant: _of(tenant, limits={"max_size": 5}),
    "a limit that is text": lambda tenant: _of(tenant, limits=Limits(max_size="5")),  # type: ignore[arg-type]
    "a limit of zero": lambda tenant: _of(tenant, limits=Limits(max_size=0)),
    "an epoch that is text": lambda tenant: _of(tenant, epoch="1"),
    "a system's schema that is a number": lambda tenant: _of(tenant, systems={"crm": 5}),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_an_answer_that_cannot_be_used_opens_nothing(world: World, kind: str) -> None:
    registry = Own(world, get=WRONG[kind])
    async with Router(world.settings(), registry=registry) as router:
        before = router.stats().acquires.get("row1")  # its database was looked at
        for _ in range(2):  # asked, and remembered
            with pytest.raises(TenantMisconfigured) as caught:
                await own_rows(router.tenant("row1"))
            assert "row2" not in str(caught.value)
        assert router.stats().acquires.get("row1") == before


async def test_a_listed_answer_of_another_type_is_named(world: World) -> None:
    async def listed() -> AsyncIterator[Any]:
        yield {"id": "row1"}

    with pytest.raises(TenantMisconfigured, match="dict"):
        await Router(world.settings(), registry=Own(world, tenants=listed)).open()


async def _never() -> None:
    await asyncio.Event().wait()


async def _deaf_to_cancellation() -> None:
    with suppress(asyncio.CancelledError):
        await _never()
    await _never()  # until the loop ends


async def _raise() -> None:
    raise KeyError("config")


async def _listed_never() -> AsyncIterator[Any]:
    await _never()
    yield None


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "_OPEN_TIMEOUT", 0.2)
    monkeypatch.setattr(cached, "_CLOSE_TIMEOUT", 0.2)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "parts",
    [{"open": _never}, {"open": _deaf_to_cancellation}, {"open": _raise}, {"tenants": _listed_never}],
    ids=["open hangs", "open swallows its cancellation", "open raises", "tenants hangs"],
)
async def test_a_registry_that_does_not_open_fails_the_open(world: World, parts: dict[str, Any]) -> None:
    router = Router(world.settings(), registry=Own(world, **parts))
    with pytest.raises(RegistryUnavailable, match=r"did not|could not"):
        await router.open()
    assert not router.is_open
    assert await _backends(world) == 0


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("close", [_never, _deaf_to_cancellation, _raise], ids=["hangs", "swallows", "raises"])
async def test_a_registry_that_does_not_close_leaves_no_connection(
    world: World, close: Callable[[], Awaitable[None]]
) -> None:
    async with Router(world.settings(), registry=Own(world, close=close)) as router:
        assert await own_rows(router.tenant("row1")) == rows_of("row1")
    assert not router.is_open
    assert await _backends(world) == 0
    async with router:
        assert await own_rows(router.tenant("row1")) == rows_of("row1")


async def _backends(world: World) -> int:
    async with world.shared.connect() as admin:
        count: int = await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
        return count


def test_a_schema_that_stands_for_the_role_is_no_tenants_schema(world: World) -> None:
    place = world.tenants[0].placement
    with pytest.raises(ValueError, match=r"\$user"):
        Placement(isolation=place.isolation, server="primary", database="x", schema="$user")
    with pytest.raises(InvalidTenant, match="not Isolation"):
        Placement(isolation="row", server="primary", database="x")  # type: ignore[arg-type]
