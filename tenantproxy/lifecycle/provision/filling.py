"""With what is a new tenant filled that does not begin empty?"""

from __future__ import annotations

from typing import Protocol

from tenantproxy.lifecycle.provision.wanted import Wanted

__all__ = ["PlaceContent"]


class PlaceContent(Protocol):
    """What a tenant is filled with that has `restore_from`."""

    async def fill(self, wanted: Wanted) -> None:
        """Put it into its place; it may be there already. Whatever it raises undoes the tenant."""
        ...

    async def remove(self, wanted: Wanted) -> None:
        """Take away what does not go with its place."""
        ...
