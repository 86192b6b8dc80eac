"""Tells the observer which logins and handshakes the port refused and why: the client hears one answer for all reasons.

State: how many were told in this second, and how many were not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from tenantproxy.errors import InvalidCredentials, TenantProxyError
from tenantproxy.events import Observer, PortHandshakeFailed, PortLoginRefused
from tenantproxy.sidecar.pg.users import UNKNOWN_USER
from tenantproxy.wire.startup import SessionWish

__all__ = ["LoginRefusals"]

_PER_SECOND: Final = 20  # a flood of logins must not fill the disk of the log
_LONGEST: Final = 63


class LoginRefusals:
    """Told at most `_PER_SECOND` times a second; the next one says how many were left out."""

    def __init__(self, observer: Observer, *, clock: Callable[[], float] = monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._second = 0
        self._told = 0
        self._untold = 0

    def tell(
        self,
        wish: SessionWish,
        transport: asyncio.BaseTransport,
        error: TenantProxyError,
        *,
        is_known: Callable[[bytes], bool],
        tenant: str = "",
        request: str = "",
    ) -> None:
        """`wish` was refused with `error`; `tenant`: whose it was proven to be; `request`: the connection's id."""
        untold = self._may_tell()
        if untold is None:
            return
        if isinstance(error, InvalidCredentials):
            reason = error.reason if is_known(wish.user) else UNKNOWN_USER
        else:
            reason = f"{error.message} ({error.code})"
        self._observer(
            PortLoginRefused(
                user=_shown(wish.user),
                database=_shown(wish.database),
                tenant=tenant,
                address=_address(transport),
                reason=reason,
                untold=untold,
                request_id=request,
            )
        )

    def tell_handshake(self, transport: asyncio.BaseTransport, why: str, request: str = "") -> None:
        """TLS did not come about."""
        untold = self._may_tell()
        if untold is not None:
            self._observer(
                PortHandshakeFailed(address=_address(transport), reason=why, untold=untold, request_id=request)
            )

    def _may_tell(self) -> int | None:
        """How many were not told since the last one; None: this one is not either."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._told = second, 0
        if self._told >= _PER_SECOND:
            self._untold += 1
            return None
        self._told += 1
        untold, self._untold = self._untold, 0
        return untold


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _shown(name: bytes) -> str:
    """Printable and short: a client chose it."""
    text = name.decode("utf-8", "replace")[:_LONGEST]
    return text if text.isprintable() else ascii(text)
