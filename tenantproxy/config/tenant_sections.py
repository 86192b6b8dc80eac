"""Where do tenants live and what keeps them apart? The sections on the registry, tenants and isolation kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from tenantproxy.config.mongo_section import MongoRegistrySettings
from tenantproxy.config.redis_section import RedisCacheSettings
from tenantproxy.config.secret import Secret
from tenantproxy.config.section import Section
from tenantproxy.config.values import (
    Count,
    Flag,
    Name,
    NoTimeout,
    Relations,
    Seconds,
    SettingName,
    Size,
    Text,
    Texts,
    Window,
    relation_name,
    told,
)
from tenantproxy.model import Isolation, Limits, Placement, RowForm, Tenant, TenantStatus, tenant_id

__all__ = ["RegistrySettings", "RowSettings", "Schema", "TenantEntry", "TenantRoles", "names"]


class RegistrySettings(Section):
    """Where tenants are looked up, and for how long an answer is good.

    `status_update`: next to a `query`, what gives the tenant $1 the status $2, for `tenants suspend` and `resume`.
    `mongodb`: with that source. `redis`: a cache that processes share.
    """

    source: Name = "postgres"
    query: Name | None = None
    list_query: Name | None = None
    status_update: Name | None = None
    cache_ttl: Seconds = 30.0
    negative_ttl: Seconds = 5.0
    max_entries: Size = 20_000
    stale_for: NoTimeout = 3600.0
    lookup_timeout: Seconds = 5.0
    listen: Flag = True
    mongodb: MongoRegistrySettings = MongoRegistrySettings()
    redis: RedisCacheSettings = RedisCacheSettings()


def _tenant_settings(value: object) -> object:
    if isinstance(value, Mapping) and all(isinstance(item, str | int | float | bool) for item in value.values()):
        return {key: item if isinstance(item, str) else str(item).lower() for key, item in value.items()}
    raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": "a table of text, numbers and booleans"})


class TenantEntry(Section):
    """One tenant of the file registry."""

    isolation: Isolation = Field(examples=["row"])
    database: Name = Field(examples=["shared"])
    server: Name | None = None
    schema_: Name | None = Field(default=None, alias="schema")
    role: Name | None = None
    status: TenantStatus = TenantStatus.ACTIVE
    tier: Name = "standard"
    region: Name | None = None
    epoch: Count = 0
    max_size: Size | None = None
    max_waiting: Size | None = None
    acquire_timeout: Seconds | None = None
    settings: Annotated[Mapping[str, str], BeforeValidator(_tenant_settings)] = Field(default_factory=dict)
    systems: Mapping[str, Name] = Field(default_factory=dict)

    def to_tenant(self, tenant: str, default_server: str) -> Tenant:
        """On `default_server` unless it names another. Raises TenantNotFound or ValueError for bad names."""
        return Tenant(
            id=tenant_id(tenant),
            placement=Placement(
                isolation=self.isolation,
                server=self.server or default_server,
                database=self.database,
                schema=self.schema_,
                role=self.role,
            ),
            status=self.status,
            tier=self.tier,
            region=self.region,
            limits=Limits(max_size=self.max_size, max_waiting=self.max_waiting, acquire_timeout=self.acquire_timeout),
            epoch=self.epoch,
            settings=self.settings,
            systems=self.systems,
        )


class RowSettings(Section):
    """Row isolation: the setting that policies read, and the key that signs it.

    `form`: where a session's tenant is kept on a primary. `bound`: in the backend's memory. `trusted`: in a parameter
    that only the keeper may set, which is cheaper, and which a superuser has to allow once. `unprotected`: relations
    (`schema.table`, `schema.*`) that all row tenants of a database may share.
    """

    setting: SettingName = "app.current_tenant_id"
    signed: Flag = True
    form: RowForm = "bound"
    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None
    key_files: Mapping[str, Text] = Field(default_factory=dict)
    proof_window: Window = 60.0
    unprotected: Relations = ()

    @model_validator(mode="after")
    def _check_key_ids(self) -> Self:
        if self.form == "trusted" and not self.signed:
            raise told("form = trusted is signed", "leave signed out, or set it to true")
        if self.key is not None and self.key_files:
            raise told("key and key_files exclude each other", "keep one of them")
        if any(len(kid) != 1 or kid not in "0123456789" for kid in self.key_files):
            raise told("a key id is one digit", 'write for example key_files = { 1 = "/run/secrets/row_key" }')
        return self

    def keys(self) -> dict[int, Secret]:
        """The signing keys by their id; a single key has the id 1. Empty: none is configured."""
        if self.key is not None:
            return {1: self.key}
        return {int(kid): Secret.file(path) for kid, path in self.key_files.items()}


class Schema(Section):
    """Schema isolation. `shared_role`: tenants share a role, so only search_path keeps them apart, and that is known.

    `common`: relations outside of its schema (`schema.table`, `schema.*`) that a tenant may reach all the same.
    """

    shared_role: Flag = False
    common: Relations = ()


def names(relations: Iterable[str]) -> tuple[tuple[str, str | None], ...]:
    """Relations of the configuration as (schema, relation), with None for all of a schema."""
    return tuple(relation_name(each) for each in relations)


class TenantRoles(Section):
    """A login role per tenant: its password follows from this key (`role_password`).

    `readers`: with each role that tenants' SQL runs as goes one of its name and `_reader`, which only reads.
    `reader_functions`: what such a role may call although it could write by it, as `name(types)`.
    """

    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None
    readers: Flag = False
    reader_functions: Texts = ()
