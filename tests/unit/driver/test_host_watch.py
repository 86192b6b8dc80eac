"""Does a watch of a host go on, whatever goes wrong in it?"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tenantproxy.connect.key_file import UnusableFile
from tenantproxy.driver.host_watch import HostWatch
from tests.support.waiting import until


class FakeHosts:
    """One host, which is looked at over and over."""

    name, each, budget = "primary", (object(),), None

    def __init__(self) -> None:
        self.reports: list[object] = []

    def report(self, number: int, found: object) -> None:
        self.reports.append(found)

    async def next_look(self, seconds: float) -> None:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "error",
    [
        UnusableFile("ssl_key_file", "has permissions 0644", "chmod it"),  # while a certificate is replaced
        ValueError("a server that lies: no number"),
        OSError("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_look_that_fails_for_any_reason_is_reported_and_there_is_a_next_one(error: Exception) -> None:
    class Watch(HostWatch):
        async def _open(self, hosts: Any, number: int) -> Any:
            raise error

    settings: Any = type("Settings", (), {"servers": {}})
    hosts = FakeHosts()
    watch = Watch(settings, cast("Any", {"primary": hosts}), cast("Any", None))
    watch.start()
    try:
        await until(lambda: len(hosts.reports) >= 3, "it was looked at again")
        assert hosts.reports[:3] == [error] * 3
    finally:
        await watch.close()
