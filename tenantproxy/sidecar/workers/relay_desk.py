"""How does a worker answer what the supervisor hands over? By the application that others mount, which audits.

The supervisor's gate has looked at the token and the role, and names the caller in two headers of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from tenantproxy.router import Router
from tenantproxy.sidecar.admin_roles import AdminCaller, Role
from tenantproxy.sidecar.asgi_bridge import AsgiBridge
from tenantproxy.sidecar.mounted import mounted_app

__all__ = ["BY", "ROLE", "RelayDesk"]

BY: Final = "tenantproxy-by"
ROLE: Final = "tenantproxy-role"
_NO_BROWSER: Final = ("authorization", b"the supervisor's gate took the token")
_OF_THE_SUPERVISOR: Final = frozenset(("content-length", "x-request-id"))


class RelayDesk:
    """See above. State: the application, from the first request on."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._bridge: AsgiBridge | None = None

    async def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Status, headers and body."""
        if self._bridge is None:
            self._bridge = AsgiBridge(mounted_app(self._router, _caller_of))
        bodies = [asked["body"]]
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            if not bodies:
                await asyncio.Event().wait()  # this client never goes: what it asked for goes on
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": asked["method"], "client": (asked["address"], 0), "raw_path": asked["path"],
            "path": asked["path"].decode("ascii", "replace"), "query_string": asked["query"],
            "headers": [(name.encode(), value) for name, value in (*asked["headers"], _NO_BROWSER)],
        }  # fmt: skip
        await self._bridge(scope, receive, send)
        headers = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        return {
            "status": sent[0]["status"],
            "headers": [each for each in headers if each[0] not in _OF_THE_SUPERVISOR],
            "body": b"".join(each["body"] for each in sent[1:]),
        }

    async def close(self) -> None:
        """Let what is under way end."""
        if self._bridge is not None:
            await self._bridge.close()


def _caller_of(headers: Mapping[str, str]) -> AdminCaller:
    """Of what the supervisor alone hands over."""
    return AdminCaller(by=headers[BY], role=Role(headers[ROLE]))
