"""Which tables does the console show? PgBouncer's columns in its order and of its types, where it has them.

What PgBouncer calls a database is a tenant here, and a pool's user the one that we connect to the server as. Columns
that its releases before 1.8 and 1.24 had under another name, which exporters still ask for, stand at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from tenantproxy.config import Settings, describe, listen_address
from tenantproxy.config.changes import is_taken_over
from tenantproxy.pools.base import PoolStats, Stats
from tenantproxy.sidecar.pg.console.stats import (
    AVERAGE_NAMES,
    AVERAGES_NAMES,
    TOTAL_NAMES,
    TOTALS_NAMES,
    Averages,
    stats_averages,
    stats_both,
    stats_totals,
)
from tenantproxy.sidecar.pg.console.view import ClientRow, ConsoleView, ServerRow

__all__ = ["INT4", "INT8", "NUMERIC", "TABLES", "TEXT", "Averages", "Cell", "Row", "Table"]

INT4, INT8, NUMERIC, TEXT = 23, 20, 1700, 25
_TYPES: Final = {"i": INT4, "q": INT8, "N": NUMERIC, "s": TEXT}

Cell: TypeAlias = str | int | None
Row: TypeAlias = Sequence[Cell]

_CONSOLE: Final = "tenantproxy"


@dataclass(frozen=True, slots=True)
class Table:
    """A SHOW command: its columns as `name:type`, and how its rows are read."""

    columns: tuple[str, ...]
    types: tuple[int, ...]
    rows: Callable[[ConsoleView, Averages], Iterable[Row]]


def _table(columns: str, rows: Callable[[ConsoleView, Averages], Iterable[Row]]) -> Table:
    """`columns`: names, each behind the letter of its type, as in `s:database i:cl_active`."""
    pairs = [column.split(":") for column in columns.split()]
    return Table(tuple(name for _, name in pairs), tuple(_TYPES[kind] for kind, _ in pairs), rows)


# --- pools ----------------------------------------------------------------------------------------------------------
class _PoolRow:
    """The sums of one row of SHOW POOLS."""

    def __init__(self) -> None:
        self.active_clients = self.waiting_clients = 0
        self.active = self.idle = self.resetting = self.opening = 0
        self.longest_wait = 0.0
        self.modes: set[str] = set()


def _pools(view: ConsoleView, _: Averages) -> Iterator[Row]:
    for (database, user), row in sorted(_pool_rows(view).items()):
        seconds, micros = _split(row.longest_wait)
        mode = "session" if row.modes == {"session"} else "transaction"
        yield (
            database, user, row.active_clients, row.waiting_clients, 0, 0, max(0, row.active), 0, 0, row.idle, 0,
            row.resetting, row.opening, seconds, micros, mode, None,
        )  # fmt: skip


def _pool_rows(view: ConsoleView) -> dict[tuple[str, str], _PoolRow]:
    """By (tenant, user of the server): one row each, also where a tenant has several pools."""
    rows: dict[tuple[str, str], _PoolRow] = {}
    users: dict[str, str] = {}  # tenant -> user of the server
    for pool in view.stats().pools:
        user = _server_user(view.settings, pool)
        own = rows.setdefault((pool.label, user), _PoolRow())
        own.idle += pool.idle
        own.resetting += pool.resetting
        own.opening += pool.opening
        own.active += pool.used
        for tenant in pool.tenants:
            row = own
            if pool.key.shared:
                row = rows.setdefault((tenant.tenant, user), _PoolRow())
                row.active += tenant.leased
                own.active -= tenant.leased
                users.setdefault(tenant.tenant, user)
            row.longest_wait = max(row.longest_wait, tenant.oldest_wait_seconds)
        users.setdefault(pool.label, user)
    default = view.settings.servers[view.settings.main.server].user
    for client in view.clients():
        if client.tenant is None:
            continue
        row = rows.setdefault((client.tenant, users.get(client.tenant, default)), _PoolRow())
        if client.state == "waiting":
            row.waiting_clients += 1
        else:
            row.active_clients += 1
        row.modes.add(client.pool_mode)
    return rows


def _server_user(settings: Settings, pool: PoolStats) -> str:
    server = settings.servers.get(pool.key.server)
    return pool.key.user or (server.user if server is not None else "")


# --- tenants --------------------------------------------------------------------------------------------------------
def _tenants_seen(view: ConsoleView, stats: Stats) -> list[str]:
    """Those that have a client or a connection, or are paused: the registry may know a million more."""
    seen = {client.tenant for client in view.clients() if client.tenant is not None} | set(view.paused())
    for pool in stats.pools:
        if pool.key.shared:
            seen |= {tenant.tenant for tenant in pool.tenants}
        elif "/" not in pool.label:  # a server/database is the main one's label, and no tenant's
            seen.add(pool.label)
    return sorted(seen)


def _tenants(view: ConsoleView, _: Averages) -> Iterator[Row]:
    stats, paused = view.stats(), view.paused()
    clients = _clients_by_tenant(view.clients())
    pinned = _clients_by_tenant(client for client in view.clients() if client.is_pinned)
    for name in _tenants_seen(view, stats):
        mine = [tenant for pool in stats.pools for tenant in pool.tenants if tenant.tenant == name]
        ended = stats.acquires.get(name, {})
        wait = max((tenant.oldest_wait_seconds for tenant in mine), default=0.0)
        yield (
            name, clients.get(name, 0), sum(one.leased for one in mine), sum(one.waiting for one in mine),
            round(wait * 1e6), max((one.max_size for one in mine), default=None), int(name in paused),
            ended.get("ok", 0), ended.get("timeout", 0), ended.get("rejected", 0), ended.get("cancelled", 0),
            ended.get("error", 0), pinned.get(name, 0),
        )  # fmt: skip


def _clients_by_tenant(clients: Iterable[ClientRow]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for client in clients:
        if client.tenant is not None:
            counts[client.tenant] = counts.get(client.tenant, 0) + 1
    return counts


def _databases(view: ConsoleView, _: Averages) -> Iterator[Row]:
    """One row for a database, shared or not: exporters take its name as a label, and labels must be distinct."""
    settings, clients = view.settings, list(view.clients())
    lifetime, limit = round(settings.pools.max_lifetime), settings.pg.max_clients
    port = listen_address(settings.pg.listen)[1] if settings.pg.listen else 0
    consoles = sum(client.tenant is None for client in clients)
    yield (
        _CONSOLE, None, port, _CONSOLE, None, 0, 0, 0, lifetime, "transaction", None, 0, 0, limit, consoles, 0, 0, 0,
    )  # fmt: skip
    places: dict[tuple[str, str], list[PoolStats]] = {}
    for pool in view.stats().pools:
        places.setdefault((pool.key.server, pool.key.database), []).append(pool)
    for (server, database), pools in sorted(places.items()):
        labels = {pool.label for pool in pools}
        is_own = len(labels) == 1 and pools[0].key.schema is None
        name = pools[0].label if is_own else f"{server}/{database}"
        host, at = _host_of(settings, server, {each.server: each.host for each in view.stats().servers})
        size = sum(pool.limit for pool in pools)
        yield (
            name, host, at, database,
            _server_user(settings, pools[0]), size, 0, 0, lifetime, None, None, size, _open(pools), limit,
            sum((client.pool or client.tenant) in labels for client in clients), int(name in view.paused()), 0, 0,
        )  # fmt: skip


def _host_of(settings: Settings, server: str, serving: Mapping[str, str]) -> tuple[str | None, int]:
    """The host and port that serve, of several; else those that are configured."""
    host, colon, port = serving.get(server, "").rpartition(":")
    if colon:
        return host, int(port)
    place = settings.servers.get(server)
    return (place.host, place.port) if place is not None else (None, 0)


def _open(pools: Iterable[PoolStats]) -> int:
    return sum(pool.idle + pool.used + pool.opening + pool.resetting + pool.retiring for pool in pools)


# --- clients and servers ----------------------------------------------------------------------------------------------
_SOCKET: Final = (
    "s:type s:user s:database s:replication s:state s:addr i:port s:local_addr i:local_port s:connect_time"
    " s:request_time i:wait i:wait_us i:close_needed s:ptr s:link i:remote_pid s:tls s:application_name"
    " i:prepared_statements i:id i:worker"
)


def _clients(view: ConsoleView, _: Averages) -> Iterator[Row]:
    for client in view.clients():
        database = client.tenant or _CONSOLE
        names = (f"c{client.id:x}", "" if client.server_id is None else f"s{client.server_id:x}")
        seconds, micros = _split(client.waiting_seconds)
        yield (
            "C", client.user, database, *_ends(client), seconds, micros, 0, *names, 0, client.tls,
            client.application_name, client.prepared_statements, client.id, client.worker,
        )  # fmt: skip


def _servers(view: ConsoleView, _: Averages) -> Iterator[Row]:
    for server in view.servers():
        database = server.tenant or f"{server.server}/{server.database}"
        names = (f"s{server.id:x}", "" if server.client_id is None else f"c{server.client_id:x}")
        yield (
            "S", server.user, database, *_ends(server), 0, 0, 0, *names, server.pid, server.tls,
            server.application_name, server.prepared_statements, server.id, server.worker,
        )  # fmt: skip


def _ends(row: ClientRow | ServerRow) -> Row:
    """From `replication` to `request_time`."""
    return (
        "none", row.state, row.address, row.port, row.local_address, row.local_port, _moment(row.connected_at),
        _moment(row.requested_at),
    )  # fmt: skip


def _split(seconds: float) -> tuple[int, int]:
    """Whole seconds, and the microseconds beyond them."""
    return divmod(round(seconds * 1e6), 1_000_000)


def _moment(unix: float | None) -> str:
    return "" if unix is None else datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- the rest ---------------------------------------------------------------------------------------------------------
def _lists(view: ConsoleView, _: Averages) -> Iterator[Row]:
    stats, clients = view.stats(), list(view.clients())
    yield "databases", len({(pool.key.server, pool.key.database) for pool in stats.pools}) + 1
    yield "users", len(view.settings.pg.users)
    yield "peers", 0
    yield "pools", len(stats.pools)
    yield "peer_pools", 0
    yield "free_clients", 0
    yield "used_clients", len(clients)
    yield "login_clients", view.unauthenticated
    yield "free_servers", 0
    yield "used_servers", _open(stats.pools)
    yield from ((name, 0) for name in ("dns_names", "dns_zones", "dns_queries", "dns_pending"))


def _users(view: ConsoleView, _: Averages) -> Iterator[Row]:
    clients: dict[str, int] = {}
    servers: dict[str, int] = {}
    for client in view.clients():
        clients[client.user] = clients.get(client.user, 0) + 1
        servers[client.user] = servers.get(client.user, 0) + (client.server_id is not None)
    for name, user in sorted(view.settings.pg.users.items()):
        limit = view.settings.pg.of_user(name)
        yield name, "", "", user.pool_mode, 0, servers.get(name, 0), limit, clients.get(name, 0)


def _workers(view: ConsoleView, _: Averages) -> Iterator[Row]:
    clients: dict[int, int] = {}
    for client in view.clients():
        clients[client.worker] = clients.get(client.worker, 0) + 1
    for each in sorted(view.workers(), key=lambda row: row.number):
        yield (
            each.number, each.pid, each.state, clients.get(each.number, 0), _moment(each.started_at), each.restarts,
            each.version,
        )  # fmt: skip


def _limits(view: ConsoleView, _: Averages) -> Iterator[Row]:
    yield from ((each.name, each.limit, each.used, each.holder, each.refused) for each in view.limits())


def _config(view: ConsoleView, _: Averages) -> Iterator[Row]:
    settings = view.settings
    now = dict(_flat("", {key: value for key, value in describe(settings).items() if key != "tenants"}))
    unset = dict(_flat("", describe(_default(settings))))
    names = {**_of_pgbouncer(settings), "data_path": "compiled"}
    now["data_path"] = view.data_path
    for key, value in sorted({**names, **now}.items()):
        yield key, value, names.get(key, unset.get(key)), "yes" if is_taken_over(tuple(key.split("."))) else "no"


def _default(settings: Settings) -> Settings:
    return Settings(main=settings.main, servers=settings.servers)


def _flat(prefix: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(f"{prefix}{key}.", item)
        elif isinstance(item, list):
            yield f"{prefix}{key}", ", ".join(map(str, item))
        else:
            yield f"{prefix}{key}", str(item).lower() if isinstance(item, bool) else str(item)


def _of_pgbouncer(settings: Settings) -> dict[str, str]:
    """What tools look for under PgBouncer's names."""
    return {
        "default_pool_size": str(settings.pools.max_size),
        "max_client_conn": str(settings.pg.max_clients),
        "max_user_connections": "0",
        "max_user_client_connections": str(settings.pg.max_clients_per_user),
        "pool_mode": "transaction",
        "query_wait_timeout": f"{settings.pools.acquire_timeout:g}",
        "server_idle_timeout": f"{settings.pools.idle_timeout:g}",
        "server_lifetime": f"{settings.pools.max_lifetime:g}",
    }


def _state(view: ConsoleView, _: Averages) -> Iterator[Row]:
    yield from (("active", "yes"), ("paused", "no"), ("suspended", "no"))


TABLES: Final[Mapping[str, Table]] = {
    "POOLS": _table(
        "s:database s:user i:cl_active i:cl_waiting i:cl_active_cancel_req i:cl_waiting_cancel_req i:sv_active"
        " i:sv_active_cancel i:sv_being_canceled i:sv_idle i:sv_used i:sv_tested i:sv_login i:maxwait i:maxwait_us"
        " s:pool_mode s:load_balance_hosts",
        _pools,
    ),
    "TENANTS": _table(
        "s:tenant i:clients i:leased i:waiting q:maxwait_us i:max_size i:paused q:acquired q:timed_out q:rejected"
        " q:cancelled q:failed i:pinned",
        _tenants,
    ),
    "CLIENTS": _table(_SOCKET, _clients),
    "SERVERS": _table(_SOCKET, _servers),
    "DATABASES": _table(
        "s:name s:host i:port s:database s:force_user i:pool_size i:min_pool_size i:reserve_pool_size"
        " i:server_lifetime s:pool_mode s:load_balance_hosts i:max_connections i:current_connections"
        " i:max_client_connections i:current_client_connections i:paused i:disabled i:reserve_pool",
        _databases,
    ),
    "STATS": _table(f"s:database {TOTAL_NAMES} {AVERAGE_NAMES} N:total_requests", stats_both),
    "STATS_TOTALS": _table(f"s:database {TOTALS_NAMES}", stats_totals),
    "STATS_AVERAGES": _table(f"s:database {AVERAGES_NAMES}", stats_averages),
    "LISTS": _table("s:list i:items", _lists),
    "USERS": _table(
        "s:name s:pool_size s:reserve_pool_size s:pool_mode i:max_user_connections i:current_connections"
        " i:max_user_client_connections i:current_client_connections",
        _users,
    ),
    "WORKERS": _table("i:worker i:pid s:state i:clients s:started_at i:restarts s:version", _workers),
    "LIMITS": _table("s:limit q:value q:used s:holder q:refused", _limits),
    "CONFIG": _table("s:key s:value s:default s:changeable", _config),
    "STATE": _table("s:key s:value", _state),
    "VERSION": _table("s:version", lambda view, _: [(f"tenantproxy {view.version}",)]),
}
"""By the word behind SHOW."""
