"""Are regions told of before a request is sent to the wrong one? Addresses, and servers in regions without one."""

from __future__ import annotations

from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError

HERE = {"region": "eu", "regions": {"us": "https://us.db.example.com"}}


def problems(sql: dict[str, Any], region: str | None = None) -> list[str]:
    server = {"user": "app", "password": "sesame-open"} | ({} if region is None else {"region": region})
    try:
        Settings.from_mapping(
            {
                "main": {"server": "primary", "database": "main"},
                "servers": {"primary": server},
                "registry": {"source": "file"},
                "row": {"key": "k" * 32},
                "sql": sql,
            }
        )
    except ConfigurationError as exc:
        return [problem.key for problem in exc.problems]
    return []


@pytest.mark.parametrize(
    "url",
    ["https://us.db.example.com", "https://us.db.example.com:8443", "http://127.0.0.1:8080", "http://[::1]:8080",
     "http://localhost:8080"],
)  # fmt: skip
def test_an_address_of_a_sidecar_is_https_or_of_this_machine(url: str) -> None:
    assert problems({"region": "eu", "regions": {"us": url}}, "us") == []


@pytest.mark.parametrize(
    "url",
    ["", "us.db.example.com", "http://us.db.example.com", "https://", "https://us.db.example.com/sql", "ftp://x",
     "https://user:password@x", "https://x:99999", "https://x:0", "https://x?y", "https://x#y", "https://x\ny",
     "https://[x", "http://127.0.0.1.example.com"],
)  # fmt: skip
def test_what_is_no_address_of_a_sidecar_is_refused(url: str) -> None:
    assert problems({"region": "eu", "regions": {"us": url}}) == ["sql.regions.us"]


def test_a_server_in_a_region_without_an_address_is_refused() -> None:
    assert problems(HERE, "us") == problems(HERE, "eu") == problems(HERE) == []
    assert problems(HERE, "asia") == ["servers.primary.region"]
    assert problems({}, "asia") == []  # where no region is this one's, all are served from here


def test_addresses_without_a_region_of_its_own_are_refused() -> None:
    assert problems({"regions": HERE["regions"]}) == ["sql.region"]
