"""How does a process speak to the main database about its fleet? One connection, for reports and for what is announced.

State: the connection, which is opened when it is needed and thrown away on any doubt. One call at a time is made on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from tenantproxy.config import Server, Settings
from tenantproxy.connect.host_look import HostMoved, NoHost
from tenantproxy.connect.hosts import ChosenHost, Hosts
from tenantproxy.connect.place import Place
from tenantproxy.connect.server_tls import ssl_argument
from tenantproxy.errors import ConfigurationError, ConnectFailed, Problem
from tenantproxy.fleet.listening import SharedConnection
from tenantproxy.fleet.stats import FleetProcess
from tenantproxy.fleet.values import FleetReport, ServerGrant, body, signature

__all__ = ["CHANNEL", "PIDS", "FleetLink", "Stale", "addressed", "connect_main", "connect_serving", "keeps_budgets"]

CHANNEL: Final = "tenantproxy_fleet"
_KEEPS_BUDGETS: Final = (
    "SELECT CASE WHEN f IS NULL THEN false WHEN NOT pg_catalog.pg_is_in_recovery() THEN true END"
    " FROM pg_catalog.to_regprocedure('tenantproxy.fleet_sync(text, uuid, bigint, text, bytea)') f"
)
_SYNC: Final = "SELECT * FROM tenantproxy.fleet_sync($1, $2, $3, $4, $5)"
_VIEW: Final = (
    "SELECT server, process, silent, granted, used, wanted, seen_ms FROM tenantproxy.fleet_view($1)"
    " WHERE process IS NOT NULL ORDER BY server, greatest(granted, used) DESC, process LIMIT $2"
)
_MOST_SHOWN: Final = 500
PIDS: Final = (
    "SELECT pg_catalog.array_agg(a.pid) FROM pg_catalog.pg_stat_get_activity(NULL) a"
    " JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid"
    " WHERE CASE WHEN pg_catalog.cardinality($1::text[]) = 0 THEN NOT (r.rolsuper OR r.rolreplication)"
    " ELSE r.rolname = ANY ($1) END AND a.pid <> pg_catalog.pg_backend_pid()"
)


class Stale(Exception):
    """Main has a newer report under this id."""


class FleetLink:
    """The connection of one process. `heard` is called with the payload of each announcement.

    `hosts`: those of the main server, where it has several. A connection to one that serves no more is not used.
    """

    reaches_main = True

    def __init__(
        self, settings: Settings, *, key: bytes, heard: Callable[[str], None], hosts: Hosts | None = None
    ) -> None:
        self._settings = settings
        self._fleet = settings.fleet
        self._key = key
        self._heard = heard
        self._hosts = hosts
        self._chosen: ChosenHost | None = None  # the host of the connection, where there are several
        self._conn: asyncpg.Connection[Any] | None = None
        self._lock = asyncio.Lock()  # the router's listener uses it too
        self.is_opening = False

    @property
    def count(self) -> int:
        """Connections to the main database that are this link's: 0 or 1."""
        return int(self.is_opening or (self._conn is not None and not self._conn.is_closed()))

    @property
    def pids(self) -> tuple[int, ...]:
        """Their process ids."""
        return () if self._conn is None or self._conn.is_closed() else (self._conn.get_server_pid(),)

    async def sync(self, report: FleetReport, *, timeout: float) -> list[ServerGrant]:
        """One call. Raises Stale, ConfigurationError when this process is refused, TimeoutError, or asyncpg's errors.

        Whatever was raised, the connection is gone: what an interrupted call did is not known.
        """
        text = body(report, ttl=self._fleet.ttl)
        mac = signature(self._key, fleet=self._fleet.id, process=report.process, seq=report.seq, text=text)
        try:
            async with asyncio.timeout(timeout), self._lock:
                conn = await self._connected()
                rows = await conn.fetch(_SYNC, self._fleet.id, report.process, report.seq, text, mac)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError) as exc:
            self._doubt()
            if _is_recovering(exc):
                raise
            raise _refused(exc, self._fleet.id) from exc
        except BaseException:
            self._doubt()
            raise
        if rows and rows[0]["state"] == "stale":
            raise Stale
        return [
            ServerGrant(
                server=row["server"],
                granted=row["granted"],
                target=row["target"],
                epoch=row["epoch"],
                counted=row["counted"],
                is_witness=row["witness"],
                processes=row["processes"],
                ghosts=row["ghosts"],
                is_pending=row["state"] == "later",
            )
            for row in rows
        ]

    async def keeps_budgets(self, *, timeout: float) -> bool | None:
        """Whether the main database does; None: not while it is a standby. Raises as `sync`."""
        try:
            async with asyncio.timeout(timeout), self._lock:
                return await keeps_budgets(await self._connected())
        except BaseException:
            self.drop()
            raise

    async def pids_of(self, users: tuple[str, ...], *, timeout: float) -> tuple[int, ...]:
        """The process ids of `users` on the main database's server. Raises as `sync`."""
        try:
            async with asyncio.timeout(timeout), self._lock:
                conn = await self._connected()
                return tuple(await conn.fetchval(PIDS, list(users)) or ())
        except BaseException:
            self.drop()
            raise

    async def processes(self, *, timeout: float) -> list[FleetProcess]:
        """Who has what. Raises as `sync`; nothing where the main database is of a release that cannot tell."""
        try:
            async with asyncio.timeout(timeout), self._lock:
                conn = await self._connected()
                rows = await conn.fetch(_VIEW, self._fleet.id, _MOST_SHOWN)
        except asyncpg.UndefinedFunctionError:
            return []
        except BaseException:
            self.drop()
            raise
        return [
            FleetProcess(
                server=row["server"],
                process=str(row["process"]),
                state="silent" if row["silent"] else "live",
                granted=row["granted"],
                used=row["used"],
                wanted=round(row["wanted"], 1),
                seen_seconds=round(row["seen_ms"] / 1000),
            )
            for row in rows
        ]

    async def shared(self) -> SharedConnection:
        """The connection, for what listens on it. Raises TimeoutError, or asyncpg's errors."""
        async with self._lock:
            return SharedConnection(await self._connected(), self._lock, self.drop)

    async def _connected(self) -> asyncpg.Connection[Any]:
        if self._conn is not None and not self._conn.is_closed() and self._is_current():
            return self._conn
        self.drop()
        self.is_opening = True
        try:
            conn, self._chosen = await connect_serving(
                _reporting(self._settings), self._settings.main.database, self._hosts
            )
        finally:
            self.is_opening = False
        self._conn = conn
        await conn.add_listener(CHANNEL, self._announced)
        return conn

    def _is_current(self) -> bool:
        try:
            if self._hosts is not None and self._chosen is not None:
                self._hosts.check(self._chosen)
        except HostMoved:
            return False
        return True

    def _doubt(self) -> None:
        """Throw the connection away, and see whether another host serves by now."""
        self.drop()
        if self._hosts is not None:
            self._hosts.doubt()

    def _announced(self, _conn: object, _pid: int, _channel: str, payload: object) -> None:
        self._heard(str(payload))

    def drop(self) -> None:
        """Throw the connection away."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.terminate()

    async def close(self, *, timeout: float = 1.0) -> None:
        """End the connection; after `timeout` seconds without the server."""
        conn, self._conn = self._conn, None
        if conn is not None and not conn.is_closed():
            try:
                await conn.close(timeout=timeout)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                conn.terminate()


async def connect_main(settings: Settings) -> asyncpg.Connection[Any]:
    """A connection to the main database as the user that reports, to its primary. Raises as asyncpg."""
    return await _connect_plain(_reporting(settings), settings.main.database)


def _reporting(settings: Settings) -> Server:
    fleet, server = settings.fleet, settings.servers[settings.main.server]
    return server.model_copy(update={"user": fleet.user, "password": fleet.password}) if fleet.user else server


async def connect_serving(
    server: Server, database: str, hosts: Hosts | None
) -> tuple[asyncpg.Connection[Any], ChosenHost | None]:
    """A connection as the server's own user, for catalogues and our functions: no tenant's.

    `hosts`: those of the server, of which it goes to the one that serves now; None is answered where it has one.
    Raises ConnectFailed while none serves, HostMoved, or as asyncpg.
    """
    if hosts is None or not hosts.is_choosing:
        return await _connect_plain(server, database), None
    try:
        chosen = await hosts.pick(database)
    except NoHost as exc:
        raise ConnectFailed(exc.reason) from exc.cause
    at = {"host": chosen.server.host, "port": chosen.server.port, "hosts": ()}
    place = Place(chosen.server, hosts, chosen)
    async with hosts.while_serving(chosen):
        conn = await _connect_plain(server.model_copy(update=at), database)
        try:
            if place.question is not None and (row := await conn.fetchrow(place.question)) is not None:
                place.confirm(row)  # behind a name or a proxy another server may answer
            place.check()
        except BaseException:
            conn.terminate()
            raise
    return conn, chosen


async def _connect_plain(server: Server, database: str) -> asyncpg.Connection[Any]:
    places = server.each_host
    return await asyncpg.connect(
        host=[place.host for place in places],
        port=[place.port for place in places],
        target_session_attrs=None if len(places) == 1 else SessionAttribute.primary,
        user=server.user,
        password=lambda: server.password.read() if server.password is not None else "",
        database=database,
        ssl=ssl_argument(server),
        timeout=server.connect_timeout,
        server_settings={
            "application_name": "tenantproxy fleet",
            "search_path": "pg_catalog",
            "statement_timeout": "5000",
            "idle_in_transaction_session_timeout": "5000",
            "default_transaction_isolation": "read committed",
            "default_transaction_read_only": "off",
        },
        max_cached_statement_lifetime=0,
    )


async def keeps_budgets(conn: Any) -> bool | None:
    """Whether the main database does; None: not while it is a standby. `conn`: what has asyncpg's `fetchval`."""
    found: bool | None = await conn.fetchval(_KEEPS_BUDGETS)
    return found


def addressed(payload: str, process: UUID) -> bool:
    """Whether an announcement concerns `process`."""
    return payload == "*" or str(process)[:8] in payload.split()


def _is_recovering(exc: asyncpg.PostgresError) -> bool:
    """Whether it is the server that says so, and not our function: it is a standby, as in a failover."""
    return isinstance(exc, asyncpg.ObjectNotInPrerequisiteStateError) and not str(exc.args[0]).startswith("tenantproxy")


def _refused(exc: asyncpg.PostgresError, fleet: str) -> ConfigurationError:
    if isinstance(exc, asyncpg.ObjectNotInPrerequisiteStateError):
        fix = "write the same ttl for all processes, run one release, and run `tenantproxy install --config FILE`"
        return ConfigurationError([Problem(key="fleet.ttl", problem=f"is refused: {exc.args[0]}", fix=fix)])
    fix = "give all processes the same key, and run `tenantproxy install --config FILE` with it"
    problem = f"is not that of the fleet {fleet!r} in the main database, or the role may not call its function"
    return ConfigurationError([Problem(key="fleet.key", problem=problem, fix=fix)])
