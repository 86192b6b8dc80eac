"""Which setting of [pgbouncer] is which key here, and which have none? One table, pure.

A default of PgBouncer that is not the default here is written out, so that nothing changes unsaid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["KEYS", "NEEDLESS", "NONE_HERE", "OwnKey", "number"]

_LONGEST: Final = 86400.0


@dataclass(frozen=True, slots=True)
class OwnKey:
    """`section` and `name` of the key, how the value is read, and PgBouncer's default where it is not the same here."""

    section: str
    name: str
    read: Callable[[str], object]
    default: str | None = None


def number(text: str) -> float:
    """A number of PgBouncer's. Raises ValueError."""
    value = float(text)
    if not 0 <= value <= 2_147_483:
        raise ValueError("is out of range")
    return value


def _whole(text: str) -> int:
    if number(text) != int(number(text)):
        raise ValueError("is not a whole number")
    return int(number(text))


def _from_one(text: str) -> int:
    if _whole(text) < 1:
        raise ValueError("must be at least 1")
    return _whole(text)


def _without_end(text: str) -> float:
    """Where 0 means without end, which does not exist here."""
    return number(text) or _LONGEST


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("is no path")
    return text


def _lowest(text: str) -> str:
    """The lowest version in a list as `tlsv1.2, tlsv1.3`; 1.0 and 1.1 are not offered here."""
    versions = {part.strip().lower() for part in text.replace(":", ",").split(",")}
    return "1.3" if versions == {"tlsv1.3"} else "1.2"


KEYS: Final[Mapping[str, OwnKey]] = {
    "max_client_conn": OwnKey("pg", "max_clients", _from_one, "100"),
    "max_user_client_connections": OwnKey("pg", "max_clients_per_user", _whole),
    "idle_transaction_timeout": OwnKey("pg", "idle_transaction_timeout", number, "0"),
    "client_idle_timeout": OwnKey("pg", "client_idle_timeout", number),
    "query_timeout": OwnKey("pg", "query_timeout", number),
    "tcp_keepidle": OwnKey("pg", "tcp_keepalive", number),
    "client_tls_cert_file": OwnKey("pg", "ssl_cert_file", _path),
    "client_tls_key_file": OwnKey("pg", "ssl_key_file", _path),
    "client_tls_ca_file": OwnKey("pg", "ssl_client_ca_file", _path),
    "client_tls_protocols": OwnKey("pg", "ssl_min_version", _lowest),
    "default_pool_size": OwnKey("pools", "max_size", _from_one, "20"),
    "query_wait_timeout": OwnKey("pools", "acquire_timeout", _without_end, "120"),
    "server_idle_timeout": OwnKey("pools", "idle_timeout", _without_end, "600"),
    "server_lifetime": OwnKey("pools", "max_lifetime", _without_end),
    "server_connect_timeout": OwnKey("servers", "connect_timeout", _without_end, "15"),
    "server_tls_ca_file": OwnKey("servers", "ssl_root_cert_file", _path),
    "server_tls_cert_file": OwnKey("servers", "ssl_cert_file", _path),
    "server_tls_key_file": OwnKey("servers", "ssl_key_file", _path),
}

_READ_ELSEWHERE: Final = (
    "listen_addr", "listen_port", "pool_mode", "auth_file", "auth_type", "admin_users", "stats_users",
    "client_tls_sslmode", "server_tls_sslmode", "max_db_connections", "unix_socket_dir",
)  # fmt: skip

NEEDLESS: Final[Mapping[str, str]] = {
    **dict.fromkeys(_READ_ELSEWHERE, ""),
    "server_reset_query": "a session is reset before each change of tenant; what does it is not configured",
    "server_reset_query_always": "a session is reset before each change of tenant, in each mode",
    "server_check_query": "a connection that was closed is noticed by its socket",
    "server_check_delay": "a connection that was closed is noticed by its socket",
    "ignore_startup_parameters": "settings at the start of a connection are kept for the client",
    "track_extra_parameters": "settings of a client are kept by tenantproxy",
    "max_prepared_statements": "prepared statements of a client are kept in transaction mode",
    "so_reuseport": "more than one process shares the sockets: tenantproxy serve --workers N",
    "application_name_add_host": "who holds what is in SHOW CLIENTS",
    "logfile": "the log goes to standard error",
    "syslog": "the log goes to standard error", "syslog_ident": "see syslog", "syslog_facility": "see syslog",
    "pidfile": "systemd knows the process; its unit is in the docs",
    "user": "the account is that of the unit or the container",
    **dict.fromkeys(("log_connections", "log_disconnections", "log_pooler_errors"), "the log goes to standard error"),
    "log_stats": "metrics are served for Prometheus", "stats_period": "metrics are served for Prometheus",
    "verbose": "the log goes to standard error",
    "job_name": "", "service_name": "", "conffile": "",
    "listen_backlog": "", "pkt_buf": "", "sbuf_loopcnt": "", "max_packet_size": "messages are bounded by max_memory",
    "tcp_defer_accept": "", "tcp_socket_buffer": "", "tcp_keepalive": "", "tcp_keepcnt": "", "tcp_keepintvl": "",
    "tcp_user_timeout": "", "disable_pqexec": "", "server_round_robin": "", "server_fast_close": "",
    "dns_max_ttl": "a name is looked up for each connection", "dns_nxdomain_ttl": "see dns_max_ttl",
    "dns_zone_check_period": "see dns_max_ttl", "resolv_conf": "the system's resolver is used",
    "client_login_timeout": "a client has a bounded time for its login",
    "autodb_idle_timeout": "see [pools] idle_timeout",
    "suspend_timeout": "see `tenantproxy upgrade`", "peer_id": "workers find each other's cancel requests",
    "cancel_wait_timeout": "", "client_tls_ciphers": "OpenSSL's own list", "server_tls_ciphers": "OpenSSL's own list",
    "client_tls_ecdhcurve": "", "client_tls_dheparams": "", "client_tls13_ciphers": "", "server_tls13_ciphers": "",
    "server_tls_protocols": "1.2 and 1.3", "scram_iterations": "",
    "server_login_retry": "failed connects wait longer each time",
    "unix_socket_mode": "", "unix_socket_group": "", "query_wait_notify": "", "transaction_timeout": "",
    "min_pool_size": "connections are opened when they are wanted",
}  # fmt: skip
"""Settings that need no counterpart, and why."""

NONE_HERE: Final[Mapping[str, str]] = {
    "auth_query": "clients log in here by a password in [pg.users] or by a token ([pg] jwt): give each user one",
    "auth_user": "see auth_query",
    "auth_dbname": "see auth_query",
    "auth_hba_file": "who may reach which tenant is in [pg.users.NAME] tenants; addresses are for a firewall",
    "auth_ident_file": "cert_names in [pg.users.NAME] says which certificates are a user's",
    "auth_ldap_options": "there is no LDAP here: a token of your issuer ([[auth.issuers]]) or a password",
    "reserve_pool_size": "a tenant may have more than others by its own max_size",
    "reserve_pool_timeout": "see reserve_pool_size",
    "max_user_connections": "connections are limited by tenant and by server, not by user",
    "max_db_client_connections": "[pg] max_clients_per_tenant limits all tenants alike",
}
"""Settings that were chosen for a reason which has to be met in another way."""
