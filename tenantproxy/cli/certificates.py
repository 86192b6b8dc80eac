"""Can the certificates that the configuration names be used? Read as listeners and connections to servers do."""

from __future__ import annotations

from collections.abc import Iterator

from tenantproxy.config import Settings
from tenantproxy.connect.key_file import UnusableFile
from tenantproxy.connect.server_tls import tls_context
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["check_certificates"]


def check_certificates(settings: Settings) -> None:
    """Raises ConfigurationError with all that is wrong. Listeners are looked at where the sidecar is installed."""
    problems = [*_of_servers(settings), *_of_listeners(settings)]
    if problems:
        raise ConfigurationError(problems)


def _of_servers(settings: Settings) -> Iterator[Problem]:
    for name, server in settings.servers.items():
        if server.ssl == "disable" or not (server.ssl_root_cert_file or server.ssl_cert_file):
            continue
        try:
            tls_context(server)
        except UnusableFile as exc:
            yield Problem(key=f"servers.{name}.{exc.key}", problem=exc.why, fix=exc.fix)


def _of_listeners(settings: Settings) -> Iterator[Problem]:
    try:
        from tenantproxy.sidecar.tls import listener_tls
    except ImportError:
        return
    for key, section in (("pg", settings.pg), ("http", settings.http), ("admin", settings.admin)):
        try:
            listener_tls(section, key)
        except ConfigurationError as exc:
            yield from exc.problems
