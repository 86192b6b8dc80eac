"""What can an operator type? `tenantproxy --help`."""

from tenantproxy.cli.main import main

__all__ = ["main"]
