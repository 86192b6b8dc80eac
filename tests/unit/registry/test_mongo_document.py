"""Is a document of the registry read right, and is one that cannot be used told with its field and the fix?"""

from __future__ import annotations

from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.model import Isolation, TenantStatus
from tenantproxy.registry import TenantMisconfigured
from tenantproxy.registry.mongo_document import DocumentReader

SECRET = "hunter2-of-the-document"


def reader(**registry: object) -> DocumentReader:
    user = {"user": "app", "password": "x"}
    mapping: dict[str, Any] = {
        "main": {"server": "primary", "database": "main"},
        "servers": {
            "primary": {"host": "db1.internal", **user},
            "second": {"hosts": ["db2.internal:5433", "db3.internal:5433"], **user},
            "local": {"host": "localhost", "port": 6000, **user},
        },
        "mongo": {"clusters": {"main": {"hosts": ["mongo1.internal", "mongo2.internal:27018"]}}},
        "registry": {"source": "mongodb", "mongodb": registry},
        "row": {"key": "k" * 32},
    }
    return DocumentReader(Settings.from_mapping(mapping))


def document(connection: object = f"postgresql://u:{SECRET}@db1.internal:5432/one", **changed: Any) -> dict[str, Any]:
    """`changed`: None takes a field out; those of `config` are changed in database_config."""
    config = {"type": "dedicated", "connection_string": connection} | changed.pop("config", {})
    whole = {
        "_id": 7,
        "tenant_id": "tenant-001",
        "name": "One",
        "database_config": config,
        "status": "active",
    } | changed
    return {key: value for key, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    ("connection", "server", "database"),
    [
        (f"postgresql://u:{SECRET}@db1.internal:5432/one?sslmode=require", "primary", "one"),
        ("postgres://db1.internal/one", "primary", "one"),
        ("postgresql://DB1.Internal./one%2Dtwo", "primary", "one-two"),
        ("postgresql://db3.internal:5433,db2.internal:5433/one", "second", "one"),
        ("postgresql://db2.internal:5433/one", "second", "one"),
        ("postgresql://127.0.0.1:6000/one", "local", "one"),
        ("postgresql://[::1]:6000/one", "local", "one"),
        (f"postgresql://db9.internal@u:{SECRET}@db1.internal/one", "primary", "one"),
    ],
)
def test_a_connection_string_means_the_configured_server_at_its_hosts(
    connection: str, server: str, database: str
) -> None:
    place = reader().read(document(connection)).placement
    assert (place.isolation, place.server, place.database) == (Isolation.DATABASE, server, database)


def test_the_name_of_a_server_will_do_as_a_connection_string() -> None:
    place = reader().read(document("second", config={"database_name": "one"})).placement
    assert (place.server, place.database) == ("second", "one")


def test_a_string_of_mongodb_says_where_the_documents_are() -> None:
    config = {"type": "shared", "database_name": "tenant_001_db"}
    tenant = reader(place="system_users").read(document(f"mongodb://u:{SECRET}@mongo2.internal:27018/", config=config))
    assert (tenant.placement.server, tenant.placement.database) == ("primary", "system_users")
    assert tenant.settings == {"mongo_cluster": "main", "mongo_database": "tenant_001_db"}


def test_every_field_of_a_document_arrives() -> None:
    tenant = reader(dedicated="schema").read(
        document(
            status="suspended", tier="gold", region="eu", epoch=3,
            config={"schema": "tenant_tenant_001", "role": "tenant_001"},
            settings={"systems": {"crm": "tenant_tenant_001_crm"}, "max_size": 4, "theme": {"dark": True},
                      "beta": True},
        )
    )  # fmt: skip
    assert (tenant.id, tenant.status, tenant.tier, tenant.region, tenant.epoch, tenant.limits.max_size) == (
        "tenant-001", TenantStatus.SUSPENDED, "gold", "eu", 3, 4,
    )  # fmt: skip
    assert (tenant.placement.schema, tenant.placement.role) == ("tenant_tenant_001", "tenant_001")
    assert tenant.systems == {"crm": "tenant_tenant_001_crm"}
    assert tenant.settings == {"theme": '{"dark": true}', "beta": "true"}


@pytest.mark.parametrize("status", ["active", "inactive", "suspended", "provisioning"])
def test_each_status_of_a_document_is_one_of_ours(status: str) -> None:
    assert reader().read(document(status=status)).status == status


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (document(tenant_id=None), "field tenant_id: is missing"),
        (document(tenant_id=7), "field tenant_id: is a int"),
        (document(tenant_id="tenant 1"), "field tenant_id"),
        (document(database_config=None), "field database_config: is no object"),
        (document(config={"type": "private"}), "field database_config.type: is not one of dedicated, shared"),
        (document(None), "field database_config.connection_string: is missing"),
        (document(7), "field database_config.connection_string: is missing, or no text"),
        (document(f"postgresql://u:{SECRET}@evil.example/one"), "names hosts that are no server's"),
        (document(f"postgresql://u:{SECRET}@db1.internal:5433/one"), "names hosts that are no server's"),
        (document(f"postgresql://u:{SECRET}@db1.internal,evil.example/one"), "names hosts that are no server's"),
        (document(f"postgresql://u:{SECRET}@db1.internal:x/one"), "has a host or a port that cannot be one"),
        (document("postgresql:///one"), "names no host"),
        (document("postgresql://db1.internal/%ff"), "is not a URL"),
        (document(f"http://u:{SECRET}@db1.internal/one"), "is of another kind"),
        (document(f"mongodb+srv://u:{SECRET}@db1.internal/one"), "is of another kind"),
        (document(f"{SECRET}"), "is no connection string"),
        (document("postgresql://db1.internal/"), "database_name: is missing"),
        (document(config={"database_name": "two"}), "is another database than that of the connection string"),
        (document(config={"database_name": ["one"]}), "database_name: is a list"),
        (document(config={"role": {"$gt": ""}}), "field database_config.role"),
        (document(status=None), "field status: is missing"),
        (document(status="enabled"), "field status"),
        (document(status={"a": 1}), "field status"),
        (document(settings=[1]), "field settings: is a list"),
        (document(settings={"systems": ["crm"]}), "field settings.systems: is no object"),
        (document(settings={"systems": {"crm": "pg_catalog"}}), "field systems"),
        (document(settings={"max_size": "many"}), "field max_size"),
    ],
)
def test_what_cannot_be_used_names_its_field_and_never_what_the_string_says(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(TenantMisconfigured) as caught:
        reader().read(wrong)
    assert words in str(caught.value)
    assert caught.value.hint
    assert not any(secret in str(caught.value) for secret in (SECRET, "evil.example", "db1.internal"))


def test_a_schema_tenant_without_a_schema_is_told() -> None:
    with pytest.raises(TenantMisconfigured, match=r"database_config\.schema"):
        reader(dedicated="schema").read(document())


def test_two_servers_at_one_place_are_not_guessed_between() -> None:
    user = {"user": "app", "password": "x", "host": "db1.internal"}
    mapping = {
        "main": {"server": "other", "database": "main"},
        "servers": {"one": user, "two": user, "other": {**user, "host": "db9.internal"}},
        "mongo": {"clusters": {"main": {"hosts": ["mongo1.internal"]}}},
        "registry": {"source": "mongodb"},
    }
    with pytest.raises(TenantMisconfigured, match="several servers: one, two"):
        DocumentReader(Settings.from_mapping(mapping)).read(document())
    mapping["main"] = {"server": "two", "database": "main"}
    assert DocumentReader(Settings.from_mapping(mapping)).read(document()).placement.server == "two"
