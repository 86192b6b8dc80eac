"""Runs the sidecar and the demo in this process. Imported by their commands alone: it needs the extra [sidecar]."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from rich.console import Console

from tenantproxy.config import Settings
from tenantproxy.demo import run_demo
from tenantproxy.metrics.logging import LogObserver
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar, run, serve_until_signalled
from tenantproxy.sidecar.logs import configure_logging

__all__ = ["run_sidecar", "show_demo"]


def run_sidecar(reread: Callable[[], Settings], *, drain_timeout: float, log_level: str) -> None:
    """Serve what `reread()` says until SIGTERM or SIGINT, then drain for `drain_timeout` seconds."""
    settings = reread()
    configure_logging(level=log_level)

    async def serve() -> None:
        router = Router(settings, observer=LogObserver())
        await serve_until_signalled(Sidecar(router, drain_timeout=drain_timeout, reread=reread), _say_where)

    run(serve())


def _say_where(sidecar: Sidecar) -> None:
    where = {"public": sidecar.public_url, "admin": sidecar.admin_url, "pg": sidecar.pg_address, "pid": os.getpid()}
    sys.stdout.write(json.dumps(where) + "\n")
    sys.stdout.flush()


def show_demo(*, once: bool) -> int:
    """Run the demo, or its tour; returns the exit code."""
    configure_logging(level="ERROR" if once else "WARNING")
    return run(run_demo(_wide_console(), once=once))


def _wide_console() -> Console:
    """For a pipe or a file: a table that is folded to 80 columns is hard to read there."""
    return Console() if sys.stdout.isatty() else Console(width=150)
