"""Which tenants are on a page of the list? Bounded work for each, however many there are and wherever it begins."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from tenantproxy.model import Tenant

__all__ = ["MOST_LOOKED_AT", "page_of"]

MOST_LOOKED_AT: Final = 5_000
"""Entries, for one page: where few pass a filter, a page is short, and the next one goes on behind it."""


async def page_of(
    listing: AsyncGenerator[Tenant, None], limit: int, fits: Callable[[Tenant], bool]
) -> tuple[list[Tenant], str | None]:
    """The first `limit` of `listing` that fit, and behind which identifier the next page begins; None: it was the last.

    The identifier need not stay registered: who comes or goes between two pages moves no other.
    """
    page, looked, last = list[Tenant](), 0, ""
    async with aclosing(listing) as tenants:
        async for tenant in tenants:
            if len(page) == limit or looked == MOST_LOOKED_AT:
                return page, last
            looked, last = looked + 1, tenant.id
            if fits(tenant):
                page.append(tenant)
    return page, None
