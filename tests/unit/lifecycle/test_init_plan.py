"""Are the files what isolation needs, may they be run twice, and does the undo take each of them back?"""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.column_type import ColumnType
from tenantproxy.lifecycle.init.found import DatabaseFound, KeyFound, RegistryValues, RoutineFound
from tenantproxy.lifecycle.init.plan import InitRequest, check_server
from tenantproxy.lifecycle.init.shape import Shape, TableState
from tenantproxy.lifecycle.init.sql_file import Do, SqlFile, runs, when
from tests.support.init_found import a_found, a_plan, a_policy, a_role, a_row_table, a_table, text_of

ORDERS = a_table("orders", "id", "company_id")
ITEMS = a_table("items", "id", "company_id", "order_id")
NOTES = a_table("notes", "id", "item_id")
LANDS = a_table("countries", "code:text")
COMPANIES = a_table("companies", "id", "name:text")
TO_ITEMS = KeyFound(name="n", table="public.notes", columns=("item_id",), target="public.items", target_columns=("id",))
TO_ORDERS = KeyFound(
    name="i", table="public.items", columns=("order_id",), target="public.orders", target_columns=("id",),
    on_delete="n", unique_sets=(frozenset({"id"}),),
)  # fmt: skip
FOUND = a_found(ORDERS, ITEMS, NOTES, LANDS, COMPANIES, keys=(TO_ITEMS, TO_ORDERS))
ROWS = (a_row_table(ORDERS), a_row_table(ITEMS))


def state(shape: Shape, label: str) -> TableState:
    return next(table.state for table in shape.tables if table.label == f"public.{label}")


def test_each_table_gets_a_state_and_closed_ones_a_reason() -> None:
    plan = a_plan(FOUND, ROWS, InitRequest(shared=("countries",)))
    shape = plan.shape
    assert [state(shape, name) for name in ("orders", "items", "notes", "countries", "companies")] == [
        TableState.TENANTS, TableState.TENANTS, TableState.CHILD, TableState.SHARED, TableState.REGISTRY
    ]  # fmt: skip
    (child,) = shape.of(TableState.CHILD)
    assert "item_id -> public.items: closed" in child.why


def test_tenants_get_rights_on_their_tables_and_nothing_else() -> None:
    grants = text_of(a_plan(FOUND, ROWS, InitRequest(shared=("public.countries",))), 50)
    given = re.findall(r'^GRANT (.+) TO "tenantproxy_tenants";$', grants, re.M)
    assert sorted(given) == [
        'SELECT ON TABLE "public"."countries"',
        "SELECT, INSERT, UPDATE, DELETE ON public.items",
        "SELECT, INSERT, UPDATE, DELETE ON public.orders",
        'USAGE ON SCHEMA "public"', 'USAGE ON SCHEMA "public"', 'USAGE ON SCHEMA "public"',
    ]  # fmt: skip
    assert 'GRANT SELECT ("id") ON TABLE "public"."companies" TO "tenantproxy_router"' in grants
    assert 'GRANT CONNECT ON DATABASE "app" TO "tenantproxy_router", "tenantproxy_tenants"' in grants


def test_no_role_that_is_made_is_mighty_and_no_password_is_readable() -> None:
    roles = text_of(a_plan(FOUND, ROWS), 10)
    assert roles.count("NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS") == 3
    assert "r" * 64 not in roles
    assert "t" * 64 not in roles
    assert roles.count("SCRAM-SHA-256$") == 2
    assert 'CREATE ROLE "tenantproxy_owner" NOLOGIN' in roles
    assert roles == text_of(a_plan(FOUND, ROWS), 10)


def test_a_registry_with_the_tenants_column_is_guarded_and_granted_to_the_router_alone() -> None:
    lists = a_table("tenants", "tenant_id", "status:text")
    orders = a_table("orders", "id", "tenant_id")
    key = KeyFound(
        name="t", table="public.orders", columns=("tenant_id",), target="public.tenants", target_columns=("tenant_id",)
    )
    plan = a_plan(
        a_found(lists, orders, keys=(key,)), (a_row_table(lists, "tenant_id"), a_row_table(orders, "tenant_id"))
    )
    assert state(plan.shape, "tenants") is TableState.REGISTRY
    assert "ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY" in text_of(plan, 40)
    grants = text_of(plan, 50)
    assert "public.tenants TO" not in grants
    assert 'CREATE POLICY tenantproxy_router ON "public"."tenants" FOR SELECT TO "tenantproxy_router"' in grants


def test_who_owned_the_tables_is_let_through_by_name() -> None:
    policies = text_of(a_plan(FOUND, ROWS), 40)
    former = 'CREATE POLICY tenantproxy_former ON public.orders TO "app" USING (true) WITH CHECK (true)'
    assert policies.index(former) < policies.index("ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY")
    assert 'TO "tenantproxy_tenants"' not in policies


def test_a_file_may_be_run_twice_and_is_taken_back() -> None:
    policies = next(file for file in a_plan(FOUND, ROWS).files if file.number == 40)
    for name in ("tenantproxy", "tenantproxy_former"):
        text = policies.text()
        assert text.index(f"DROP POLICY IF EXISTS {name} ON public.items") < text.index(
            f"CREATE POLICY {name} ON public.items"
        )
    undo = policies.undo_text()
    assert "ALTER TABLE public.items NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY" in undo
    assert 'ALTER COLUMN "company_id" DROP DEFAULT' in undo
    assert undo.index("public.items") < undo.index("public.orders")


def test_every_file_is_one_transaction_that_waits_for_no_lock_for_long() -> None:
    for file in a_plan(FOUND, ROWS, closing=["REVOKE EXECUTE ON FUNCTION lo_get(oid) FROM PUBLIC"]).files:
        for text in (file.text(), file.undo_text()):
            if file.number not in (30, 55):
                assert text.count("\nBEGIN;\n") == text.count("\nCOMMIT;\n") == 1
                assert "SET LOCAL lock_timeout = '5s'" in text


def test_a_table_with_policies_of_yours_is_for_later() -> None:
    rows = (a_row_table(ORDERS, enabled=True, policies=(a_policy(),)), ROWS[1])
    plan = a_plan(FOUND, rows)
    assert state(plan.shape, "orders") is TableState.LATER
    assert "public.orders" not in text_of(plan, 40) + text_of(plan, 50)
    later = text_of(plan, 80)
    assert "CREATE POLICY tenantproxy_signed ON public.orders AS RESTRICTIVE" in later
    assert "DROP POLICY IF EXISTS own" not in later


def test_where_row_security_was_on_nothing_more_is_let_through() -> None:
    """A policy for another role leaves the table to us; the owner was held by it with FORCE, and not without."""
    policy = a_policy("theirs", applies=False, reads="false")
    held = text_of(a_plan(FOUND, (a_row_table(ORDERS, enabled=True, forced=True, policies=(policy,)), ROWS[1])), 40)
    assert "tenantproxy_former ON public.orders" not in held
    free = text_of(a_plan(FOUND, (a_row_table(ORDERS, enabled=True, policies=(policy,)), ROWS[1])), 40)
    assert 'tenantproxy_former ON public.orders TO "app"' in free
    assert "DISABLE ROW LEVEL SECURITY" not in next(
        file.undo_text() for file in a_plan(FOUND, (a_row_table(ORDERS, enabled=True, forced=True), ROWS[1])).files
        if file.number == 40
    ).partition("public.orders")[2]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonb", "boolean", "timestamp with time zone", "double precision"])
def test_a_column_that_cannot_name_a_tenant_closes_its_table(kind: str) -> None:
    plan = a_plan(FOUND, (a_row_table(ORDERS, kind=ColumnType(name=kind, base=kind)), ROWS[1]))
    assert state(plan.shape, "orders") is TableState.REFUSED
    assert "public.orders" not in text_of(plan, 40) + text_of(plan, 50)


def test_tenants_that_a_column_cannot_hold_close_its_table() -> None:
    plan = a_plan(FOUND, (a_row_table(ORDERS, unusable=("acme (not a bigint)",)), ROWS[1]))
    assert state(plan.shape, "orders") is TableState.REFUSED


def test_rows_without_a_tenant_are_told_and_no_default_is_laid_on_them() -> None:
    rows = (replace(a_row_table(ORDERS, nullable=True), has_nulls=True), ROWS[1])
    plan = a_plan(FOUND, rows)
    assert any("public.orders" in note and "NULL" in note for note in plan.notes)
    assert "ALTER TABLE ONLY public.orders" not in text_of(plan, 40)


def test_views_of_what_is_closed_stay_closed() -> None:
    good = a_table("good", kind="v", reads=("public.orders",))
    over = a_table("over", kind="v", reads=("public.good",))
    bad = a_table("bad", kind="v", reads=("public.orders", "public.notes"))
    stored = a_table("stored", kind="m", reads=("public.orders",))
    above = a_table("above", kind="v", reads=("public.stored",))
    plan = a_plan(replace(FOUND, relations=(*FOUND.relations, good, over, bad, stored, above)), ROWS)
    assert plan.shape.readable == ("public.good", "public.over")
    assert 'ALTER VIEW "public"."bad" SET (security_invoker = true)' in text_of(plan, 40)
    assert "public.stored is a materialized view" in " ".join(plan.notes)


def test_a_definer_function_is_closed_to_tenants_and_stays_with_its_owner() -> None:
    routine = RoutineFound(
        name="public.total()",
        schema="public",
        owner="app",
        is_definer=True,
        is_fixed=False,
        is_public=True,
        is_trigger=False,
    )
    ownership = text_of(a_plan(replace(FOUND, routines=(routine,), roles=(*FOUND.roles, a_role("other"))), ROWS), 20)
    assert "ALTER ROUTINE public.total() OWNER" not in ownership
    assert "REVOKE EXECUTE ON ROUTINE public.total() FROM PUBLIC" in ownership
    assert 'GRANT EXECUTE ON ROUTINE public.total() TO "other"' in ownership
    assert "SET search_path = pg_catalog, " in ownership


def test_a_foreign_key_gets_the_tenant_and_keeps_what_it_does() -> None:
    plan = a_plan(FOUND, ROWS)
    keys = text_of(plan, 70)
    assert 'UNIQUE ("company_id", "id")' in keys
    assert (
        'ALTER TABLE "public"."items" DROP CONSTRAINT IF EXISTS "i", ADD CONSTRAINT "i" FOREIGN KEY ("company_id",'
        ' "order_id") REFERENCES "public"."orders" ("company_id", "id") ON DELETE SET NULL ("order_id")'
    ) in keys
    undo = next(file.undo_text() for file in plan.files if file.number == 70)
    assert 'FOREIGN KEY ("order_id") REFERENCES "public"."orders" ("id") ON DELETE SET NULL;' in undo


def test_names_of_every_kind_are_quoted() -> None:
    odd = a_table('or"ders; --', "id", "company_id", label='public."or""ders; --"')
    long = a_table("ä" * 31 + "x", "id", "company_id", label=f'public."{"ä" * 31}x"')
    rows = (a_row_table(odd), a_row_table(long, has_index=False))
    plan = a_plan(a_found(odd, long, COMPANIES), rows)
    assert 'ALTER TABLE "public"."or""ders; --" OWNER TO' in text_of(plan, 20)
    (name,) = re.findall(r'CREATE INDEX CONCURRENTLY IF NOT EXISTS "(.+?)" ON', text_of(plan, 55))
    assert len(name.encode()) <= 63


def test_a_name_that_cannot_be_printed_is_refused() -> None:
    bad = a_table("or\nders", "id", "company_id", label='public."or\nders"')
    with pytest.raises(ConfigurationError, match="no SQL can hold"):
        a_plan(a_found(bad, COMPANIES), (a_row_table(bad),))


def test_a_role_of_that_name_is_refused_with_another_prefix() -> None:
    found = replace(FOUND, roles=(*FOUND.roles, a_role("tenantproxy_router")))
    with pytest.raises(ConfigurationError, match="tenantproxy_router, which exists"):
        a_plan(found, ROWS)
    assert 'CREATE ROLE "tp_router"' in text_of(a_plan(found, ROWS, InitRequest(prefix="tp")), 10)
    for prefix in ("pg_x", "a b", "x" * 60, ""):
        with pytest.raises(ConfigurationError, match="cannot be a role's name"):
            a_plan(FOUND, ROWS, InitRequest(prefix=prefix))


def test_a_shared_table_must_be_clear() -> None:
    twice = a_table("countries", "code:text", schema="geo", label="geo.countries")
    found = replace(FOUND, relations=(*FOUND.relations, twice))
    for name, said in (("countries", "in several schemas"), ("nowhere", "no table"), ("orders", "has the column")):
        with pytest.raises(ConfigurationError, match=said):
            a_plan(found, ROWS, InitRequest(shared=(name,)))


def test_the_file_is_a_configuration_that_names_what_is_there() -> None:
    plan = a_plan(FOUND, ROWS, InitRequest(shared=("countries",)))
    settings = Settings.from_mapping(tomllib.loads(plan.toml), secrets=False)
    server = settings.servers["primary"]
    assert (server.host, server.port, server.user, server.max_connections) == ("db", 5433, "tenantproxy_router", 48)
    assert settings.row.unprotected == ("public.countries",)
    assert settings.registry.query is not None
    assert "'tenantproxy_tenants' as role" in settings.registry.query
    assert str(settings.auth.key_file) == "secrets/jwt"


def test_what_sessions_need_is_installed_with_the_context() -> None:
    installed = text_of(a_plan(FOUND, ROWS), 30)
    assert "FUNCTION tenantproxy.bound_tenant()" in installed
    assert 'GRANT SELECT ON tenantproxy.tenant_epochs, tenantproxy.revoked TO "tenantproxy_router"' in installed


def test_tenants_that_no_table_lists_are_in_the_file() -> None:
    plan = a_plan(a_found(ORDERS, ITEMS), ROWS, ids=("1", "acme.x", "no id"))
    settings = Settings.from_mapping(tomllib.loads(plan.toml), secrets=False)
    assert settings.tenants["acme.x"].role == "tenantproxy_tenants"
    assert settings.tenants.keys() == {"1", "acme.x"}
    assert any("'no id'" in note for note in plan.notes)


def test_database_tenants_get_a_router_and_no_owner() -> None:
    agencies = a_table("agencies", "id", "database_name:text", "status:text")
    values = RegistryValues(table="public.agencies", column="database_name", values=2, schemas=0, databases=2)
    plan = a_plan(a_found(agencies, values=(values,)))
    assert [file.number for file in plan.files] == [10, 50]
    assert "tenantproxy_owner" not in text_of(plan, 10)
    settings = Settings.from_mapping(tomllib.loads(plan.toml), secrets=False)
    assert settings.provision.isolation.value == "database"


MANAGED = {"is_super": False, "user": "master"}


def test_what_a_managed_server_does_not_allow_is_asked_for() -> None:
    roles = (a_role("app", is_mine=False, may_join=False), a_role("master"))
    databases = (DatabaseFound(name="app", owner="app", public_rights=("CONNECT", "TEMPORARY"), is_mine=False),)
    found = replace(
        a_found(server=MANAGED | {"creates_roles": False}), relations=FOUND.relations, roles=roles, databases=databases
    )
    plan = a_plan(found, ROWS, closing=["REVOKE EXECUTE ON FUNCTION lo_get(oid) FROM PUBLIC"])
    assert [(ask.sql, ask.needed) for ask in plan.asks] == [
        ('ALTER ROLE "master" CREATEROLE', True),
        ('GRANT "app" TO "master"', True),
        ('REVOKE ALL ON DATABASE "app" FROM PUBLIC', False),
        ("what is in sql/60_server.sql", False),
    ]
    assert 'REVOKE ALL ON DATABASE "app" FROM PUBLIC' not in text_of(plan, 50)


def test_who_may_join_the_owner_is_its_member_while_a_file_runs() -> None:
    roles = (a_role("app", is_mine=False), a_role("master"))
    found = replace(a_found(server=MANAGED), relations=FOUND.relations, roles=roles)
    plan = a_plan(found, ROWS)
    ownership = next(file for file in plan.files if file.number == 20)
    for text in (ownership.text(), ownership.undo_text()):
        assert (
            text.index('GRANT "app" TO CURRENT_USER')
            < text.index("ALTER TABLE")
            < text.index('REVOKE "app" FROM CURRENT_USER')
        )
    assert 'GRANT "tenantproxy_owner" TO CURRENT_USER' in text_of(plan, 10)
    assert plan.asks == ()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"is_pooled": True}, "leads to a connection pooler"),
        ({"is_installed": True}, "installed already"),
        ({"version": 140_010}, "PostgreSQL 14"),
    ],
    ids=["pooler", "installed", "old"],
)
def test_a_server_that_cannot_be_begun_with_is_refused(server: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_server(a_found(server=server).server)


def test_the_old_roles_end_is_for_later_and_never_the_own_one() -> None:
    assert 'ALTER ROLE "app" NOLOGIN' in text_of(a_plan(FOUND, ROWS), 90)
    found = replace(a_found(server={"user": "app", "is_super": False}), relations=FOUND.relations)
    assert "NOLOGIN" not in text_of(a_plan(found, ROWS), 90)


def test_statements_outside_of_a_transaction_are_run_one_by_one() -> None:
    statements = (Do("DROP INDEX a"), Do(when("true", "DROP INDEX b"), "x"))
    apart = SqlFile(number=55, name="indexes", about=("Indexes.",), statements=statements, whole=False)
    assert [part.strip() for part in runs(apart.text())] == [f"{each.sql};" for each in statements]
    together = replace(apart, whole=True)
    assert runs(together.text()) == [together.text()]
    assert runs(together.text() + together.text()) == [together.text()] * 2


def test_a_name_cannot_end_the_body_of_a_condition() -> None:
    text = when("true", 'DROP ROLE "a$do$b"')
    assert text.startswith("DO $do_$")
    assert text.endswith("$do_$")
