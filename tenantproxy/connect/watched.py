"""Which servers are watched? Those with `hosts`, and where `max_replica_lag` is to be measured."""

from __future__ import annotations

from collections.abc import Mapping

from tenantproxy.config import Settings
from tenantproxy.connect.hosts import Cluster, Hosts
from tenantproxy.events import Observer
from tenantproxy.pools.base import Clock
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.host_choice import Serves

__all__ = ["new_hosts"]


def new_hosts(
    settings: Settings, budgets: Mapping[str, ServerBudget], *, clock: Clock, observer: Observer
) -> dict[str, Hosts]:
    """The hosts of each server that is watched. A server and its replicas are one cluster."""
    primary_of = {replica: name for name, server in settings.servers.items() for replica in server.replicas}
    clusters: dict[str, Cluster] = {}
    found: dict[str, Hosts] = {}
    for name, server in settings.servers.items():
        primary = settings.servers[primary_of.get(name, name)]
        if not (server.hosts or primary.max_replica_lag):
            continue
        cluster = clusters.setdefault(primary_of.get(name, name), Cluster())
        cluster.system = cluster.system or server.system_identifier
        serves: Serves = server.target_session_attrs or ("standby" if name in primary_of else "read-write")
        hosts = Hosts(name, server, serves=serves, cluster=cluster, clock=clock, observer=observer)
        hosts.budget = budgets[name]
        budgets[name].on_doubt = hosts.doubt if server.hosts else None
        main = settings.main
        if not hosts.probe_database and main.server in (name, primary_of.get(name)):
            hosts.probe_database = main.database
        found[name] = hosts
    return found
