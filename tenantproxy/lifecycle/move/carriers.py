"""Which way do rows come over: between places of a tenant's own, or from and to shared tables?"""

from __future__ import annotations

from typing import Protocol

import asyncpg

from tenantproxy.lifecycle.move.carry_places import PlaceCarrier
from tenantproxy.lifecycle.move.carry_rows import RowCarrier
from tenantproxy.lifecycle.move.tools import MoveOptions, MoveTools
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.model import Isolation, Placement

__all__ = ["Carrier", "carrier_of"]


class Carrier(Protocol):
    """Brings what is in the old place to the new one."""

    follows: bool
    """Whether the new place follows the old one before the pause; known behind `prepare`."""

    async def prepare(self) -> None:
        """Make the tables, while the old place serves."""
        ...

    async def catch_up(self) -> None:
        """Of one that `follows`: until the new place has what there is."""
        ...

    async def bring(self) -> None:
        """All that is not there yet, with sequences. The old place is closed."""
        ...

    async def compare(self) -> int:
        """The number of rows. Raises TenantProxyError where they are not the same on both sides."""
        ...


def carrier_of(
    tools: MoveTools, source: asyncpg.Connection, target: asyncpg.Connection, old: Placement, new: Wanted,
    options: MoveOptions,
) -> Carrier:  # fmt: skip
    """The one for a move from `old` to `new`. The connections are to their databases."""
    if Isolation.ROW in (old.isolation, new.isolation):
        return RowCarrier(tools, source, target, old, new)
    return PlaceCarrier(tools, source, target, old, new, options)
