"""What does every connection begin with, whatever a schema is called?"""

from __future__ import annotations

import pytest

from tenantproxy.isolation import Pins, search_path, startup_pins
from tenantproxy.model import PoolKey

KEY = PoolKey(server="one", database="d")


def in_schema(schema: str) -> str:
    return startup_pins(PoolKey(server="one", database="d", schema=schema), Pins())["search_path"]


def test_a_schema_tenants_search_path_is_its_schema_alone() -> None:
    assert in_schema("acme") == '"acme"'


@pytest.mark.parametrize(
    ("schema", "quoted"),
    [
        ('a", public, "b', '"a"", public, ""b"'),
        ("a,public", '"a,public"'),
        ("$user", '"$user"'),
        ("PUBLIC", '"PUBLIC"'),
        ("a'b", '"a\'b"'),
        ("a\\b", '"a\\b"'),
        ("a b", '"a b"'),
        ("ä" * 31, '"' + "ä" * 31 + '"'),
    ],
)
def test_a_hostile_schema_name_stays_one_quoted_identifier(schema: str, quoted: str) -> None:
    assert in_schema(schema) == quoted


@pytest.mark.parametrize("schema", ["", "a\0b", "a" * 64, "ä" * 32, "a\nb"])
def test_a_schema_name_that_postgresql_would_change_is_refused(schema: str) -> None:
    with pytest.raises(ValueError, match="an identifier"):
        in_schema(schema)


def test_without_a_schema_the_operators_path_is_pinned_in_order_and_quoted() -> None:
    pins = startup_pins(KEY, Pins(search_path=("app", "ext ensions")))
    assert pins["search_path"] == '"app", "ext ensions"'
    assert search_path(()) == ""


def test_what_a_role_default_could_change_is_pinned() -> None:
    assert startup_pins(KEY, Pins()) == {
        "search_path": '"public"',
        "row_security": "on",
        "app.current_tenant_id": "",
        "app.tenant_proof": "",
        "standard_conforming_strings": "on",
        "default_transaction_read_only": "off",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "statement_timeout": "30000",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "60000",
        "idle_session_timeout": "0",
        "exit_on_error": "off",
        "local_preload_libraries": "",
        "application_name": "tenantproxy",
    }


def test_the_setting_that_policies_read_is_pinned_empty_under_its_own_name() -> None:
    pins = startup_pins(KEY, Pins(), setting="my.tenant")
    assert pins["my.tenant"] == ""
    assert "app.current_tenant_id" not in pins


def test_timeouts_are_pinned_in_milliseconds() -> None:
    pins = startup_pins(KEY, Pins(statement_timeout=1.5, idle_in_transaction_timeout=0.25, lock_timeout=0.001))
    assert pins["statement_timeout"] == "1500"
    assert pins["idle_in_transaction_session_timeout"] == "250"
    assert pins["lock_timeout"] == "1"


@pytest.mark.parametrize(("version", "is_pinned"), [(None, False), (160004, False), (170000, True), (180001, True)])
def test_a_setting_that_only_newer_servers_know_is_sent_only_to_them(version: int | None, is_pinned: bool) -> None:
    assert ("transaction_timeout" in startup_pins(KEY, Pins(), server_version=version)) is is_pinned
