"""What does tenantproxy look like at work? A PostgreSQL of its own, six tenants, a tour that checks itself."""

from tenantproxy.demo.show import run_demo

__all__ = ["run_demo"]
