"""Does asyncpg still have the private names that the guard uses, and does the guard stand before all that it lends?"""

from __future__ import annotations

import inspect
from importlib import import_module

import asyncpg
import pytest

from tenantproxy.driver.guard import Guard
from tenantproxy.driver.private import PRIVATE_NAMES


@pytest.mark.parametrize("path", PRIVATE_NAMES)
def test_asyncpg_has_the_private_names_that_the_guard_uses(path: str) -> None:
    module, _, name = path.rpartition(".")
    cls = getattr(import_module(module), name)
    assert [each for each in PRIVATE_NAMES[path].split() if not hasattr(cls, each)] == []


def test_a_guard_has_coroutines_of_its_own_for_all_of_asyncpgs() -> None:
    names = {name for name, _ in inspect.getmembers(asyncpg.Connection, inspect.iscoroutinefunction) if name[0] != "_"}
    assert "fetch" in names
    assert [name for name in names if not inspect.iscoroutinefunction(vars(Guard).get(name))] == []


@pytest.mark.parametrize("name", ["fetch", "copy_to_table", "set_type_codec"])
def test_a_guards_coroutine_is_called_and_described_as_asyncpgs(name: str) -> None:
    assert getattr(Guard, name).__name__ == name
    assert getattr(Guard, name).__doc__
