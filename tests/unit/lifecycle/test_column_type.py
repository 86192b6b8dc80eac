"""Is an expression that PostgreSQL printed recognised as ours, and nothing else?"""

from __future__ import annotations

import pytest

from tenantproxy.lifecycle.column_type import ColumnType, Comparison

SIGNED = Comparison(signed=True, setting="app.current_tenant_id")
PLAIN = Comparison(signed=False, setting="app.current_tenant_id")
PRINTED = "( SELECT tenantproxy.bound_tenant() AS bound_tenant)"
PRINTED_PLAIN = "( SELECT NULLIF(current_setting('app.current_tenant_id'::text, true), ''::text) AS \"nullif\")"


@pytest.mark.parametrize(
    ("cast", "printed"),
    [
        ("", f"(tenant_id = {PRINTED})"),
        ("", f"((tenant_id)::text = {PRINTED})"),
        ("uuid", f"(tenant_id = ({PRINTED})::uuid)"),
        ("uuid", f"((tenant_id)::uuid = ({PRINTED})::uuid)"),
        ("bpchar", f"(tenant_id = ({PRINTED})::bpchar)"),
        ("public.kind", f"(tenant_id = ({PRINTED})::public.kind)"),
    ],
)
def test_our_rule_is_recognised_as_the_server_prints_it(cast: str, printed: str) -> None:
    rule = SIGNED.rule('"tenant_id"', cast)
    assert SIGNED.says(printed, rule)
    assert PLAIN.says(printed.replace(PRINTED, PRINTED_PLAIN), PLAIN.rule('"tenant_id"', cast))


@pytest.mark.parametrize(
    "printed",
    [
        None,
        "true",
        f"(other_id = {PRINTED})",
        f"(tenant_id <> {PRINTED})",
        f"((tenant_id = {PRINTED}) OR true)",
        f"((tenant_id)::character(1) = {PRINTED})",
        f"(tenant_id = ({PRINTED})::character(1))",
        f"(tenant_id = {PRINTED_PLAIN})",
        "(tenant_id = ( SELECT public.bound_tenant() AS bound_tenant))",
        f"(tenant_id OPERATOR(public.=) {PRINTED})",
    ],
)
def test_another_rule_is_not_taken_for_ours(printed: str | None) -> None:
    assert not SIGNED.says(printed, SIGNED.rule('"tenant_id"', ""))


def test_a_default_holds_no_sub_select_and_the_type_of_the_column() -> None:
    assert SIGNED.default("") == "tenantproxy.bound_tenant()"
    assert SIGNED.default("uuid") == "(tenantproxy.bound_tenant())::uuid"
    assert PLAIN.default("") == "nullif(pg_catalog.current_setting('app.current_tenant_id', true), '')"


@pytest.mark.parametrize(
    ("kind", "cast", "objection"),
    [
        (ColumnType(name="character(36)", base="character"), "bpchar", None),
        (ColumnType(name="public.mood", base="public.mood", is_enum=True), "public.mood", None),
        (ColumnType(name="public.citext", base="public.citext"), None, "ignores case"),
        (ColumnType(name="text", base="text", collation_is_deterministic=False), None, "calls different texts equal"),
        (ColumnType(name="double precision", base="double precision"), None, "cannot name a tenant"),
    ],
    ids=lambda value: value.name if isinstance(value, ColumnType) else None,
)
def test_a_type_has_a_cast_or_an_objection(kind: ColumnType, cast: str | None, objection: str | None) -> None:
    assert kind.cast == cast
    assert (objection is None) == (kind.objection() is None)
    assert objection is None or objection in str(kind.objection())
