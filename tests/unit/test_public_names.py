"""Does everything that users may touch say what it does, and is everything there that was promised?"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import tenantproxy
from tenantproxy import Router, Scope, TenantScope


def all_modules() -> Iterator[str]:
    yield "tenantproxy"
    for found in pkgutil.walk_packages(tenantproxy.__path__, "tenantproxy."):
        if not found.name.endswith("__main__"):
            yield found.name


MODULES = sorted(all_modules())


def public_names(module: ModuleType) -> Iterator[tuple[str, object]]:
    """What `__all__` names and this module defines."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if getattr(value, "__module__", None) == module.__name__ and (inspect.isclass(value) or callable(value)):
            yield name, value


def public_members(kind: type) -> Iterator[tuple[str, object]]:
    """Methods and properties that `kind` defines itself."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(function, property):
            yield name, function.fget
        elif inspect.isfunction(function):
            yield name, function


@pytest.mark.parametrize("name", MODULES)
def test_the_first_line_of_a_module_says_what_it_holds(name: str) -> None:
    doc = importlib.import_module(name).__doc__
    assert doc, f"{name} has no docstring"
    first = doc.strip().splitlines()[0]
    assert first[-1] in ".?" or "? " in first, f"{name} begins with no sentence: {first}"
    assert len(first.split()) >= 3, f"{name} says nothing: {first}"


@pytest.mark.parametrize("name", MODULES)
def test_whatever_a_module_names_as_public_exists_and_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    missing = []
    for public, value in public_names(module):
        if not (value.__doc__ or "").strip():
            missing.append(public)
        if inspect.isclass(value):
            missing += [f"{public}.{member}" for member, function in public_members(value) if not function.__doc__]
    assert not missing, f"{name}: without a docstring {missing}"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_named_once(name: str) -> None:
    names = list(getattr(importlib.import_module(name), "__all__", ()))
    assert len(names) == len(set(names))


def test_the_package_offers_what_was_promised() -> None:
    promised = {
        "Router",
        "open_router",
        "current",
        "use",
        "TenantScope",
        "Tenant",
        "TenantStatus",
        "Placement",
        "Limits",
    }
    assert promised <= set(tenantproxy.__all__)
    for name in tenantproxy.__all__:
        assert hasattr(tenantproxy, name)


@pytest.mark.parametrize(
    "name", ["tenant", "main", "tenants", "admin", "stats", "expire_connections", "open", "close", "from_file"]
)
def test_a_router_has_what_was_promised(name: str) -> None:
    assert callable(getattr(Router, name))


@pytest.mark.parametrize("name", ["settings", "registry", "is_open"])
def test_a_routers_attributes_were_promised_too(name: str) -> None:
    assert hasattr(Router, name) or name in inspect.getsource(Router.__init__)


@pytest.mark.parametrize("scope", [Scope, TenantScope])
@pytest.mark.parametrize(
    "name",
    [
        "fetch",
        "fetchrow",
        "fetchval",
        "fetchmany",
        "execute",
        "executemany",
        "copy_records_to_table",
        "copy_to_table",
        "copy_from_query",
        "connection",
        "transaction",
    ],
)
def test_a_scope_has_asyncpgs_methods_and_each_takes_a_timeout(scope: type[Scope], name: str) -> None:
    parameters = inspect.signature(getattr(scope, name)).parameters
    if name != "transaction":
        assert "timeout" in parameters
    else:
        assert {"readonly", "isolation", "deferrable"} <= set(parameters)
    if name in ("fetch", "fetchrow", "fetchval", "execute"):
        assert any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values())
