"""Is it recognised what keeps tenants apart, and which table lists them?"""

from __future__ import annotations

import pytest

from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.init.found import KeyFound, RegistryValues
from tenantproxy.lifecycle.init.recognise import recognise
from tenantproxy.lifecycle.init.registry import queries
from tenantproxy.model import Isolation
from tests.support.init_found import a_found, a_table

ORDERS = a_table("orders", "id", "company_id", "customer_id")
ITEMS = a_table("items", "id", "company_id")
COMPANIES = a_table("companies", "id", "status:text", "plan:text", "deleted_at:timestamp with time zone")


def test_the_column_that_most_tables_have_names_the_tenant() -> None:
    layout = recognise(a_found(ORDERS, ITEMS, COMPANIES))
    assert (layout.isolation, layout.column, layout.others) == (Isolation.ROW, "company_id", (("customer_id", 1),))
    assert layout.registry is COMPANIES


def test_a_registry_is_what_the_foreign_keys_lead_to() -> None:
    firms = a_table("firms", "number")
    key = KeyFound(
        name="fk", table="public.orders", columns=("company_id",), target="public.firms", target_columns=("number",)
    )
    layout = recognise(a_found(ORDERS, ITEMS, COMPANIES, firms, keys=(key,)))
    assert layout.registry is firms
    assert layout.key is not None
    assert layout.key.name == "number"


@pytest.mark.parametrize("column", ["tenantId", "TENANT_ID", "organization_uuid", "tenant"])
def test_other_spellings_of_a_tenant_column_are_recognised(column: str) -> None:
    assert recognise(a_found(a_table("orders", "id", column))).column == column


def test_a_column_of_another_name_is_taken_where_it_is_named() -> None:
    found = a_found(a_table("orders", "id", "mandant"), ITEMS)
    assert recognise(found, column="mandant").column == "mandant"
    with pytest.raises(ConfigurationError, match=r"no table of this database has a column 'mandantt'.*company_id"):
        recognise(found, column="mandantt")


def test_names_of_schemas_in_a_column_are_schema_tenants() -> None:
    clients = a_table("customers_client", "id", "schema_name:character varying", "name:text")
    values = RegistryValues(table="public.customers_client", column="schema_name", values=2, schemas=1, databases=0)
    layout = recognise(a_found(clients, values=(values,)))
    assert (layout.isolation, layout.registry) == (Isolation.SCHEMA, clients)
    made = queries(layout, database="app", role="")
    assert made is not None
    assert "schema_name::text as schema" in made.query
    assert "<> 'public'" in made.list_query


def test_names_of_databases_in_a_column_are_database_tenants() -> None:
    agencies = a_table("agencies", "id", "database_name:text")
    values = RegistryValues(table="public.agencies", column="database_name", values=3, schemas=0, databases=2)
    layout = recognise(a_found(agencies, ORDERS, ITEMS, values=(values,)))
    assert (layout.isolation, layout.registry) == (Isolation.DATABASE, agencies)


def test_one_value_that_looks_like_a_database_is_no_registry() -> None:
    settings = a_table("settings", "name:text")
    values = RegistryValues(table="public.settings", column="name", values=1, schemas=0, databases=1)
    assert recognise(a_found(settings, ORDERS, values=(values,))).isolation is Isolation.ROW


def test_a_database_without_tenants_is_refused_with_what_to_name() -> None:
    with pytest.raises(ConfigurationError, match=r"no tenants are recognised.*--column NAME"):
        recognise(a_found(a_table("orders", "id")))
    with pytest.raises(ConfigurationError, match="no tenants of the kind schema"):
        recognise(a_found(ORDERS), wanted=Isolation.SCHEMA)
    with pytest.raises(ConfigurationError, match="--column"):
        recognise(a_found(ORDERS), wanted=Isolation.SCHEMA, column="company_id")


def test_a_registry_maps_the_words_of_its_status() -> None:
    layout = recognise(a_found(ORDERS, COMPANIES))
    made = queries(layout, database="app", role="tenants", words=("Active", "archived", "suspended", "o'dd"))
    assert made is not None
    said = [part.strip() for part in made.query.splitlines()]
    assert said.index("case when deleted_at is not null then 'deleting'") < said.index(
        "when status::text = 'Active' then 'active'"
    )
    assert "when status::text = 'archived' then 'deleting'" in said
    assert "when status::text = 'suspended' then 'suspended'" in said
    assert "else 'suspended' end as status" in made.query
    assert "o'dd" not in made.query
    assert made.columns == ("id", "status", "deleted_at", "plan")
    assert made.query.endswith("from public.companies where id::text = $1")
    assert made.list_query.endswith("where id::text > $1 order by id::text limit $2")


def test_a_status_without_a_known_word_serves_no_tenant() -> None:
    made = queries(recognise(a_found(ORDERS, COMPANIES)), database="app", role="t", words=("foo",))
    assert made is not None
    assert (
        "case when deleted_at is not null then 'deleting'\n              else 'suspended' end as status" in made.query
    )
    assert "no tenant is served" in made.notes[0]


def test_a_flag_says_whether_a_tenant_is_served() -> None:
    table = a_table("companies", "id", "is_active:boolean")
    made = queries(recognise(a_found(ORDERS, table)), database="a'b", role="t")
    assert made is not None
    assert "when is_active is not true then 'suspended'" in made.query
    assert "else 'active' end as status" in made.query
    assert "'a''b' as database" in made.query
