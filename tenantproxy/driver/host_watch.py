"""What is each host of a server now? Asks it all the time, by one connection for each.

State: a task for each host, which has its connection. Nothing here decides: see `connect.hosts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, cast

import asyncpg

from tenantproxy.config import Server, Settings
from tenantproxy.connect.failures import LOST
from tenantproxy.connect.host_look import ANONYMOUS_STATE, KNOWN_STATE, state_of
from tenantproxy.connect.hosts import LOOK_SECONDS, Hosts
from tenantproxy.connect.opening import Opening
from tenantproxy.connect.tasks import ConnectorTasks
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.connector import ssl_argument
from tenantproxy.driver.joined import JoiningLoop
from tenantproxy.model import PoolKey
from tenantproxy.pools.host_choice import HostState

__all__ = ["HostWatch"]

_LAG_LOOKS: Final = 4  # in the time that a replica may be behind
_MOST_LAG_SECONDS: Final = 1.0
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
        self._is_running = False

    def start(self) -> None:
        """Begin to watch."""
        self._is_running = True
        for hosts in self._hosts.values():
            if hosts.budget is not None:
                hosts.budget.watch(begins=True)
            for number in range(len(hosts.each)):
                self._tasks.spawn(self._watch(hosts, number))

    async def close(self) -> None:
        """Stop. Safe to call again."""
        await self._tasks.close()
        if self._is_running:
            self._is_running = False
            for hosts in self._hosts.values():
                if hosts.budget is not None:
                    hosts.budget.watch(begins=False)

    def forget_loop(self) -> None:
        """The event loop has ended."""
        self._tasks.forget_loop()
        self._is_running = False
        for hosts in self._hosts.values():
            hosts.forget_loop()

    async def _watch(self, hosts: Hosts, number: int) -> None:
        con: TenantConnection | None = None
        seconds = self._look_seconds(hosts.name)
        try:
            while True:
                try:
                    if con is None:
                        con = await self._open(hosts, number)
                    hosts.report(number, await self._ask(con))
                except (*LOST, TimeoutError) as exc:
                    if con is not None:
                        con.terminate()
                        con.drop_left()
                        con = None
                    hosts.report(number, exc)
                self._measure(hosts)
                await hosts.next_look(seconds)
        finally:
            if con is not None:
                con.terminate()
                con.drop_left()

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
        return min([LOOK_SECONDS, *(min(_MOST_LAG_SECONDS, lag / _LAG_LOOKS) for lag in lags)])

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
