"""What is the whole configuration? All sections, checked together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tenantproxy.config import auth_sections, sections, tenant_sections
from tenantproxy.config.backup_section import BackupSettings
from tenantproxy.config.checks import WellFormedSections, check
from tenantproxy.config.fleet_section import FleetSettings
from tenantproxy.config.gdpr_section import GdprSettings
from tenantproxy.config.migration_section import MigrationSettings
from tenantproxy.config.mongo_section import MongoSettings
from tenantproxy.config.problems import INCONSISTENT, translate
from tenantproxy.config.provision_section import ProvisionSettings
from tenantproxy.config.secrets_check import secret_problems
from tenantproxy.config.section import Section
from tenantproxy.config.server_sections import Server
from tenantproxy.config.sql_section import SqlSettings
from tenantproxy.config.values import ContextName, Text
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["Settings", "examine"]

PREFIX = "TENANTPROXY_"
DELIMITER = "__"


class Settings(BaseSettings):
    """Every section of the configuration, frozen. Made by `load` (file, environment, flags) or `from_mapping`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        validate_default=False,
    )

    main: sections.Main
    servers: Mapping[str, Server] = Field(default_factory=dict)
    pools: sections.Pools = sections.Pools()
    registry: tenant_sections.RegistrySettings = tenant_sections.RegistrySettings()
    mongo: MongoSettings = MongoSettings()
    tenants: Mapping[str, tenant_sections.TenantEntry] = Field(default_factory=dict)
    row: tenant_sections.RowSettings = tenant_sections.RowSettings()
    schema_: tenant_sections.Schema = Field(default=tenant_sections.Schema(), alias="schema")
    tenant_roles: tenant_sections.TenantRoles | None = None
    context: Mapping[ContextName, Text] = Field(default_factory=dict)
    signed_context: Mapping[ContextName, Text] = Field(default_factory=dict)
    resolve: auth_sections.Resolve = auth_sections.Resolve()
    auth: auth_sections.Auth = auth_sections.Auth()
    login: auth_sections.LoginSettings = auth_sections.LoginSettings()
    http: sections.Http = sections.Http()
    admin: sections.Admin = sections.Admin()
    pg: sections.Pg = sections.Pg()
    sql: SqlSettings = SqlSettings()
    metrics: sections.Metrics = sections.Metrics()
    log: sections.LogSettings = sections.LogSettings()
    traces: sections.Traces = sections.Traces()
    audit: sections.Audit = sections.Audit()
    fleet: FleetSettings = FleetSettings()
    provision: ProvisionSettings = ProvisionSettings()
    migrations: MigrationSettings = MigrationSettings()
    backup: BackupSettings = BackupSettings()
    gdpr: GdprSettings = GdprSettings()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, secrets: bool = True) -> Settings:
        """Settings from what a TOML file would hold. Raises ConfigurationError with every problem at once.

        `secrets=False` does not look whether the files and variables of secrets can be read.
        """
        settings, problems = examine(mapping, secrets=secrets)
        if settings is None or problems:
            raise ConfigurationError(problems)
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: settings made in code do not change with the environment; `load` is what reads it."""
        return (init_settings,)

    @property
    def has_readers(self) -> bool:
        """Whether each role that tenants' SQL runs as has one that only reads."""
        return self.tenant_roles is not None and self.tenant_roles.readers

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = check(_parts(self))
        if problems:
            raise PydanticCustomError(
                INCONSISTENT, "{text}", {"text": "; ".join(map(str, problems)), "problems": problems}
            )
        return self


def examine(mapping: Mapping[str, Any], *, secrets: bool) -> tuple[Settings | None, list[Problem]]:
    """The settings in `mapping`, or None, and every problem: of form, between sections, and with secrets."""
    plain = {str(key): value for key, value in mapping.items()}
    settings: Settings | None
    try:
        settings = Settings(**plain)
    except ValidationError as exc:
        problems, parts, settings = translate(exc, Settings), _well_formed(plain), None
        if all(entry["type"] != INCONSISTENT for entry in exc.errors(include_url=False)):
            problems += check(parts)
    else:
        problems, parts = [], _parts(settings)
    return settings, problems + (secret_problems(parts) if secrets else [])


_ENTRIES: Final[Mapping[str, type[Section]]] = {"servers": Server, "tenants": tenant_sections.TenantEntry}
_SECTIONS: Final[Mapping[str, type[Section]]] = {
    "main": sections.Main,
    "pools": sections.Pools,
    "registry": tenant_sections.RegistrySettings,
    "row": tenant_sections.RowSettings,
    "mongo": MongoSettings,
    "http": sections.Http,
    "admin": sections.Admin,
    "pg": sections.Pg,
    "tenant_roles": tenant_sections.TenantRoles,
    "auth": auth_sections.Auth,
    "login": auth_sections.LoginSettings,
    "resolve": auth_sections.Resolve,
    "fleet": FleetSettings,
    "schema_": tenant_sections.Schema,
    "sql": SqlSettings,
}


def _parts(settings: Settings) -> WellFormedSections:
    return WellFormedSections(**{name: getattr(settings, name) for name in WellFormedSections.__dataclass_fields__})


def _well_formed(mapping: Mapping[str, Any]) -> WellFormedSections:
    """Each section by itself, so that one malformed key does not hide what is wrong elsewhere."""
    parts: dict[str, Any] = {}
    for name in WellFormedSections.__dataclass_fields__:
        key = name.removesuffix("_")  # `schema` is a method of the base class
        given = mapping.get(key, {})
        model = _ENTRIES.get(name)
        if model is not None:
            entries = given if isinstance(given, Mapping) else {}
            parts[name] = {str(key): _try(model, entry) for key, entry in entries.items()}
        elif name in ("context", "signed_context"):
            well_formed = isinstance(given, Mapping) and all(isinstance(one, str) for one in given.values())
            parts[name] = given if well_formed else None
        else:
            parts[name] = _try(_SECTIONS[name], given) if key in mapping or name != "tenant_roles" else None
    return WellFormedSections(**parts)


def _try(model: type[Section], given: object) -> Section | None:
    try:
        return model.model_validate(given)
    except ValidationError:
        return None
