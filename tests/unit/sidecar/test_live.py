"""What does an operator's program hear that stops a tenant at the port, where it takes long or cannot be done?"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import TenantNotFound
from tenantproxy.router import Router
from tenantproxy.sidecar import live
from tenantproxy.sidecar.live import LiveRouter, NoPort, NotBegun
from tenantproxy.sidecar.pg.colleagues import TenantVerb

VALUES: dict[str, Any] = {
    "main": {"server": "primary", "database": "main"},
    "servers": {"primary": {"user": "app", "password": ""}},
    "registry": {"source": "file"},
}


class FakeView:
    """A port at which a transaction runs on, or whose registry does not answer."""

    def __init__(self, *, is_busy: bool = False, is_stuck: bool = False) -> None:
        self.is_busy, self.is_stuck = is_busy, is_stuck
        self.known: set[str] = set()

    def paused(self) -> set[str]:
        return self.known

    async def things(self, tenant: str) -> list[dict[str, Any]]:
        return [{"client": 7}]

    async def pause(self, tenant: str) -> None:
        if not self.is_stuck:
            self.known.add(tenant)
        if self.is_stuck or self.is_busy:
            await asyncio.Event().wait()

    async def resume(self, tenant: str) -> None:
        if self.is_stuck:
            await asyncio.Event().wait()
        self.known.discard(tenant)

    async def kill(self, tenant: str) -> list[dict[str, Any]]:
        await self.pause(tenant)
        return [{"client": 7}]


def of(view: FakeView | None) -> LiveRouter:
    port = None if view is None else SimpleNamespace(has_listener=True, view=view)
    return LiveRouter(Router(Settings.from_mapping(VALUES)), port)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.01)


async def test_a_pause_is_told_to_hold_while_what_runs_is_not_over() -> None:
    view = FakeView(is_busy=True)
    concerned = [{"client": 7}]
    assert await of(view).stop("acme", "pause") == (False, concerned)
    assert view.paused() == {"acme"}
    assert await of(view).stop("acme", "resume") == (True, concerned)
    assert await of(FakeView()).stop("acme", "pause") == (True, concerned)


@pytest.mark.parametrize("verb", ["pause", "kill", "resume"])
async def test_what_was_not_begun_in_time_is_not_told_to_be_done(verb: TenantVerb) -> None:
    view = FakeView(is_stuck=True)
    if verb == "resume":
        view.known.add("acme")
    with pytest.raises(NotBegun):
        await of(view).stop("acme", verb)


async def test_without_a_port_nothing_is_paused_and_what_cannot_be_a_tenant_is_none() -> None:
    with pytest.raises(NoPort):
        await of(None).stop("acme", "pause")
    with pytest.raises(TenantNotFound):
        await of(FakeView()).stop("../x", "pause")
