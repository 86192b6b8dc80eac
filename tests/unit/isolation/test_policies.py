"""Which policies of row-level security leave a session its own tenant's rows only?"""

from __future__ import annotations

import pytest

from tenantproxy.isolation.policies import COMMANDS, Policy, Reference, TenantForm, open_commands

SELECTED = "( SELECT tenantproxy.bound_tenant() AS bound_tenant)"
OURS = f"(tenant_id = {SELECTED})"
EVERY = tuple(COMMANDS)


def policy(using: str | None, check: str | None = None, **changes: object) -> Policy:
    values: dict[str, object] = {"name": "p", "permissive": True, "command": "*", "for_all_roles": True}
    values |= {"using": using, "check": check} | changes
    return Policy(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "expression",
    [
        OURS, OURS[1:-1], f"({OURS})", f"({SELECTED} = tenant_id)", "(tenant_id = tenantproxy.current_tenant())",
        f"((tenant_id)::text = {SELECTED})", f"(tenant_id = ({SELECTED})::uuid)",
        f'("the Tenant" = ({SELECTED})::bigint)',
        f"({OURS} AND (name <> ' AND '))", f"((name <> '('::text) AND {OURS})", f"(((a = 1) AND {OURS}) AND (b = 2))",
        "(tenant_id = (tenantproxy.bound_tenant())::uuid)", f"(tenant_id = ({SELECTED})::public.kind)",
        f'((a)::text = (({SELECTED})::public."A b")::text)',
    ],
)  # fmt: skip
def test_the_forms_that_are_known_hold(expression: str) -> None:
    assert TenantForm().holds(expression, ("public.kind", 'public."A b"'))


@pytest.mark.parametrize(
    "expression",
    [
        None, "", "true", f"({OURS} OR true)", f"(NOT {OURS})", f"(({OURS}) IS NOT NULL)", f"(tenant_id <> {SELECTED})",
        "(tenant_id = bound_tenant())", "(tenant_id = public.bound_tenant())",
        "(tenant_id = ( SELECT x.bound_tenant()))",
        f"(tenant_id OPERATOR(public.=) {SELECTED})", f'(tenant_id = ({SELECTED})::"char")',
        f"(tenant_id = ({SELECTED})::character(1))", f"(tenant_id = ({SELECTED})::name)", f"(lower(a) = {SELECTED})",
        f"((\"left\"(a, 3) = {SELECTED}))", f"('x'::text = {SELECTED})", f"(a = {SELECTED}) OR (b = {SELECTED})",
        f"(' AND {OURS[1:-1]} AND '::text <> a)", "(tenant_id = current_setting('app.current_tenant_id'::text, true))",
        "(tenant_id = ( SELECT tenantproxy.bound_tenant() AS bound_tenant WHERE false))", "CURRENT_USER = tenant_id",
    ],
)  # fmt: skip
def test_everything_else_is_open(expression: str | None) -> None:
    assert not TenantForm().holds(expression)


def test_a_type_to_which_a_function_casts_is_open() -> None:
    for kind, count in (("public.kind", 1), ("uuid", 0)):
        ours = policy(f"(tenant_id = ({SELECTED})::{kind})", calls_others=True, keeping=("public.kind",))
        assert len(open_commands((ours,), ("SELECT",), TenantForm())) == count


def test_a_type_that_is_not_known_to_keep_tenants_apart_is_open() -> None:
    assert not TenantForm().holds(f"(tenant_id = ({SELECTED})::public.kind)", ("public.other",))


def test_the_name_of_the_setting_is_no_pattern() -> None:
    form = TenantForm("app.who")
    assert form.holds("(tenant_id = current_setting('app.who'::text))")
    assert not form.holds("(tenant_id = current_setting('appxwho'::text))")


def test_without_a_permissive_policy_nothing_is_let_through() -> None:
    assert open_commands((), EVERY, TenantForm()) == ()
    assert open_commands((policy("true", permissive=False),), EVERY, TenantForm()) == ()


def test_one_permissive_policy_of_another_form_opens_what_it_is_for() -> None:
    for command, letter in COMMANDS.items():
        both = (policy(OURS), policy("true", "true", name="q", command=letter))
        assert [c for c in EVERY if open_commands(both, (c,), TenantForm())] == [command]


def test_a_restrictive_policy_holds_whatever_is_permitted() -> None:
    ours = policy(OURS, permissive=False)
    assert open_commands((policy("true"), ours), EVERY, TenantForm()) == ()
    reasons = open_commands((policy("true"), policy(OURS, permissive=False, for_all_roles=False)), EVERY, TenantForm())
    assert len(reasons) == 4


def test_rows_that_are_written_are_held_by_check_or_else_by_using() -> None:
    assert open_commands((policy(OURS),), EVERY, TenantForm()) == ()
    assert open_commands((policy(OURS, "true"),), ("SELECT", "DELETE"), TenantForm()) == ()
    assert len(open_commands((policy(OURS, "true"),), ("INSERT", "UPDATE"), TenantForm())) == 2


def test_a_column_that_calls_different_texts_equal_holds_nothing() -> None:
    assert open_commands((policy(OURS, is_loose=True),), ("SELECT",), TenantForm())


PARENT = (Reference("user_id", "id", "public.users"),)


def through(condition: str) -> str:
    return f"(user_id = ANY (ARRAY( SELECT users.id\n   FROM public.users\n  WHERE {condition})))"


@pytest.mark.parametrize(
    "condition",
    [
        f"(users.tenant_id = {SELECTED})", f"((users.tenant_id)::text = {SELECTED})",
        f"((users.tenant_id)::bigint = ({SELECTED})::bigint)", f"((users.tenant_id)::public.kind = {SELECTED})",
        "((users.tenant_id)::text = tenantproxy.current_tenant())",
    ],
)  # fmt: skip
def test_rows_behind_a_parents_tenant_hold_also_where_it_is_cast(condition: str) -> None:
    assert TenantForm().holds(through(condition), ("public.kind",), PARENT)
    assert not TenantForm().holds(through(condition), ("public.kind",), (Reference("user_id", "id", "other.users"),))


@pytest.mark.parametrize(
    "condition",
    [
        f'((users.tenant_id)::"char" = {SELECTED})', f"((users.tenant_id)::name = {SELECTED})",
        f"((users.tenant_id)::character varying(3) = {SELECTED})", f"((users.tenant_id)::public.other = {SELECTED})",
        f"((users.tenant_id)::text = ({SELECTED})::name)", f"(((users.tenant_id)::name)::text = {SELECTED})",
        f"((mine.tenant_id)::text = {SELECTED})", f"((tenant_id)::text = {SELECTED})",
        f"((users.tenant_id)::text <> {SELECTED})", f"(((users.tenant_id)::text = {SELECTED}) OR true)",
        f"((users.a || users.b) = {SELECTED})", f"(lower((users.tenant_id)::text) = {SELECTED})",
        "((users.tenant_id)::text = (users.name)::text)", "((users.tenant_id)::text = 'a'::text)",
        f"((users.tenant_id)::text = {SELECTED}) OR (true)", f"(users.tenant_id)::text = {SELECTED}",
    ],
)  # fmt: skip
def test_rows_behind_a_parents_column_of_another_form_are_open(condition: str) -> None:
    assert not TenantForm().holds(through(condition), ("public.kind",), PARENT)
