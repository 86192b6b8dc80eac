"""Which names can be a tenant's, a schema's, a database's, and which only look like one?"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy import model
from tenantproxy.errors import TenantNotFound
from tenantproxy.model import (
    MAX_IDENTIFIER_BYTES,
    NOTHING,
    Isolation,
    Placement,
    PoolKey,
    Tenant,
    check_identifier,
    quote_identifier,
    tenant_id,
)


@pytest.mark.parametrize(
    "value", ["a", "A", "0", "a_", "acme", "Acme-2", "acme.eu", "a" * 63, "8f14e45f-ceea-467f-9575-0d5d1f4e0a3b", "a--"]
)
def test_a_plain_identifier_is_taken_as_it_is(value: str) -> None:
    assert tenant_id(value) == value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "is empty"),
        ("a\0b", "NUL"),
        ("\0", "NUL"),
        ("a'b", "not allowed"),
        ('a"b', "not allowed"),
        ("a\\b", "not allowed"),
        ("a`b", "not allowed"),
        ("a b", "not allowed"),
        (" acme", "not allowed"),
        ("acme ", "not allowed"),
        ("acme\n", "not allowed"),
        ("acme\r\n", "not allowed"),
        ("a;b", "not allowed"),
        ("a/b", "not allowed"),
        ("a%00b", "not allowed"),
        (".acme", "not allowed"),
        ("..", "not allowed"),
        ("-acme", "not allowed"),
        ("--", "not allowed"),
        ("a" * 64, "64 bytes"),
        ("a" * 10_000, "10000 bytes"),
        ("аcme", "not ASCII"),  # a Cyrillic a
        ("acmе", "not ASCII"),  # a Cyrillic e
        ("ａｃｍｅ", "not ASCII"),  # full width
        ("acme\u200b", "not ASCII"),  # zero width space
        ("acme\u0301", "not ASCII"),  # combining acute
        ("ﬁrm", "not ASCII"),  # a ligature
        ("١", "not ASCII"),  # an Arabic digit
        ("\ud800", "not ASCII"),
        (None, "NoneType"),
        (7, "int"),
        (b"acme", "bytes"),
        (["acme"], "list"),
    ],
)
def test_what_cannot_be_an_identifier_is_not_found_and_told_why_but_not_repeated(value: object, why: str) -> None:
    with pytest.raises(TenantNotFound) as refused:
        tenant_id(value)
    assert why in str(refused.value)
    assert "1 to 63 of the characters" in (refused.value.hint or "")
    if isinstance(value, str) and len(value) > 3:
        assert value not in str(refused.value)


def test_identifiers_that_differ_only_by_case_are_two() -> None:
    assert tenant_id("Acme") != tenant_id("acme")


@given(st.text(max_size=80))
def test_whatever_passes_can_stand_in_a_literal_a_label_and_a_name_of_postgresql(value: str) -> None:
    try:
        checked = tenant_id(value)
    except TenantNotFound:
        return
    assert checked.isascii()
    assert 1 <= len(checked) <= MAX_IDENTIFIER_BYTES
    assert not set(checked) & set("'\"\\ \0\n\r\t;$")


@given(st.text(max_size=70))
def test_a_quoted_identifier_is_one_identifier_and_reads_back_as_what_it_was(name: str) -> None:
    try:
        quoted = quote_identifier(name)
    except ValueError:
        return
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "").count('"') == 0
    assert quoted[1:-1].replace('""', '"') == name
    assert len(name.encode("utf-8", "surrogatepass")) <= MAX_IDENTIFIER_BYTES


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "the schema name is empty"),
        ("a\0b", "the schema name contains a NUL byte"),
        ("a\nb", "the schema name contains a character that cannot be printed"),
        ("a" * 64, "the schema name is 64 bytes long, PostgreSQL would cut it to 63"),
        ("ä" * 32, "the schema name is 64 bytes long, PostgreSQL would cut it to 63"),
    ],
)
def test_a_name_that_postgresql_would_change_is_refused_and_says_which(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_identifier(name, "the schema name")


# --- placements ------------------------------------------------------------------------------------------------------
def place(isolation: Isolation = Isolation.DATABASE, **names: str) -> Placement:
    return Placement(isolation=isolation, server="one", **{"database": "d", **names})


def test_each_kind_of_placement_can_be_made() -> None:
    assert place().schema is None
    assert place(Isolation.SCHEMA, schema="s").schema == "s"
    assert place(Isolation.ROW, role="r").role == "r"


@pytest.mark.parametrize(
    ("isolation", "names", "why"),
    [
        (Isolation.SCHEMA, {}, "needs a schema"),
        (Isolation.DATABASE, {"schema": "s"}, "no schema of its own"),
        (Isolation.ROW, {"schema": "s"}, "no schema of its own"),
        (Isolation.SCHEMA, {"schema": "pg_catalog"}, "PostgreSQL's own"),
        (Isolation.SCHEMA, {"schema": "pg_temp_3"}, "PostgreSQL's own"),
        (Isolation.SCHEMA, {"schema": "information_schema"}, "PostgreSQL's own"),
        (Isolation.SCHEMA, {"schema": "a" * 64}, "the schema name is 64 bytes"),
        (Isolation.SCHEMA, {"schema": ""}, "the schema name is empty"),
        (Isolation.DATABASE, {"database": ""}, "the database name is empty"),
        (Isolation.DATABASE, {"database": "a\0b"}, "the database name contains a NUL"),
        (Isolation.DATABASE, {"role": "r" * 64}, "the role name is 64 bytes"),
        (Isolation.DATABASE, {"role": "a\nb"}, "the role name contains"),
    ],
)
def test_a_placement_that_names_nothing_of_the_tenants_own_is_refused(
    isolation: Isolation, names: dict[str, str], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        place(isolation, **names)


# --- values ----------------------------------------------------------------------------------------------------------
def test_a_pools_name_tells_pools_apart_and_leaves_out_what_does_not() -> None:
    assert PoolKey(server="one", database="d").name == "one/d"
    assert PoolKey(server="one", database="d", schema="s", user="u", profile="p").name == "one/d/s/u/p"
    assert PoolKey(server="one", database="d", shared=True).name == "one/d"


def test_values_cannot_change() -> None:
    for value in (place(), PoolKey(server="one", database="d"), Tenant(id=tenant_id("acme"), placement=place())):
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, "other")
    with pytest.raises(TypeError):
        NOTHING["a"] = "b"  # type: ignore[index]


@pytest.mark.parametrize("name", [name for name in model.__all__ if dataclasses.is_dataclass(getattr(model, name))])
def test_every_value_is_frozen_has_slots_and_takes_keywords_only(name: str) -> None:
    kind = getattr(model, name)
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    assert all(field.kw_only for field in dataclasses.fields(kind))
