"""How does an operator move a tenant? `tenants move`: to another server, or to another kind of place."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.console import Console

from tenantproxy.cli.commands.tenants import tenants_app
from tenantproxy.cli.output import Output
from tenantproxy.cli.tree import DEFAULT_CONFIG, AsJson, ConfigFile, DryRun, command
from tenantproxy.config import Settings, load
from tenantproxy.lifecycle.move import MoveOptions, Mover, MoveState
from tenantproxy.model import Isolation

__all__: list[str] = []

_SAID = {
    MoveState.HAS_PLACE: "the new place is made",
    MoveState.HAS_TABLES: "its tables are made",
    MoveState.FOLLOWS: "it follows the old place",
    MoveState.PAUSED: "the tenant is paused",
    MoveState.COPIED: "its rows are there",
    MoveState.VERIFIED: "both places have the same rows",
    MoveState.SWITCHED: "the new place serves, and the old one goes",
    MoveState.ACTIVE: "the tenant is served from the new place",
}


@command(tenants_app, "move")
def tenants_move(
    tenant: str,
    config: ConfigFile = DEFAULT_CONFIG,
    to_server: Annotated[str | None, typer.Option(help="The server to move it to. [where it is]")] = None,
    to_kind: Annotated[Isolation | None, typer.Option(help="What is to keep it apart. [what does]")] = None,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Remove the old place behind the move, where it was made for the tenant.")
    ] = False,
    drain: Annotated[float, typer.Option(help="Seconds that transactions have to end.", min=0.1)] = 1.0,
    catch_up: Annotated[float, typer.Option(help="Seconds that a new database has to follow.", min=1)] = 3600.0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy in the pause; never by logical replication.")] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Undo a move that was interrupted, and do nothing else.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a tenant to another server, or make a database of its schema, or the reverse, while it is served.

    Its requests wait during the last step. Whatever fails undoes all of it: the old place serves it as before.
    """
    options = MoveOptions(
        server=to_server, isolation=to_kind, drop_old=drop_old, drain=drain, catch_up=catch_up, replicate=not copy
    )
    Output(as_json).table(asyncio.run(_moved(load(config), tenant, options, abort=abort, dry_run=dry_run)))


async def _moved(
    settings: Settings, tenant: str, options: MoveOptions, *, abort: bool, dry_run: bool
) -> dict[str, Any]:
    console = Console(stderr=True)

    def tell(state: MoveState) -> None:
        if console.is_terminal and state in _SAID:
            console.print(_SAID[state], markup=False, highlight=False)

    async with Mover(settings, told=tell).open() as mover:
        if abort:
            return {"tenant": tenant, "state": "undone" if await mover.abort(tenant) else "nothing was interrupted"}
        if dry_run:
            new = await mover.plan(tenant, options)
            return {"tenant": tenant, "state": "would_move", **_place(new.isolation, new)}
        moved = await mover.move(tenant, options)
    return {
        "tenant": tenant,
        "state": "moved",
        **_place(moved.placement.isolation, moved.placement),
        "rows": moved.rows,
        "paused_seconds": round(moved.paused_seconds, 3),
        "followed": moved.followed,
        "left": ", ".join(moved.left),
    }


def _place(isolation: Isolation, place: Any) -> dict[str, Any]:
    return {
        "isolation": isolation.value,
        "server": place.server,
        "database": place.database,
        "schema": place.schema,
        "role": place.role,
    }
