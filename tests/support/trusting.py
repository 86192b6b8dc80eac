"""How does a database of the tests get the trusted form, as an operator would install it?"""

from __future__ import annotations

from tenantproxy.lifecycle import install
from tests.support.world import APP_ROLE, World, row_key

__all__ = ["trust"]


async def trust(world: World) -> None:
    """Install it in the shared database of `world`, as a superuser."""
    async with world.shared.connect() as admin:
        keys = {1: row_key(world.shared.name)}
        assert await install(admin, app_role=APP_ROLE, keys=keys, trusted=True) == "trusted"
