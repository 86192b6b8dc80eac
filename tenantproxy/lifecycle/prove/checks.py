"""Which checks are there, and by which door is each tried? In the order of the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from tenantproxy.lifecycle.prove import catalogue_checks as catalogue
from tenantproxy.lifecycle.prove import http_checks, port_checks, request_checks, sql_checks
from tenantproxy.lifecycle.prove.base import Pair, Trial
from tenantproxy.lifecycle.prove.results import Outcome

__all__ = [
    "BY_HTTP",
    "BY_LIBRARY",
    "BY_PORT",
    "BY_REPLICA",
    "BY_REQUEST",
    "BY_SQL",
    "BY_TOKEN",
    "CHECKS",
    "FIRST",
    "READER",
    "Check",
    "HttpCheck",
]

Check = Callable[[Trial, Outcome], Awaitable[None]]
HttpCheck = Callable[[http_checks.HttpDoor, Pair, Outcome], Awaitable[None]]

FIRST: Final = ("own rows", sql_checks.own_rows)
BY_SQL: Final[tuple[tuple[str, Check], ...]] = (
    ("cross reads", sql_checks.cross_reads),
    ("cross writes", sql_checks.cross_writes),
    ("forged context", sql_checks.forged),
    ("left behind", sql_checks.left_behind),
    ("parallel turns", sql_checks.parallel_turns),
    ("cancellation", sql_checks.cancelled),
)
BY_LIBRARY: Final[tuple[tuple[str, Check], ...]] = (
    ("own tables", catalogue.own_tables),
    ("own functions", catalogue.own_functions),
    ("other roles", catalogue.other_roles),
    ("other sessions", catalogue.other_sessions),
    ("other schemas", catalogue.other_schemas),
    ("other databases", catalogue.other_databases),
)
BY_PORT: Final[tuple[tuple[str, Check], ...]] = (
    ("pipelines out of step", port_checks.desynchronised),
    ("cancel keys", port_checks.cancel_keys),
    ("kept settings", port_checks.kept_settings),
    ("users of the port", port_checks.limited_users),
)
BY_REPLICA: Final = tuple(each for each in BY_SQL if each[0] != "cross writes")  # it takes none
BY_TOKEN: Final[tuple[tuple[str, Check], ...]] = (
    *BY_SQL[:3],
    ("tokens as passwords", port_checks.token_passwords),
)
BY_REQUEST: Final[tuple[tuple[str, Check], ...]] = (
    *BY_SQL[:2],
    ("forged context", request_checks.forged_batches),
    ("left behind", request_checks.batches_left_behind),
    *BY_SQL[4:],
    ("callers", request_checks.request_callers),
)
BY_HTTP: Final[tuple[tuple[str, HttpCheck], ...]] = (
    ("tokens", http_checks.honest_tokens),
    ("headers that lie", http_checks.foreign_headers),
    ("forged tokens", http_checks.forged_tokens),
)
READER: Final = "writes of a reader"
CHECKS: Final = (
    *(name for checks in (BY_SQL, BY_LIBRARY, BY_PORT, BY_TOKEN[3:], BY_REQUEST[-1:], BY_HTTP) for name, _ in checks),
    READER,
)
"""Those that can be chosen. That each tenant has a place of its own, and sees its rows, is looked at in any case."""
