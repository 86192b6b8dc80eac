"""What can an operator type? `tenantproxy --help`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point of the command `tenantproxy`; says which extra has it where that is not installed."""
    try:
        from tenantproxy.cli.main import main as run
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("tenantproxy"):
            raise
        sys.exit(f'error: the command line needs {exc.name}: pip install "tenantproxy[cli]"')
    run()
