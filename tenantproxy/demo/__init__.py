"""What does tenantproxy look like at work? A PostgreSQL of its own, tenants, and tours that check themselves."""

from tenantproxy.demo.show import run_demo
from tenantproxy.demo.system_show import run_system

__all__ = ["run_demo", "run_system"]
