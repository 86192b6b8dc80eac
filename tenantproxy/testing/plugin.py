"""Fixtures for pytest: `two_tenants`, `leak_guard`, `assert_isolated`, `fake_router`.

Loaded by pytest itself wherever tenantproxy is installed; `-p no:tenantproxy` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tenantproxy.config import Settings
    from tenantproxy.testing import FakeRouter, LeakGuard, TwoTenants

_CONFIG = "tenantproxy_config"
_TENANTS = "tenantproxy_tenants"


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    group = parser.getgroup("tenantproxy")
    group.addoption("--tenantproxy-config", dest=_CONFIG, metavar="FILE", help="The TOML file for two_tenants.")
    parser.addini(_CONFIG, "The TOML file for two_tenants, from the folder of this file.")
    parser.addini(_TENANTS, "The two tenants that two_tenants gives; default: the first two of one kind.", type="args")


@pytest.fixture(scope="session")
def tenantproxy_settings(pytestconfig: pytest.Config) -> Settings:
    """The configuration of `two_tenants`: override it to build one in code. Fails where no file is named."""
    from tenantproxy.config import load

    given = pytestconfig.getoption(_CONFIG)
    if given is None and (named := pytestconfig.getini(_CONFIG)):
        given = str((pytestconfig.inipath or pytestconfig.rootpath).parent / named)
    if given is None:
        pytest.fail(
            "two_tenants needs a configuration: --tenantproxy-config FILE, tenantproxy_config = FILE in pytest's"
            " configuration, or a fixture tenantproxy_settings of your own",
            pytrace=False,
        )
    return load(given)


@pytest.fixture(scope="session")
def two_tenants(pytestconfig: pytest.Config, tenantproxy_settings: Settings) -> TwoTenants:
    """Two registered tenants of one kind, on a real PostgreSQL."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from tenantproxy.testing.pair import find_two

    wanted = pytestconfig.getini(_TENANTS)
    with ThreadPoolExecutor(1) as thread:  # a loop may run in this one
        return thread.submit(lambda: asyncio.run(find_two(tenantproxy_settings, wanted))).result()


@pytest.fixture
def leak_guard() -> Iterator[LeakGuard]:
    """Finds data, connections and tenants that a test leaks; see `LeakGuard`."""
    from tenantproxy.testing import LeakGuard

    guard = LeakGuard()
    yield guard
    guard.check()


@pytest.fixture
def assert_isolated() -> Any:
    """See `tenantproxy.testing.assert_isolated`."""
    from tenantproxy.testing import assert_isolated as function

    return function


@pytest.fixture
def fake_router() -> FakeRouter:
    """A `FakeRouter` with the tenants acme and globex, open."""
    from tenantproxy.testing import FakeRouter

    return FakeRouter(["acme", "globex"])
