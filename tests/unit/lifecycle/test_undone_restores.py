"""Does the undo of a restore that is cancelled leave alone what another one began for the same tenant?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.test_utils import make_mocked_request

from tenantproxy.sidecar.deployment_routes import DeploymentRoutes


async def test_the_undo_of_a_restore_leaves_what_another_one_began() -> None:
    others = SimpleNamespace(key="of another", wanted=SimpleNamespace(id="acme", restore_from="/elsewhere"))
    life = SimpleNamespace(unfinished=AsyncMock(return_value=[others]), abandon=AsyncMock(), restore=AsyncMock())
    undone: list[Callable[[], Awaitable[None]]] = []

    async def begun(*_asked: Any, undo: Callable[[], Awaitable[None]]) -> web.Response:
        undone.append(undo)
        return web.json_response({})

    desk: Any = SimpleNamespace(router=SimpleNamespace(lifecycle=life), begun=begun)
    named = {"tenant": "acme", "moment": "20260101T000000Z-00000000"}
    await DeploymentRoutes(desk).restore(make_mocked_request("POST", "/", match_info=named, payload=EMPTY_PAYLOAD))
    await undone[0]()
    life.abandon.assert_not_called()
