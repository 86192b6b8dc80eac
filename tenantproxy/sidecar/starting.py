"""How does the sidecar start while a server that it needs is down? It tries again, and says why it waits."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from tenantproxy.errors import RegistryUnavailable, TenantProxyError, is_passing

__all__ = ["any_of_registry", "until_done"]

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 15.0

logger = logging.getLogger("tenantproxy")


async def until_done(
    step: Callable[[], Awaitable[None]], what: str, *, again: Callable[[TenantProxyError], bool] = is_passing
) -> None:
    """Do `step`, again and again with growing pauses while it fails with errors that pass (`again` says which).

    `what` is for the log: what waits. Other errors are raised.
    """
    wait = _FIRST_WAIT
    while True:
        try:
            await step()
            return
        except TenantProxyError as exc:
            if not again(exc):
                raise
            pause = wait * (0.5 + random.random() / 2)  # many processes that lost one server must not return together
            logger.warning("%s waits, and tries again in %.1f s: %s", what, pause, exc)
        await asyncio.sleep(pause)
        wait = min(_LONGEST_WAIT, 2 * wait)


def any_of_registry(error: TenantProxyError) -> bool:
    """Whatever a registry fails with."""
    return isinstance(error, RegistryUnavailable)
