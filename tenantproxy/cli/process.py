"""Runs the sidecar and the demo in this process. Imported by their commands alone: it needs the extra [sidecar]."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console

from tenantproxy.config import Settings, check_budgets, settled
from tenantproxy.demo import run_demo, run_system
from tenantproxy.errors import TenantProxyError
from tenantproxy.metrics.logging import LogObserver
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar, run
from tenantproxy.sidecar.generation import Generation
from tenantproxy.sidecar.logs import configure_logging
from tenantproxy.sidecar.process import Process
from tenantproxy.sidecar.sockets import bound, duplicates, listeners
from tenantproxy.sidecar.systemd import Notifier, activated
from tenantproxy.sidecar.traces import ProcessTraces
from tenantproxy.sidecar.upgrade import Predecessor
from tenantproxy.sidecar.workers.supervisor import Supervisor, WorkerPlan, run_plain

__all__ = ["run_sidecar", "show_demo"]

logger = logging.getLogger("tenantproxy")

Gather = Callable[[], Mapping[str, Any]]


def run_sidecar(gather: Gather, *, source: str, drain_timeout: float, log_level: str, workers: int = 1) -> None:
    """Serve what `gather()` says until SIGTERM or SIGINT, then drain for `drain_timeout` seconds.

    `workers`: more than one are processes of their own, and this one is their supervisor. `source` is for errors.
    """
    configure_logging(level=log_level)

    async def serve() -> None:
        predecessor = await Predecessor.of_environment()
        try:
            await _serve(gather, source, predecessor, drain_timeout, log_level, workers)
        except TenantProxyError as exc:
            if predecessor is not None:
                await predecessor.say("failed", str(exc))
            raise

    (run if workers == 1 else run_plain)(serve())


async def _serve(
    gather: Gather, source: str, predecessor: Predecessor | None, drain_timeout: float, log_level: str, workers: int
) -> None:
    def reread() -> Settings:
        return settled(gather(), source=source)

    values = gather()
    settings = settled(values, source=source)
    configure_logging(level=log_level, form=settings.log.format)
    check_budgets(settings, workers if workers > 1 else 0)
    addresses = listeners(settings)
    sockets = activated(addresses) if predecessor is None else predecessor.take(addresses)
    for name, listen in addresses.items():
        if name not in sockets:
            sockets[name] = bound(name, listen)
    generation = Generation()
    process = Process(
        drain_delay=lambda: service.drain_delay,
        notifier=Notifier.of_environment(is_successor=predecessor is not None),
        sockets=sockets,
        addresses=addresses,
        predecessor=predecessor,
        generation=generation,
    )
    service: Sidecar | Supervisor
    if workers == 1:
        traces = ProcessTraces.configured(settings)
        router = Router(settings, observer=LogObserver(), watch=traces.watch)
        service = Sidecar(
            router,
            drain_timeout=drain_timeout,
            reread=reread,
            sockets=duplicates(sockets),
            controls=process,
            seen=traces.seen,
        )
        await process.run(service, lambda: _say_where(service))
        return
    plan = WorkerPlan(workers=workers, gather=gather, source=source, drain_timeout=drain_timeout, log_level=log_level)
    service = Supervisor(settings, values, plan=plan, sockets=sockets, controls=process, inherited=(generation.held,))
    process.restarter = service.restart
    await process.run(service, lambda: _say_where(service))


def _say_where(service: Sidecar | Supervisor) -> None:
    where = {"public": service.public_url, "admin": service.admin_url, "pg": service.pg_address, "pid": os.getpid()}
    try:
        sys.stdout.write(json.dumps(where) + "\n")
        sys.stdout.flush()
    except OSError as exc:  # who read it has gone, perhaps at the start of the process before this one
        logger.warning("where it listens could not be told (%s): %s", exc.strerror, where)
        with suppress(OSError):  # else Python tries again when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_demo(*, once: bool, tour: str, system: str | None = None) -> int:
    """Run the demo, or its tour; with `system` that of this platform. Returns the exit code."""
    configure_logging(level="ERROR" if once else "WARNING")
    if system is not None:
        return run(run_system(_wide_console(), system, once=once))
    return run(run_demo(_wide_console(), once=once, tour=tour))


def _wide_console() -> Console:
    """For a pipe or a file: a table that is folded to 80 columns is hard to read there."""
    return Console() if sys.stdout.isatty() else Console(width=150)
