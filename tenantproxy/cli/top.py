"""What does an operator watch on a terminal? Budgets and pools of a running sidecar; how they look is pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tenantproxy.cli import read
from tenantproxy.config import Secret
from tenantproxy.errors import TenantProxyError
from tenantproxy.printable import line_text, printable

__all__ = ["ORDERS", "shown", "watch"]

_HEADING: Final = 8  # lines that are no pools
_BUSY: Final = 0.9  # of a limit
_ORDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "waiting": ("waiting", "used"),
    "used": ("used", "waiting"),
    "name": (),
}
ORDERS: Final = tuple(_ORDERS)
"""By what pools may be sorted."""

Rows = Sequence[Mapping[str, Any]]


def shown(servers: Rows, pools: Rows, *, order: str = "waiting", lines: int = 40, said: str = "") -> RenderableType:
    """One look: a line for each server, then the pools that matter most, as many as `lines` hold. `said`: below it."""
    parts: list[RenderableType] = [_servers(servers), _pools(pools, order, max(1, lines - _HEADING - len(servers)))]
    if said:
        parts.append(Text(printable(said), style="red"))
    return Group(*parts)


def _servers(servers: Rows) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("server", "connections", "", "limit", "waiting pools", "host"):
        table.add_column(name, justify="right" if name in ("limit", "waiting pools") else "left")
    for each in servers:
        used, limit = each["connections"], each["limit"]
        style = "red" if not each["up"] or (limit and used >= _BUSY * limit) else "green"
        bar = ProgressBar(total=max(1, limit), completed=used, width=20, complete_style=style, finished_style=style)
        where = each["host"] if each["up"] else "down"
        waiting = str(each["waiting_pools"])
        table.add_row(escape(line_text(each["server"])), str(used), bar, str(limit), waiting, escape(line_text(where)))
    return table


def _pools(pools: Rows, order: str, most: int) -> Table:
    ordered = sorted(pools, key=lambda pool: (*(-pool[name] for name in _ORDERS[order]), pool["label"]))
    waiting, used = (sum(pool[name] for pool in pools) for name in ("waiting", "used"))
    title = f"{len(pools)} pools, {used} connections used, {waiting} waiting"
    more = len(ordered) - most
    table = Table(title=title, title_justify="left", expand=True, caption=f"and {more} more" if more > 0 else None)
    for name in ("pool", "used", "limit", "idle", "changing", "waiting", "oldest wait"):
        table.add_column(name, justify="left" if name == "pool" else "right", overflow="ellipsis", no_wrap=True)
    for pool in ordered[:most]:
        changing = pool["opening"] + pool["resetting"] + pool["retiring"]
        oldest = max((tenant["oldest_wait_seconds"] for tenant in pool["tenants"]), default=0.0)
        counts = (pool["used"], pool["limit"], pool["idle"], changing, pool["waiting"])
        style = "red" if pool["waiting"] else None
        wait = f"{oldest:.2f} s" if pool["waiting"] else ""
        table.add_row(escape(line_text(pool["label"])), *map(str, counts), wait, style=style)
    return table


def watch(url: str, token: Secret | None, *, order: str, seconds: float, looks: int | None) -> None:
    """Look every `seconds`, `looks` times (None: until Ctrl-C). Raises TenantProxyError where the first look fails.

    A later one that fails is said below what was seen last.
    """
    console = Console()
    servers, pools = read.servers(url, token), read.raw_pools(url, token)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        said = ""
        while True:
            lines = console.height if console.is_terminal else len(pools) + len(servers) + _HEADING
            live.update(shown(servers, pools, order=order, lines=lines, said=said), refresh=True)
            looks = None if looks is None else looks - 1
            if looks is not None and looks <= 0:
                return
            time.sleep(seconds)
            try:
                servers, pools, said = read.servers(url, token), read.raw_pools(url, token), ""
            except TenantProxyError as exc:
                said = f"{exc.message}: {exc.hint or exc.detail or ''}"
