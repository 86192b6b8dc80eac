"""Has each route of the admin listener a role, and is it described? Of the applications as they are put together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.router import Router
from tenantproxy.sidecar.admin_openapi import description
from tenantproxy.sidecar.admin_roles import Role
from tenantproxy.sidecar.admin_routes import ROUTES, route_for
from tenantproxy.sidecar.app import Sidecar
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.workers.supervisor import Supervisor, WorkerPlan

VALUES: dict[str, Any] = {
    "main": {"server": "primary", "database": "main"},
    "servers": {"primary": {"user": "app", "password": ""}},
    "registry": {"source": "file"},
    "admin": {"listen": "127.0.0.1:0"},
    "http": {"listen": "127.0.0.1:0"},
}
VERB = "{verb}"


def registered(listener: HttpListener | None) -> Iterator[tuple[str, str]]:
    """Method and pattern of each route."""
    assert listener is not None
    for route in listener._runner.app.router.routes():
        if route.method != "HEAD" and route.resource is not None:
            yield route.method, route.resource.canonical


@pytest.fixture
async def of_sidecar() -> list[tuple[str, str]]:
    return list(registered(Sidecar(Router(Settings.from_mapping(VALUES)))._admin))


@pytest.fixture
async def of_supervisor() -> list[tuple[str, str]]:
    plan = WorkerPlan(workers=2, gather=lambda: VALUES, source="")
    supervisor = Supervisor(Settings.from_mapping(VALUES), VALUES, plan=plan, sockets={})
    return list(registered(supervisor._admin))


async def test_each_route_of_the_listener_has_a_role_in_the_table(
    of_sidecar: list[tuple[str, str]], of_supervisor: list[tuple[str, str]]
) -> None:
    assert min(len(of_sidecar), len(of_supervisor)) > 5
    for method, pattern in [*of_sidecar, *of_supervisor]:
        if not pattern.endswith(VERB):  # each verb has a line of its own
            assert route_for(method, pattern, {}) is not None, f"{method} {pattern} has no line in admin_routes.ROUTES"


async def test_each_line_of_the_table_is_a_route_of_the_listener_and_of_the_supervisors(
    of_sidecar: list[tuple[str, str]], of_supervisor: list[tuple[str, str]]
) -> None:
    for listener in (of_sidecar, of_supervisor):
        patterns = {(method, pattern.removesuffix(VERB)) for method, pattern in listener}
        for each in ROUTES:
            own = (each.method, each.path)
            assert own in patterns or (each.method, f"{each.path.rpartition('/')[0]}/") in patterns, own


def test_what_changes_something_needs_more_than_the_role_to_read() -> None:
    for each in ROUTES:
        assert not each.changes or each.role in (Role.OPERATE, Role.ADMIN), f"{each.method} {each.path}"
        assert each.role is not None or not each.path.startswith("/v1/"), f"{each.path} needs no token"


def test_no_route_has_two_lines_and_a_verb_not_in_the_table_has_none() -> None:
    assert len({(each.method, each.path) for each in ROUTES}) == len(ROUTES)
    assert route_for("POST", "/v1/tenants/{tenant}/{verb}", {"verb": "paint"}) is None
    assert route_for("POST", "/v1/tenants/{tenant}/{verb}", {"verb": "{verb}"}) is None


def test_the_description_names_each_route_its_role_and_what_it_takes() -> None:
    told = description(ROUTES)
    assert sum(len(each) for each in told["paths"].values()) == len(ROUTES)
    names = [each["operationId"] for path in told["paths"].values() for each in path.values()]
    assert len(set(names)) == len(names)
    move = told["paths"]["/v1/tenants/{tenant}/move"]["post"]
    assert move["x-role"] == "admin"
    assert move["security"] == [{"token": []}]
    assert [each["name"] for each in move["parameters"]] == ["tenant"]
    assert set(move["requestBody"]["content"]["application/json"]["schema"]["properties"]) == {
        "server", "isolation", "drop_old", "dry_run"
    }  # fmt: skip
    assert {"200", "202", "401", "403", "409"} <= move["responses"].keys()
    assert told["paths"]["/livez"]["get"]["security"] == []
