"""Is a row of any table read right, and does a bad one name its column and the fix?"""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import pytest

from tenantproxy.model import Isolation, Limits, TenantStatus
from tenantproxy.registry import RowReader, TenantMisconfigured

READER = RowReader(default_server="primary", servers={"primary", "second"})
ROW = {"id": "acme", "isolation": "database", "database": "acme_db"}


def test_a_minimal_row_is_an_active_tenant_on_the_main_server() -> None:
    tenant = READER.read(ROW)
    assert (tenant.id, tenant.status, tenant.tier, tenant.epoch) == ("acme", TenantStatus.ACTIVE, "standard", 0)
    assert (tenant.placement.server, tenant.placement.database) == ("primary", "acme_db")
    assert (tenant.limits, tenant.settings, tenant.systems) == (Limits(), {}, {})


def test_every_column_is_understood() -> None:
    tenant = READER.read(
        {
            **ROW, "isolation": "schema", "schema": "acme", "server": "second", "role": "t_acme", "status": "paused",
            "tier": "gold", "region": "eu", "epoch": 3, "max_size": 4, "max_waiting": 0,
            "acquire_timeout": Decimal("1.5"),
            "settings": '{"plan": "pro", "seats": 5, "old": null}', "systems": {"crm": "acme_crm"}, "colour": "red",
        }
    )  # fmt: skip
    place = tenant.placement
    assert (place.isolation, place.schema, place.server, place.role) == (Isolation.SCHEMA, "acme", "second", "t_acme")
    assert (tenant.status, tenant.tier, tenant.region, tenant.epoch) == (TenantStatus.PAUSED, "gold", "eu", 3)
    assert tenant.limits == Limits(max_size=4, max_waiting=0, acquire_timeout=1.5)
    assert (tenant.settings, tenant.systems) == ({"plan": "pro", "seats": "5"}, {"crm": "acme_crm"})


def test_a_uuid_is_an_identifier() -> None:
    name = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
    assert READER.read({**ROW, "id": UUID(name)}).id == name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, ["id", "missing"]),
        ({"id": "o'brien"}, ["id", "not allowed"]),
        ({"isolation": "db"}, ["isolation", "'db'", "database, schema, row", "case isolation when"]),
        ({"isolation": None}, ["isolation", "missing"]),
        ({"status": "trial"}, ["status", "'trial'", "active", "case status when"]),
        ({"status": None}, ["status", "missing"]),
        ({"server": "third"}, ["server", "'third'", "[servers.third]"]),
        ({"database": None}, ["database", "missing"]),
        ({"database": "d" * 64}, ["database", "64 bytes"]),
        ({"isolation": "schema"}, ["schema", "needs a schema"]),
        ({"isolation": "schema", "schema": "pg_x"}, ["schema", "PostgreSQL's own"]),
        ({"systems": {"crm": "pg_catalog"}}, ["systems", "PostgreSQL's own"]),
        ({"systems": {"crm": ""}}, ["systems", "empty"]),
        ({"role": "r" * 64}, ["role", "64 bytes"]),
        ({"max_size": 0}, ["max_size", "is 0"]),
        ({"max_size": "3"}, ["max_size", "not a number"]),
        ({"max_size": 2.5}, ["max_size", "out of range"]),
        ({"epoch": -1}, ["epoch", "-1"]),
        ({"acquire_timeout": float("nan")}, ["acquire_timeout", "out of range"]),
        ({"settings": "{"}, ["settings", "not JSON"]),
        ({"settings": "[]"}, ["settings", "not an object"]),
        ({"region": 3}, ["region", "not text", "region::text"]),
    ],
)
def test_a_bad_row_names_its_column_and_the_fix(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(TenantMisconfigured) as caught:
        READER.read({**ROW, **change})
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert caught.value.hint
    assert not caught.value.retryable


def test_a_row_tenant_without_a_key_to_sign_with_is_refused() -> None:
    with pytest.raises(TenantMisconfigured, match="key_file"):
        RowReader(default_server="primary", rows=False).read({**ROW, "isolation": "row"})
