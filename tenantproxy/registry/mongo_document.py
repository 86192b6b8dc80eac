"""Which tenant does a document of the registry describe? What cannot be understood names its field and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tenantproxy.config import Settings
from tenantproxy.model import Isolation, Tenant
from tenantproxy.mongo.documents import CLUSTER, DATABASE
from tenantproxy.registry.base import TenantMisconfigured
from tenantproxy.registry.mongo_places import ConfiguredPlaces, NoSuchPlace, PlaceNamed
from tenantproxy.registry.rows import RowReader

__all__ = ["DocumentReader"]

Document = Mapping[str, Any]

_CONFIG: Final = "database_config"
_TYPES: Final = ("dedicated", "shared")
_PLACED: Final = ("schema", "role", "database")
_FIELDS: Final = {"id": "tenant_id", "isolation": f"{_CONFIG}.type", "server": f"{_CONFIG}.connection_string"}
_NUMBERS: Final = ("max_size", "max_waiting", "acquire_timeout")


class DocumentReader:
    """Turns documents into tenants, by `[registry.mongodb]`, `[servers]` and `[mongo.clusters]`."""

    def __init__(self, settings: Settings) -> None:
        rules = settings.registry.mongodb
        self._kinds = {"dedicated": Isolation(rules.dedicated), "shared": Isolation(rules.shared)}
        self._place = rules.place
        self._places = ConfiguredPlaces(settings)
        self._rows = RowReader(
            default_server=settings.main.server,
            servers=frozenset(settings.servers),
            rows=not settings.row.signed or bool(settings.row.keys()),
        )

    def read(self, document: Document) -> Tenant:
        """The tenant in `document`. Raises TenantMisconfigured."""
        name = document.get("tenant_id")
        if not isinstance(name, str):
            raise _bad(
                "tenant_id", "is missing" if name is None else f"is a {_kind(name)}, not text", "write it as text"
            )
        config = document.get(_CONFIG)
        if not isinstance(config, Mapping):
            raise _bad(_CONFIG, "is no object", "write type and connection_string in it")
        kind = config.get("type")
        if kind not in _TYPES:
            raise _bad(f"{_CONFIG}.type", "is not one of dedicated, shared", "correct the document")
        if "status" not in document or document["status"] is None:
            raise _bad("status", "is missing", "write one of active, inactive, suspended, provisioning")
        place, isolation = self._found(config), self._kinds[kind]
        settings = _settings(document)
        if place.cluster is not None:
            settings[CLUSTER] = place.cluster
        return self._tenant({
            "id": name,
            "isolation": isolation.value,
            "server": place.server,
            "database": self._database(config, place, isolation, settings),
            "schema": config.get("schema"),
            "role": config.get("role") if isolation is not Isolation.ROW else None,  # shared tables are the service's
            "status": document["status"],
            "tier": document.get("tier"),
            "region": document.get("region"),
            "epoch": document.get("epoch"),
            **{each: settings.pop(each, None) for each in _NUMBERS},
            "systems": _systems(settings.pop("systems", None)),
            "settings": settings,
        })  # fmt: skip

    def _tenant(self, row: dict[str, object]) -> Tenant:
        try:
            return self._rows.read(row)
        except TenantMisconfigured as exc:
            column, _, problem = (exc.detail or "").removeprefix("column ").partition(": ")
            field = f"{_CONFIG}.{column}" if column in _PLACED else _FIELDS.get(column, column)
            fix = exc.hint or "" if column == "isolation" else "correct the document"
            raise _bad(field, problem, fix) from None

    def _found(self, config: Document) -> PlaceNamed:
        where = config.get("connection_string")
        if not isinstance(where, str) or not where:
            raise _bad(f"{_CONFIG}.connection_string", "is missing, or no text", "write it, or the name of a server")
        try:
            return self._places.find(where)
        except NoSuchPlace as exc:
            raise _bad(f"{_CONFIG}.connection_string", str(exc), exc.fix) from None

    def _database(
        self, config: Document, place: PlaceNamed, isolation: Isolation, settings: dict[str, object]
    ) -> str | None:
        """The PostgreSQL database; a `database_name` next to a cluster's string is that of the tenant's documents."""
        named = config.get("database_name")
        if named is not None and not isinstance(named, str):
            raise _bad(f"{_CONFIG}.database_name", f"is a {_kind(named)}, not text", "write it as text")
        if named and place.database and named != place.database:
            fix = "correct the one that is wrong"
            raise _bad(f"{_CONFIG}.database_name", "is another database than that of the connection string", fix)
        name = named or place.database
        if place.cluster is not None:
            if name:
                settings[DATABASE] = name
            name = None
        if self._place and isolation is not Isolation.DATABASE:
            return self._place
        if not name:
            fix = "write it, or for shared tenants [registry.mongodb] place"
            raise _bad(f"{_CONFIG}.database_name", "is missing, and nothing else says the PostgreSQL database", fix)
        return name


def _settings(document: Document) -> dict[str, object]:
    found = document.get("settings")
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise _bad("settings", f"is a {_kind(found)}, not an object", "correct the document")
    return {key: _json(value) for key, value in found.items()}


def _json(value: object) -> object:
    """As JSON has it: dates, object ids and the like as text."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _systems(found: object) -> object:
    if found is None:
        return None
    if not isinstance(found, Mapping) or not all(isinstance(schema, str) for schema in found.values()):
        problem = "is no object with the schema of each system"
        raise _bad("settings.systems", problem, 'write for example {"crm": "tenant_tenant_001_crm"}')
    return found


def _kind(value: object) -> str:
    return type(value).__name__


def _bad(field: str, problem: str, fix: str) -> TenantMisconfigured:
    return TenantMisconfigured(
        "the tenant's entry in the registry cannot be used", detail=f"field {field}: {problem}", hint=fix
    )
