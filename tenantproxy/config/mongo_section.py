"""Where are MongoDB's clusters, and which of their collections belong to whom? [mongo], and [registry.mongodb]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tenantproxy.config.host_values import host_port
from tenantproxy.config.secret import Secret
from tenantproxy.config.section import Section
from tenantproxy.config.values import Flag, Name, Seconds, Size, Text, as_text, texts, told
from tenantproxy.model import Isolation

__all__ = ["MONGO_PORT", "MongoCluster", "MongoRegistrySettings", "MongoSettings", "collection_name", "mongo_host"]

MONGO_PORT: Final = 27017
_DATABASE: Final = r"[A-Za-z0-9_-]{1,63}"
_COLLECTION: Final = r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
_SHARED: Final = re.compile(rf"({_DATABASE})\.({_COLLECTION})")
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def mongo_host(text: str) -> tuple[str, int]:
    """`host:port`, or a host alone (port 27017), as (host, port). Raises ValueError."""
    has_port = text.count(":") == 1 or "]:" in text or (":" in text and not text.startswith("["))
    return host_port(text if has_port else f"{text}:{MONGO_PORT}")


def collection_name(text: str) -> tuple[str, str]:
    """`database.collection` as its two names. Raises ValueError."""
    found = _SHARED.fullmatch(text)
    if found is None or found[2].startswith("system."):
        raise ValueError('must be "database.collection", and none of MongoDB\'s own')
    return found[1], found[2]


def _hosts(value: object) -> Any:
    given = texts(value)
    if not given:
        raise told("names no host", 'write for example hosts = ["mongo1.internal:27017"]')
    for number, text in enumerate(given):
        try:
            mongo_host(as_text(text))
        except ValueError as exc:  # never the value, which may hold a password
            raise told(f"entry {number} {exc}", 'write for example ["mongo1.internal:27017"]') from None
    return given


def _shared(value: object) -> Any:
    if not isinstance(value, Mapping):
        raise told("must be a table", 'write for example shared = { "task_repository.tasks" = "tenant_id" }')
    for name, field in value.items():
        try:
            collection_name(name)
        except ValueError as exc:
            raise told(f"{name!r} {exc}", 'write for example "task_repository.tasks" = "tenant_id"') from None
        if not isinstance(field, str) or not _FIELD.fullmatch(field) or field == "_id":
            problem = f"{name!r} does not name the field that holds the tenant"
            raise told(problem, 'write a name at the top of its documents, such as "tenant_id"')
    return value


class MongoCluster(Section):
    """One MongoDB cluster: one server, or the `hosts` of a replica set, or its mongos. Times in seconds.

    `timeout`: of one operation. `tls_certificate_file`: certificate and key of this client, in one file.
    """

    hosts: Annotated[tuple[Text, ...], BeforeValidator(_hosts)] = Field(examples=[["127.0.0.1:27017"]])
    replica_set: Text = ""
    user: Text = ""
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None
    auth_database: Name = "admin"
    tls: Flag = False
    tls_ca_file: Text = ""
    tls_certificate_file: Text = ""
    max_connections: Size = 50
    connect_timeout: Seconds = 5.0
    timeout: Seconds = 10.0

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if bool(self.user) != (self.password is not None):
            raise told("user and password belong together", "give both, or neither for a server that asks for none")
        if not self.tls and (self.tls_ca_file or self.tls_certificate_file):
            raise told("names files of TLS, and tls is off", "write tls = true")
        return self


class MongoSettings(Section):
    """Documents of tenants. `cluster`: where a tenant's own database is, unless the registry says another one.

    `database`: its name, in which `{id}` is the tenant. `shared`: collections of all tenants, each with the field that
    holds the tenant; they are reached through a guard alone.
    """

    clusters: Mapping[str, MongoCluster] = Field(default_factory=dict)
    cluster: Text = ""
    database: Text = "{id}_db"
    shared: Annotated[Mapping[str, str], BeforeValidator(_shared)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if not re.fullmatch(r"[a-z0-9_-]{0,20}\{id\}[a-z0-9_-]{0,20}", self.database):
            raise told("database must have {id} in it once, and else a-z 0-9 _ -", 'write for example "{id}_db"')
        return self

    @property
    def default_cluster(self) -> str:
        """`cluster`, or the only one there is; empty: none."""
        return self.cluster or (next(iter(self.clusters)) if len(self.clusters) == 1 else "")


class MongoRegistrySettings(Section):
    """What the documents of the registry mean. `cluster`: of `[mongo.clusters]`, where it is; the only one by default.

    `dedicated`, `shared`: the isolation of a tenant with this `database_config.type`. `place`: the PostgreSQL database
    of schema and row tenants, whatever a document says. `poll`: seconds between two looks for changes, where the server
    offers no change stream.
    """

    cluster: Text = ""
    database: Name = "tenant_registry"
    collection: Name = "tenants"
    dedicated: Literal["database", "schema", "row"] = Isolation.DATABASE.value
    shared: Literal["database", "schema", "row"] = Isolation.ROW.value
    place: Text = ""
    poll: Seconds = 10.0

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        try:
            collection_name(f"{self.database}.{self.collection}")
        except ValueError as exc:
            raise told(f"{self.database}.{self.collection} {exc}", "write the names as MongoDB has them") from None
        return self
