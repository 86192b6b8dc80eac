"""What is each host of a server now? Asks it all the time, by one connection for each.

State: a task for each host, which has its connection. Nothing here decides: see `connect.hosts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, cast

import asyncpg

from tenantproxy.config import Server, Settings
from tenantproxy.connect.host_look import ANONYMOUS_STATE, KNOWN_STATE, state_of
from tenantproxy.connect.hosts import LOOK_SECONDS, Hosts
from tenantproxy.connect.opening import Opening
from tenantproxy.connect.server_tls import ssl_argument
from tenantproxy.connect.tasks import ConnectorTasks
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.joined import JoiningLoop
from tenantproxy.model import PoolKey
from tenantproxy.pools.host_choice import HostState

__all__ = ["HostWatch"]

_LAG_LOOKS: Final = 4  # in the time that a replica may be behind
_ASK_SECONDS: Final = 2.0  # for the answer of a host that was connected to
_NO_DATABASE: Final = ("3D000", "42501", "28000")
_DEFAULT_DATABASE: Final = "postgres"


class HostWatch:
    """Watches the hosts of all servers of a router, while it is open."""

    def __init__(self, settings: Settings, hosts: Mapping[str, Hosts], opening: Opening) -> None:
        self._settings = settings
        self._hosts = hosts
        self._opening = opening
        self._tasks = ConnectorTasks()
        self._lag_of: dict[str, tuple[str, float]] = {}  # of a replica: its primary, and the lag that is allowed
        for name, server in settings.servers.items():
            if server.max_replica_lag:
                self._lag_of |= dict.fromkeys(server.replicas, (name, server.max_replica_lag))
        self._running: set[str] = set()  # servers

    def start(self, *names: str) -> None:
        """Begin to watch the hosts of these servers, or of all those that are not watched yet."""
        for name, hosts in self._hosts.items():
            if name in self._running or (names and name not in names):
                continue
            self._running.add(name)
            if hosts.budget is not None:
                hosts.budget.watch(begins=True)
            for number in range(len(hosts.each)):
                self._tasks.spawn(self._watch(hosts, number))

    async def close(self) -> None:
        """Stop. Safe to call again."""
        await self._tasks.close()
        while self._running:
            budget = self._hosts[self._running.pop()].budget
            if budget is not None:
                budget.watch(begins=False)

    def forget_loop(self) -> None:
        """The event loop has ended."""
        self._tasks.forget_loop()
        self._running.clear()
        for hosts in self._hosts.values():
            hosts.forget_loop()

    async def _watch(self, hosts: Hosts, number: int) -> None:
        con: TenantConnection | None = None
        found: HostState | Exception
        seconds = self._look_seconds(hosts.name)
        try:
            while True:
                if con is not None and hosts.looks_by.is_doubted(number):
                    _end(hosts, number, con)
                    con = None
                try:
                    if con is None:
                        con = await self._open(hosts, number)
                        hosts.looks_by.connected(number, con.get_server_pid())
                    found = await self._ask(con)
                except Exception as exc:  # noqa: BLE001 - a boundary: whatever it was, it is asked again
                    if con is not None:
                        _end(hosts, number, con)
                        con = None
                    found = exc
                hosts.report(number, found)
                self._measure(hosts)
                await hosts.next_look(seconds)
        finally:
            if con is not None:
                _end(hosts, number, con)

    async def _open(self, hosts: Hosts, number: int) -> TenantConnection:
        """By way of the database that was named, or of PostgreSQL's own, or of one that the pools use."""
        server, first = hosts.each[number], hosts.probe_database or _DEFAULT_DATABASE
        try:
            return await self._connect(server, hosts.name, first)
        except asyncpg.PostgresError as exc:
            if exc.sqlstate not in _NO_DATABASE or hosts.database in ("", first):
                raise
        return await self._connect(server, hosts.name, hosts.database)

    async def _connect(self, server: Server, name: str, database: str) -> TenantConnection:
        key = PoolKey(server=name, database=database)
        pins = self._opening.pins(key)
        del pins["default_transaction_read_only"]  # what the server says of it is of interest
        con: TenantConnection = await asyncpg.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=lambda: self._opening.password(key),
            database=database,
            ssl=ssl_argument(server),
            timeout=server.connect_timeout,
            server_settings=pins | {"search_path": "pg_catalog"},
            connection_class=TenantConnection,
            loop=cast(asyncio.AbstractEventLoop, JoiningLoop(asyncio.get_running_loop())),
            max_cached_statement_lifetime=0,
        )
        con.set_user_timeout(max(server.connect_timeout, 10.0))
        return con

    async def _ask(self, con: TenantConnection) -> HostState:
        try:
            rows = await con.fetch(KNOWN_STATE, timeout=_ASK_SECONDS)
        except asyncpg.InsufficientPrivilegeError:  # pg_control_system() was taken from us
            rows = await con.fetch(ANONYMOUS_STATE, timeout=_ASK_SECONDS)
        return state_of(dict(rows[0]))

    def _look_seconds(self, name: str) -> float:
        """How often a host is looked at when all is well."""
        lags = [lag for replica, (primary, lag) in self._lag_of.items() if name in (replica, primary)]
        return min([LOOK_SECONDS, *(lag / _LAG_LOOKS for lag in lags)])

    def _measure(self, hosts: Hosts) -> None:
        for replica, (primary, _) in self._lag_of.items():
            if hosts.name in (replica, primary) and primary in self._hosts:
                budget = self._hosts[replica].budget
                if budget is not None:
                    budget.lag = self._hosts[primary].lag_of(self._hosts[replica])

    def is_behind(self, replica: str) -> bool:
        """Whether a replica is further behind than it may be, or it is not known that it is not."""
        found = self._lag_of.get(replica)
        if found is None:
            return False
        budget = self._hosts[replica].budget
        return budget is None or budget.lag is None or budget.lag > found[1]


def _end(hosts: Hosts, number: int, con: TenantConnection) -> None:
    hosts.looks_by.connected(number, 0)
    con.terminate()
    con.drop_left()
