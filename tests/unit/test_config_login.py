"""Does the configuration of login say what is missing, and what would let tenants ask who else has an account?"""

from __future__ import annotations

from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError

QUERY = "select 1"


def settings(*, server: dict[str, Any] | None = None, **login: Any) -> Settings:
    return Settings.from_mapping(
        {
            "main": {"server": "primary", "database": "main"},
            "servers": {"primary": {"user": "app", "password": "x", **(server or {})}},
            "registry": {"source": "file"},
            "login": login,
        }
    )


def problem(**given: Any) -> tuple[str, str]:
    with pytest.raises(ConfigurationError) as refused:
        settings(**given)
    (found,) = refused.value.problems
    return found.key, found.problem


ADMIN = {"admin": {"user": "admin", "password": "z"}}
WATCHING = {"account_query": QUERY, "list_query": QUERY, "watch_table": "users", "pepper": "p" * 32}
ROLE = {"login": {"user": "lookup", "password": "y"}}


def test_everything_for_login_is_understood() -> None:
    found = settings(
        server=ROLE, account_query=QUERY, lookup_query=QUERY, list_query=QUERY, rehash_query=QUERY, pepper="p" * 32
    )
    assert found.login.fan_out_concurrency == 8
    assert found.servers["primary"].login is not None
    assert "y" not in repr(found.servers["primary"].login)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"account_query": QUERY}, "login.pepper_file"),
        ({"account_query": QUERY, "pepper": "short"}, "login.pepper"),
        ({"list_query": QUERY}, "login.list_query"),
        ({"rehash_query": QUERY}, "login.rehash_query"),
        ({"lookup_query": QUERY}, "login.lookup_query"),
        ({"session_query": QUERY}, "login.session_query"),
        ({"account_query": QUERY, "pepper": "p" * 32, "server": ROLE}, "login.lookup_query"),
        ({"server": {"login": {"user": "lookup"}}}, "servers.primary.login.password_file"),
        ({"server": {"login": {"user": "app", "password": "y"}}}, "servers.primary.login.user"),
        ({"fan_out_concurrency": 0}, "login.fan_out_concurrency"),
        ({"outbox": True, "server": ADMIN}, "login.outbox"),
        ({**WATCHING, "outbox": True}, "login.outbox"),
        ({"attempts_per_account": -1}, "login.attempts_per_account"),
    ],
)
def test_what_is_missing_or_unsafe_is_named(given: dict[str, Any], key: str) -> None:
    assert problem(**given)[0] == key


def test_the_role_of_tenants_cannot_be_the_one_that_looks_accounts_up() -> None:
    assert "tenants' SQL" in problem(server={"login": {"user": "app", "password": "y"}})[1]
