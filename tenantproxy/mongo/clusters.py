"""Which client reaches a cluster? One for each, opened when it is first asked for, and closed with the router.

State: the clients, changed by `client`, `close` and `forget_loop` alone, all in the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any

from tenantproxy.config.mongo_section import MongoCluster, MongoSettings, mongo_host
from tenantproxy.errors import ConfigurationError, DocumentsUnavailable, Problem

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient

    Client = AsyncMongoClient[dict[str, Any]]

__all__ = ["MongoClusters", "translated"]


class MongoClusters:
    """The clients of `[mongo.clusters]`. No I/O until one is asked for; needs the extra [mongo]."""

    def __init__(self, settings: MongoSettings, *, reserved: frozenset[str] = frozenset()) -> None:
        """`reserved`: databases that are the operator's."""
        self.settings = settings
        self.reserved = reserved | {"admin", "config", "local", *(name.partition(".")[0] for name in settings.shared)}
        self._clients: dict[str, Client] = {}

    async def client(self, name: str) -> Client:
        """The client of one cluster, which many callers share. Raises ConfigurationError when it is not configured."""
        known = self._clients.get(name)
        if known is not None:
            return known
        cluster = self.settings.clusters.get(name)
        if cluster is None:
            problem = Problem(
                key=f"mongo.clusters.{name}" if name else "mongo.clusters",
                problem="is not configured, and documents are asked for there",
                fix='add it, with hosts = ["host:27017"]',
            )
            raise ConfigurationError([problem])
        made = self._clients[name] = _client(cluster)
        # Its watch over the servers begins here, and must not run in the context of one request.
        await asyncio.get_running_loop().create_task(_begin(made), context=Context())
        return made

    async def close(self) -> None:
        """Close them all; a later `client` opens another one."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    def forget_loop(self) -> None:
        """The event loop in which they were open has ended: nothing of them can be awaited."""
        self._clients = {}


async def _begin(client: Client) -> None:
    with translated():
        await client.aconnect()


def _client(cluster: MongoCluster) -> Client:
    try:
        from pymongo import AsyncMongoClient
    except ImportError as exc:
        problem = Problem(
            key="mongo.clusters", problem="needs pymongo, which is not installed", fix="install tenantproxy[mongo]"
        )
        raise ConfigurationError([problem]) from exc
    hosts = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in map(mongo_host, cluster.hosts)]
    return AsyncMongoClient(
        host=hosts, connect=False, document_class=dict, appname="tenantproxy", uuidRepresentation="standard",
        maxPoolSize=cluster.max_connections, connectTimeoutMS=round(cluster.connect_timeout * 1000),
        serverSelectionTimeoutMS=round(cluster.connect_timeout * 1000), timeoutMS=round(cluster.timeout * 1000),
        **_options(cluster),
    )  # fmt: skip


def _options(cluster: MongoCluster) -> Mapping[str, Any]:
    options: dict[str, Any] = {"tls": cluster.tls}
    if cluster.replica_set:
        options["replicaSet"] = cluster.replica_set
    if cluster.user and cluster.password is not None:
        options |= {"username": cluster.user, "password": cluster.password.read(), "authSource": cluster.auth_database}
    if cluster.tls_ca_file:
        options["tlsCAFile"] = cluster.tls_ca_file
    if cluster.tls_certificate_file:
        options["tlsCertificateKeyFile"] = cluster.tls_certificate_file
    return options


@contextmanager
def translated() -> Iterator[None]:
    """That a cluster cannot be asked becomes DocumentsUnavailable; what it says of a command passes through."""
    try:
        from pymongo.errors import ConnectionFailure, ExecutionTimeout, InvalidOperation, PyMongoError
    except ImportError:  # then there is no client either
        yield
        return
    try:
        yield
    except (ConnectionFailure, ExecutionTimeout, InvalidOperation) as exc:
        raise _unavailable(exc) from None
    except PyMongoError as exc:
        if exc.timeout:
            raise _unavailable(exc) from None
        raise


def _unavailable(exc: Exception) -> DocumentsUnavailable:
    # Not its text, which has the hosts in it.
    return DocumentsUnavailable(
        "MongoDB cannot be asked", detail=type(exc).__name__, hint="see whether the cluster is up", retry_after=1.0
    )
