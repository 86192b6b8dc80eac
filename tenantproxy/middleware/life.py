"""Who opens the router, and who closes it? One `Life` for each router, however many middlewares share it.

A router that is open when it is first needed belongs to the code that opened it: it is left alone, then and later.
Where tokens are verified, what is revoked is followed as long as the router is open, by whatever code.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from weakref import WeakValueDictionary

from tenantproxy.auth.base import TokenVerifier
from tenantproxy.auth.tokens import Tokens
from tenantproxy.router import Router

__all__ = ["Life", "life_of"]


class Life:
    """Opens a router once for all who need it at the same time, and closes what it opened."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._opening: asyncio.Task[None] | None = None  # while it opens
        self._is_ours = False  # we opened it, and close it
        self._was_open = False  # once it was; it was closed on purpose
        self._follows = False  # tokens are verified: what is revoked has to be known

    def keep_up(self, tokens: TokenVerifier | None) -> None:
        """See to it that `tokens` hears of revocations, unless it was given some of its own."""
        if isinstance(tokens, Tokens):
            tokens.report_to(self._router.observer)
        if isinstance(tokens, Tokens) and tokens.follow(self._router.revocations):
            self._follows = True

    async def start(self) -> None:
        """The application starts: open the router unless it is open.

        Raises what `Router.open` and `Revocations.open` do.
        """
        if not self._is_ready():
            await self._open()

    async def stop(self, for_good: bool = True) -> None:
        """The application ends: close the router if we opened it. Unless `for_good`, a later request opens it again."""
        if self._is_ours:
            self._is_ours = False
            self._was_open = self._was_open and for_good
            await self._router.close()

    async def ready(self) -> None:
        """A request came: where no lifespan was told to us, the first one opens the router.

        Afterwards a closed router stays closed, and its own error tells. Raises what `start` does; the next request
        tries again. Cancellation of one request leaves the opening to the others.
        """
        if not self._is_ready() and (self._opening is not None or self._router.is_open or not self._was_open):
            await self._open()

    def _is_ready(self) -> bool:
        if self._opening is not None or not self._router.is_open or self._router.is_abandoned:
            return False
        self._was_open = True
        return not self._follows or self._router.revocations.is_open

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._opening is None or self._opening.get_loop() is not loop:
            # In a context of its own: what it starts outlives the request, and must not carry its tenant.
            self._opening = loop.create_task(self._open_alone(), name="tenantproxy opening", context=Context())
            self._opening.add_done_callback(_heard)
        await asyncio.shield(self._opening)

    async def _open_alone(self) -> None:
        was_open = self._router.is_open and not self._router.is_abandoned
        try:
            await self._router.open()
            try:
                if self._follows:
                    await self._router.revocations.open()
            except BaseException:
                if not was_open:
                    await self._router.close()
                raise
            self._is_ours = self._is_ours or not was_open
            self._was_open = True
        finally:
            self._opening = None


def _heard(task: asyncio.Task[None]) -> None:
    """Those who waited may all be gone: the error is not lost, the next request meets it again."""
    if not task.cancelled():
        task.exception()


# By the router's address, which no other router has while its Life holds it; the middlewares keep the Life.
_LIVES: WeakValueDictionary[int, Life] = WeakValueDictionary()


def life_of(router: Router) -> Life:
    """The one `Life` of `router`, for the code that keeps it."""
    life = _LIVES.get(id(router))
    if life is None:
        life = _LIVES[id(router)] = Life(router)
    return life
