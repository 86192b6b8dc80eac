"""Where is each kind of tenant served, and in which session?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tenantproxy.errors import TenantNotFound
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.model import Binding, Isolation, Limits, Placement, PoolKey, Proof, Route, Session, Tenant, tenant_id

LIMITS = Limits(max_size=3)
ACME = tenant_id("acme")


def tenant(isolation: Isolation, **place: str) -> Tenant:
    placement = Placement(isolation=isolation, server="one", database="d", **place)
    return Tenant(id=ACME, placement=placement, limits=LIMITS)


IN_DATABASE = tenant(Isolation.DATABASE, role="acme_role")
IN_SCHEMA = tenant(Isolation.SCHEMA, schema="acme_s", role="acme_role")
IN_ROWS = tenant(Isolation.ROW)


def test_a_database_tenant_has_a_pool_of_its_own_and_nothing_to_set() -> None:
    assert DatabasePlan().plan(IN_DATABASE) == Route(
        tenant=ACME,
        isolation=Isolation.DATABASE,
        pool=PoolKey(server="one", database="d", user="acme_role"),
        session=Session(),
        limits=LIMITS,
    )


def test_a_schema_tenants_pool_holds_its_schema_so_that_it_never_shares_a_backend() -> None:
    route = SchemaPlan().plan(IN_SCHEMA)
    assert route.pool == PoolKey(server="one", database="d", user="acme_role", schema="acme_s")
    assert route.session == Session()
    other = replace(IN_SCHEMA, placement=replace(IN_SCHEMA.placement, schema="other_s"))
    assert SchemaPlan().plan(other).pool != route.pool


def test_row_tenants_of_a_database_have_equal_pools_and_each_its_own_binding() -> None:
    route = RowPlan().plan(IN_ROWS)
    other = RowPlan().plan(replace(IN_ROWS, id=tenant_id("other")))
    assert route.pool == other.pool == PoolKey(server="one", database="d", shared=True)
    assert route.session.binding == Binding(tenant=ACME, proof=Proof.BOUND)
    assert other.session.binding == Binding(tenant=tenant_id("other"), proof=Proof.BOUND)


def test_on_a_replica_a_proof_is_carried_since_a_standby_cannot_bind() -> None:
    route = RowPlan(setting="my.tenant").plan(IN_ROWS, replica="two")
    assert route.pool.server == "two"
    assert route.session.binding == Binding(tenant=ACME, proof=Proof.CARRIED, setting="my.tenant")


@pytest.mark.parametrize("replica", [None, "two"])
def test_without_signatures_only_the_setting_is_set(replica: str | None) -> None:
    binding = RowPlan(signed=False).plan(IN_ROWS, replica=replica).session.binding
    assert binding == Binding(tenant=ACME, proof=Proof.PLAIN)


@pytest.mark.parametrize(
    ("plan", "asked"), [(DatabasePlan(), IN_DATABASE), (SchemaPlan(), IN_SCHEMA), (RowPlan(), IN_ROWS)]
)
def test_a_replica_changes_the_server_and_equal_requests_have_equal_routes(plan: Plan, asked: Tenant) -> None:
    assert plan.plan(asked) == plan.plan(asked)
    assert plan.plan(asked).pool.server == "one"
    assert plan.plan(asked, replica="two").pool.server == "two"
    assert plan.plan(asked).limits is LIMITS


def test_a_tenant_with_several_systems_is_served_from_the_schema_of_the_one_asked_for() -> None:
    asked = replace(IN_SCHEMA, systems={"crm": "acme_crm", "erp": "acme_erp"})
    assert SchemaPlan().plan(asked, system="crm").pool.schema == "acme_crm"
    assert SchemaPlan().plan(asked).pool.schema == "acme_s"
    with pytest.raises(TenantNotFound, match="it has crm, erp"):
        SchemaPlan().plan(asked, system="hr")


@pytest.mark.parametrize(
    ("plan", "asked"), [(DatabasePlan(), IN_DATABASE), (SchemaPlan(), IN_SCHEMA), (RowPlan(), IN_ROWS)]
)
def test_a_system_that_a_tenant_does_not_have_is_not_found(plan: Plan, asked: Tenant) -> None:
    with pytest.raises(TenantNotFound):
        plan.plan(asked, system="crm")
