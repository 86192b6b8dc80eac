"""How is the sidecar started, and a running one asked and told?"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tenantproxy.cli import fleet as fleets
from tenantproxy.cli import health as healths
from tenantproxy.cli import read
from tenantproxy.cli import top as tops
from tenantproxy.cli.output import Output
from tenantproxy.cli.shape import Listing
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, app, command, group
from tenantproxy.config import Secret, gather, load

__all__ = ["AdminUrl", "TokenFile", "admin_listener", "serve"]

fleet_app = group("Processes that share the budgets of servers.", Listing)
app.add_typer(fleet_app, name="fleet")
_MOST_WORKERS = 64
AdminUrl = Annotated[str | None, typer.Option("--url", help="The admin listener; default: the configured one.")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="The admin token for any --url; default: the configured one.")
]


@command(app, "serve")
def serve(
    config: ConfigFile = DEFAULT_CONFIG,
    listen: Annotated[str | None, typer.Option(help="host:port of the public listener.")] = None,
    admin_listen: Annotated[str | None, typer.Option(help="host:port of the admin listener.")] = None,
    workers: Annotated[
        str, typer.Option(help="Processes that share the listeners: a number, or auto for one for each core.")
    ] = "1",
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests may take to finish.")
    ] = 30.0,  # as DRAIN_TIMEOUT of the sidecar, which is not imported here
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Run the sidecar until SIGTERM or SIGINT, then drain.

    SIGHUP reloads the configuration, SIGUSR2 lets a new process take over, SIGUSR1 starts the workers again.
    """

    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter("must be DEBUG, INFO, WARNING or ERROR", param_hint="--log-level")
    count = (os.cpu_count() or 1) if workers == "auto" else int(workers) if workers.isdecimal() else 0
    if not 1 <= count <= _MOST_WORKERS:
        raise typer.BadParameter(f"must be auto, or a number from 1 to {_MOST_WORKERS}", param_hint="--workers")
    from tenantproxy.cli import process

    process.run_sidecar(
        lambda: gather(config, overrides={"http.listen": listen, "admin.listen": admin_listen}),
        source=str(config),
        drain_timeout=drain_timeout,
        log_level=log_level.upper(),
        workers=count,
    )


@command(app, "reload")
def reload(
    config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Let the running sidecar take over its configuration as it is now, all or nothing; says what has changed."""
    changed = read.change(*admin_listener(config, url, token_file), "reload")["changed"]
    Output(as_json).rows([{"changed": key} for key in changed], empty="nothing has changed")


@command(app, "upgrade")
def upgrade(
    config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Let a new process take over from the running sidecar, with the code and the configuration of now."""
    Output(as_json).table(read.change(*admin_listener(config, url, token_file), "upgrade"))


@command(app, "restart")
def restart(
    config: ConfigFile = DEFAULT_CONFIG,
    url: AdminUrl = None,
    token_file: TokenFile = None,
    worker: Annotated[
        int | None, typer.Option(min=1, help="This one alone; `fleet workers` lists them. Default: each.")
    ] = None,
) -> None:
    """Start each worker of the running sidecar again, one after the other: new ones first, then the former drain."""
    what = "restart" if worker is None else f"workers/{worker}/restart"
    read.change(*admin_listener(config, url, token_file), what)


@command(app, "top")
def top(
    config: ConfigFile = DEFAULT_CONFIG,
    url: AdminUrl = None,
    token_file: TokenFile = None,
    sort: Annotated[str, typer.Option(help=f"By what pools are sorted: {', '.join(tops.ORDERS)}.")] = tops.ORDERS[0],
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 1.0,
    looks: Annotated[int | None, typer.Option(min=1, help="How many; default: until Ctrl-C.")] = None,
) -> None:
    """Watch budgets and pools of a running sidecar, those first that clients wait for. Ctrl-C ends it."""
    if sort not in tops.ORDERS:
        raise typer.BadParameter(f"must be one of: {', '.join(tops.ORDERS)}", param_hint="--sort")
    try:
        tops.watch(*admin_listener(config, url, token_file), order=sort, seconds=every, looks=looks)
    except KeyboardInterrupt:
        return


@command(app, "health")
def health(
    config: ConfigFile = DEFAULT_CONFIG,
    url: Annotated[str | None, typer.Option(help="The admin listener; default: the configured one.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask whether it is alive, and not whether it is ready.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait for an answer.")] = 2.0,
) -> None:
    """Ask a running sidecar whether it is ready, for health checks of containers. Exits 1 when it is not.

    It needs no token, and sends none.
    """
    address = url if url is not None else read.admin_url(load(config, secrets=False))
    sys.stdout.write(f"{healths.ask_health(address, live=live, timeout=timeout)}\n")


@command(fleet_app, "list")
def fleet_list(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show which process holds and wants how much of each server, and when it was heard of; `fleet` does the same."""
    rows = asyncio.run(fleets.fleet(load(config)))
    Output(as_json).rows(rows, empty="no process has reported yet")


@command(fleet_app, "workers")
def fleet_workers(
    config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show the workers of a running sidecar; `tenantproxy restart --worker N` starts one of them again."""
    rows = read.workers(*admin_listener(config, url, token_file))
    Output(as_json).rows(rows, empty="it has no workers: it serves by itself")


def admin_listener(config: Path, url: str | None, token_file: Path | None) -> tuple[str, Secret | None]:
    """Where the admin listener is, and the token for it."""
    settings = load(config, secrets=False) if url is None or config.is_file() else None
    address = url if url is not None else read.admin_url(settings or load(config, secrets=False))
    token = Secret.file(token_file) if token_file is not None else None
    if token is None and settings is not None and read.may_have_token(address, settings.admin):
        token = next((each.token for _, each in settings.admin.each_token), None)
    return address, token
