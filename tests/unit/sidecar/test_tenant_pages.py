"""Does a page of the list of tenants cost the same wherever it begins, and is each tenant on one page?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest

from tenantproxy.model import Isolation, Placement, Tenant, TenantStatus, tenant_id
from tenantproxy.registry import CachedRegistry, MemoryRegistry
from tenantproxy.sidecar.tenant_pages import MOST_LOOKED_AT, page_of

MANY: Final = 12_000


def tenant(number: int) -> Tenant:
    place = Placement(isolation=Isolation.SCHEMA, server="primary", database="shared", schema=f"t{number}")
    status = TenantStatus.SUSPENDED if number == MANY - 1 else TenantStatus.ACTIVE
    return Tenant(id=tenant_id(f"t{number:05}"), placement=place, status=status)


class CountedRegistry(MemoryRegistry):
    """Counts the tenants that were read of it."""

    read = 0

    async def tenants_after(self, after: str, /) -> AsyncIterator[Tenant]:
        async for each in super().tenants_after(after):
            self.read += 1
            yield each


@pytest.fixture(scope="module")
def registry() -> CountedRegistry:
    return CountedRegistry(map(tenant, range(MANY)))


async def page(
    registry: MemoryRegistry, after: str, limit: int, status: TenantStatus | None = None
) -> tuple[list[str], str | None]:
    listing = CachedRegistry(registry).tenants_after(after)
    found, following = await page_of(listing, limit, lambda each: status in (None, each.status))
    return [each.id for each in found], following


@pytest.mark.parametrize("after", ["", "t00500", "t11800", "t11799z"])
async def test_a_page_reads_what_is_on_it_wherever_it_begins(registry: CountedRegistry, after: str) -> None:
    registry.read = 0
    found, following = await page(registry, after, 100)
    assert found == sorted(f"t{n:05}" for n in range(MANY) if f"t{n:05}" > after)[:100]
    assert following == found[-1]
    assert registry.read <= 101


async def test_each_tenant_is_on_one_page_though_others_come_and_go_between_them() -> None:
    registry = MemoryRegistry(map(tenant, range(30)))
    found, after = list[str](), ""
    for number in range(1, 10):
        names, following = await page(registry, after, 7)
        found += names
        if following is None:
            break
        after = following
        registry.remove(names[-1])  # the one that the cursor names
        registry.add(tenant(100 + number))
    assert found[:30] == [f"t{n:05}" for n in range(30)]
    assert len(found) == len(set(found))


async def test_a_filter_that_few_pass_gives_short_pages_of_bounded_work(registry: CountedRegistry) -> None:
    found, after, pages = list[str](), "", 0
    while True:
        registry.read = 0
        names, following = await page(registry, after, 10, TenantStatus.SUSPENDED)
        assert registry.read <= MOST_LOOKED_AT + 1
        found, pages = found + names, pages + 1
        if following is None:
            break
        after = following
    assert (found, pages) == ([f"t{MANY - 1:05}"], 3)
