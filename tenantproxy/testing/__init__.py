"""How does an application test that its tenants stay apart? Assertions, a guard, and a router without PostgreSQL.

The pytest plugin `tenantproxy.testing.plugin` (the extra `testing`) has fixtures of the same names.
"""

from tenantproxy.testing.fake_router import FakeCall, FakeRouter
from tenantproxy.testing.guard import LeakGuard
from tenantproxy.testing.isolated import IsolationLeak, assert_isolated
from tenantproxy.testing.pair import TwoTenants

__all__ = ["FakeCall", "FakeRouter", "IsolationLeak", "LeakGuard", "TwoTenants", "assert_isolated"]
