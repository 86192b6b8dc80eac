"""What does an operator see of the pools and servers of a running sidecar, and stop or end there?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from tenantproxy.cli import operate, read
from tenantproxy.cli.commands.sidecar import AdminUrl, TokenFile, admin_listener
from tenantproxy.cli.output import Output
from tenantproxy.cli.shape import Listing
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, app, command, group

__all__: list[str] = []

pools_app = group("Show the open pools of a running sidecar; stop a tenant there, or close what it has.", Listing)
servers_app = group("Show the servers of a running sidecar, and what of their budgets is taken.", Listing)
app.add_typer(pools_app, name="pools")
app.add_typer(servers_app, name="servers")

_SHOWN: Final = ("server", "up", "host", "connections", "limit", "waiting_pools", "lingering", "max_connections")
Tenants = Annotated[list[str], typer.Argument(help="Its identifier; several are done one after the other.")]


@command(pools_app, "list")
def pools_list(
    config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show the open pools; `pools` alone does the same.

    The configured admin token goes to this machine and to the hosts that [admin] names, and nowhere else.
    """
    rows = read.pools(*admin_listener(config, url, token_file))
    Output(as_json).rows(rows if as_json else read.for_readers(rows), empty="no pool is open")


@command(pools_app, "show")
def pools_show(
    tenant: Annotated[str, typer.Argument(help="Its identifier.")],
    config: ConfigFile = DEFAULT_CONFIG,
    url: AdminUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what a tenant holds and waits for, since when, and its clients of the PostgreSQL port."""
    view = operate.pool_of(*admin_listener(config, url, token_file), tenant)
    if as_json:
        Output(True).tree(view)
        return
    Output(False).rows([{**pool, "held": len(pool["held"])} for pool in view["pools"]], empty="no pool is open")
    Output(False).rows([_client(each) for each in view["clients"]], empty="no client of the port")


def _client(client: dict[str, object]) -> dict[str, object]:
    names = ("id", "user", "application_name", "address", "state", "seconds", "pool_mode")
    return {name: client[name] for name in names}


_STOPS: Final = {
    "evict": "Close the connections of tenants: idle ones now, the others when they are released. They open again at"
    " once.",
    "pause": "Let what runs for tenants at the PostgreSQL port end, and nothing begin: clients wait. `idle`: all has"
    " ended.",
    "resume": "Serve the clients of tenants at the PostgreSQL port again, after `pause` or `kill`.",
    "drain": "Close the connections of tenants, and let their clients of the port go, each when nothing of it is under"
    " way.",
    "kill": "End the clients of tenants at the port and what runs for them, now; none comes in before `resume`.",
}


def _stopping(verb: str, says: str) -> None:
    """The command `pools VERB`: all of them take the same."""

    def stop(
        tenant: Tenants,
        config: ConfigFile = DEFAULT_CONFIG,
        url: AdminUrl = None,
        token_file: TokenFile = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        _all(verb, tenant, (config, url, token_file), dry_run=dry_run, as_json=as_json)

    stop.__doc__ = says
    command(pools_app, verb)(stop)


for _verb, _says in _STOPS.items():
    _stopping(_verb, _says)


def _all(
    verb: str, tenants: list[str], where: tuple[Path, str | None, Path | None], *, dry_run: bool, as_json: bool
) -> None:
    """A row for each. What fails ends it; those before it are done, and done again they are as they were."""
    at = admin_listener(*where)
    rows = [_would(operate.pool_of(*at, each), verb) if dry_run else operate.stop(*at, each, verb) for each in tenants]
    Output(as_json).rows(rows, empty="")


def _would(view: dict[str, list[object]], verb: str) -> dict[str, object]:
    counts = {"pools": len(view["pools"]), "clients": len(view["clients"])}
    return {"tenant": view["tenant"], "state": f"would_{verb}", **counts}


@command(servers_app, "list")
def servers_list(
    config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show the servers; `servers` alone does the same."""
    rows = read.servers(*admin_listener(config, url, token_file))
    shown = rows if as_json else [{name: row[name] for name in _SHOWN} for row in rows]
    Output(as_json).rows(shown, empty="no server")
