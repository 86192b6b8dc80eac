"""How is a PostgreSQL server reached? The section of one server, with its hosts and its users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tenantproxy.config.host_values import Host, HostPorts, SystemId, host_port
from tenantproxy.config.secret import Secret
from tenantproxy.config.section import Section
from tenantproxy.config.values import Name, NoTimeout, Port, Seconds, Size, Text, Texts, texts, told
from tenantproxy.wire.server_auth import ChannelBinding

__all__ = ["Server", "ServerAdmin", "ServerLogin", "SessionAttrs"]


class ServerAdmin(Section):
    """The user that installs, provisions, migrates and inspects; no request is served with it."""

    user: Name = Field(examples=["tenantproxy_admin"])
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None


class ServerLogin(Section):
    """The user that looks accounts up in databases of row tenants, through one installed function and nothing else."""

    user: Name = Field(examples=["tenantproxy_login"])
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None


AuthMethod = Literal["scram-sha-256", "md5", "password", "none"]
"""How we show a server who we are, in libpq's words for `require_auth`; "none" is trust, or a certificate."""

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


SessionAttrs = Literal["any", "read-write", "read-only", "primary", "standby", "prefer-standby"]
"""Which of `hosts` may serve, in libpq's words for `target_session_attrs`."""


Pooler = Literal["", "pgbouncer"]
"""What is between us and a server: nothing, or a connection pooler that gives each transaction another session."""


class Server(Section):
    """One PostgreSQL server: one host, or the `hosts` of one cluster. Timeouts in seconds, 0 = none.

    With `hosts`, `host` and `port` are the first of them. `max_replica_lag`: a replica further behind is not read
    from; 0 = no limit. `probe_database`: where the hosts of a cluster are asked what they are. `region`: see `[sql]`.
    """

    region: Name | None = None
    host: Host = "127.0.0.1"
    port: Port = 5432
    hosts: HostPorts = ()
    target_session_attrs: SessionAttrs | None = None
    system_identifier: SystemId = ""
    probe_database: Text = ""
    user: Name = Field(examples=["tenantproxy_app"])
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None
    ssl: SslMode = "prefer"
    ssl_root_cert_file: Text = ""
    ssl_crl_file: Text = ""  # revoked certificates of servers
    ssl_cert_file: Text = ""
    ssl_key_file: Text = ""
    pooler: Pooler = ""
    require_auth: Annotated[tuple[AuthMethod, ...], BeforeValidator(texts)] = ("scram-sha-256",)  # of the [pg] port
    channel_binding: ChannelBinding = "prefer"  # of the [pg] port too: asyncpg has none
    max_connections: Size = 200
    connect_timeout: Seconds = 5.0
    statement_timeout: NoTimeout = 30.0
    idle_in_transaction_timeout: NoTimeout = 60.0
    lock_timeout: NoTimeout = 0.0
    search_path: Texts = ("public",)
    role_settings: Mapping[Text, Text] = Field(default_factory=dict)  # ALTER ROLE ... SET that are the operator's own
    replicas: Texts = ()
    max_replica_lag: NoTimeout = 0.0
    admin: ServerAdmin | None = None
    login: ServerLogin | None = None

    @model_validator(mode="before")
    @classmethod
    def _first_host(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not data.get("hosts"):
            return data
        if "host" in data or "port" in data:
            raise told("has both hosts, and host or port", "write hosts alone: it holds the ports too")
        try:
            host, port = host_port(texts(data["hosts"])[0])
        except (ValueError, TypeError, AttributeError, LookupError):
            return data  # told where it is validated
        return {**data, "host": host, "port": port}

    @property  # not cached: `model_copy` would give a copy with another user the hosts of the first one's
    def each_host(self) -> tuple[Self, ...]:
        """This server at each of its hosts alone, in their order."""
        if not self.hosts:
            return (self,)
        places = [host_port(text) for text in self.hosts]
        return tuple(self.model_copy(update={"host": host, "port": port, "hosts": ()}) for host, port in places)
