"""Which configured server does a connection string in a document mean? It is compared, never dialled; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from tenantproxy.config import Settings
from tenantproxy.config.host_values import host_port
from tenantproxy.config.mongo_section import mongo_host

__all__ = ["ConfiguredPlaces", "NoSuchPlace", "PlaceNamed"]

_POSTGRES: Final = ("postgres", "postgresql")
_MONGO: Final = "mongodb"
_LOOPBACK: Final = {"localhost": "127.0.0.1", "::1": "127.0.0.1"}

Address = tuple[str, int]


class NoSuchPlace(ValueError):
    """Its text says what is wrong with a connection string, without any of it; `fix`: what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceNamed:
    """A server of `[servers]`, or a cluster of `[mongo.clusters]`, and the database where the string names one."""

    server: str | None = None
    cluster: str | None = None
    database: str | None = None


class ConfiguredPlaces:
    """The servers and clusters of a configuration by where they are."""

    def __init__(self, settings: Settings) -> None:
        self._main = settings.main.server
        self._servers = {
            name: frozenset(_address(each.host, each.port) for each in server.each_host)
            for name, server in settings.servers.items()
        }
        self._clusters = {
            name: frozenset(_address(*mongo_host(each)) for each in cluster.hosts)
            for name, cluster in settings.mongo.clusters.items()
        }

    def find(self, connection_string: str) -> PlaceNamed:
        """What it means: `postgresql://...` or `mongodb://...` by its hosts, or the name of a server or cluster.

        User, password and options in it are not looked at. Raises NoSuchPlace.
        """
        if "://" not in connection_string:
            return self._by_name(connection_string)
        scheme, _, rest = connection_string.partition("://")
        hosts, database = _parse(rest)
        if scheme in _POSTGRES:
            return PlaceNamed(server=self._of(self._servers, map(_postgres, hosts), "server"), database=database)
        if scheme == _MONGO:
            return PlaceNamed(cluster=self._of(self._clusters, map(_mongo, hosts), "cluster"), database=database)
        problem = "is of another kind than postgresql:// and mongodb://"
        raise NoSuchPlace(problem, "write one of these, or the name of a server in [servers]")

    def _by_name(self, name: str) -> PlaceNamed:
        if name in self._servers:
            return PlaceNamed(server=name)
        if name in self._clusters:
            return PlaceNamed(cluster=name)
        problem = "is no connection string, and no server or cluster has this name"
        raise NoSuchPlace(problem, "write postgresql://host:port/database, or the name of a server in [servers]")

    def _of(self, places: Mapping[str, frozenset[Address]], hosts: Iterable[Address], kind: str) -> str:
        wanted = frozenset(hosts)
        found = [name for name, addresses in places.items() if wanted <= addresses]
        if not found:
            section = "[servers]" if kind == "server" else "[mongo.clusters]"
            problem = f"names hosts that are no {kind}'s in the configuration"
            raise NoSuchPlace(
                problem, f"add the {kind} to {section}, by the same host and port, or correct the document"
            )
        if len(found) > 1 and kind == "server" and self._main in found:
            return self._main
        if len(found) > 1:
            names = ", ".join(sorted(found))
            raise NoSuchPlace(f"names hosts of several {kind}s: {names}", f"write the name of the {kind} instead")
        return found[0]


def _parse(rest: str) -> tuple[list[str], str | None]:
    """The hosts of a URL behind its scheme, and the database."""
    before, slash, after = rest.partition("/")
    hosts = [host for host in before.rpartition("@")[2].split(",") if host]
    if not hosts:
        raise NoSuchPlace("names no host", "write postgresql://host:port/database")
    try:
        path = urlsplit(f"//x/{after}").path if slash else ""
        database = unquote(path.lstrip("/"), errors="strict") or None
    except ValueError:
        raise NoSuchPlace("is not a URL", "write postgresql://host:port/database") from None
    return hosts, database


def _postgres(host: str) -> Address:
    return _checked(host_port, host)


def _mongo(host: str) -> Address:
    return _checked(mongo_host, host)


def _checked(read: Callable[[str], Address], host: str) -> Address:
    try:
        return _address(*read(host))
    except ValueError:
        raise NoSuchPlace("has a host or a port that cannot be one", "write postgresql://host:port/database") from None


def _address(host: str, port: int) -> Address:
    host = host.lower().rstrip(".")
    return _LOOPBACK.get(host, host), port
