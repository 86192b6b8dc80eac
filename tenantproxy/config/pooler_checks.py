"""What cannot be configured for a server behind a connection pooler? Pure: reads no file and no variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tenantproxy.config.fleet_section import FleetSettings
from tenantproxy.config.sections import Main
from tenantproxy.config.server_sections import Server
from tenantproxy.config.tenant_sections import RegistrySettings, RowSettings
from tenantproxy.errors import Problem

__all__ = ["pooler_problems"]


def pooler_problems(
    servers: Mapping[str, Server | None],
    *,
    main: Main | None,
    registry: RegistrySettings | None,
    row: RowSettings | None,
    fleet: FleetSettings | None,
) -> Iterator[Problem]:
    """All of it. None stands for a section that is not well formed."""
    pooled = {name: server for name, server in servers.items() if server is not None and server.pooler}
    for name, server in pooled.items():
        yield from _hosts(name, server)
    for name, primary in servers.items():
        for replica in primary.replicas if primary is not None else ():
            if replica in pooled:
                yield Problem(
                    key=f"servers.{replica}.pooler",
                    problem=f"is {pooled[replica].pooler!r}, and this server is a replica of {name!r}",
                    fix="let the replica be reached directly: whether it still is a standby, and how far behind, is"
                    " asked of a session of its own",
                )
    if not pooled:
        return
    if row is not None and row.form == "trusted":
        yield Problem(
            key="row.form",
            problem=f"is 'trusted', which needs sessions of our own, and {next(iter(pooled))!r} is behind a pooler",
            fix="leave it out: behind the pooler each transaction has a proof for itself",
        )
    if main is not None and main.server in pooled:
        yield from _main(main.server, registry, fleet)


def _hosts(name: str, server: Server) -> Iterator[Problem]:
    if server.hosts:
        yield Problem(
            key=f"servers.{name}.hosts",
            problem="cannot be chosen among through a pooler",
            fix="write host and port of the pooler, and let it follow the primary",
        )
    if server.replicas:
        yield Problem(
            key=f"servers.{name}.replicas",
            problem="are not read from a server behind a pooler: how far they are behind cannot be told there",
            fix="remove them, or reach the server directly",
        )


def _main(name: str, registry: RegistrySettings | None, fleet: FleetSettings | None) -> Iterator[Problem]:
    where = f"and the main database's server {name!r} is behind a pooler"
    direct = "name a server in [main] that is reached directly"
    if registry is not None and registry.listen:
        yield Problem(
            key="registry.listen",
            problem=f"is true, {where}: LISTEN needs a session",
            fix=f"{direct}; or write listen = false: changes are then seen after cache_ttl",
        )
    if fleet is not None and fleet.enabled:
        yield Problem(
            key="fleet.enabled",
            problem=f"is true, {where}: the processes of a fleet know each other by their sessions",
            fix=f"{direct}; or write enabled = false, and divide max_connections by hand",
        )
