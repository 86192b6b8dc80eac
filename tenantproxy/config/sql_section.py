"""What may one request of SQL over HTTP ask for, and how long may it take? The section, and what it needs of others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from tenantproxy.config.section import Section
from tenantproxy.config.sections import Http, Pg
from tenantproxy.config.server_sections import Server
from tenantproxy.config.tenant_sections import RowSettings, Schema
from tenantproxy.config.values import Count, Flag, Name, Seconds, Text, is_loopback
from tenantproxy.errors import Problem

__all__ = ["SQL_RELOADED", "SqlSettings", "region_problems", "sql_problems"]

_URL: Final = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]+")
_NO_ADDRESS: Final = "is no address of a sidecar"
_MOST_PARAMETERS: Final = 65_535  # that a message of the protocol holds

Most = Annotated[Count, Field(ge=1)]


class SqlSettings(Section):
    """`POST /sql` and the WebSocket `/v2` of the public listener. Sizes are bytes, times seconds.

    `max_body`: of a request, and of one message of a WebSocket. `max_statement`: of one text. `max_parameters`: of one
    statement. `max_batch`: statements of one transaction. `max_rows`, `max_result`: of all that a request is answered.
    `statement_timeout`: for all that one request asks for, from when it has a connection. `region`: where this process
    is; `regions`: the addresses of the sidecars of all others. A request for a tenant whose server is in one of them is
    answered with that address, or asked there: `elsewhere`.
    """

    enabled: Flag = False
    statement_timeout: Seconds = 30.0
    max_body: Most = 1024 * 1024
    max_statement: Most = 256 * 1024
    max_parameters: Annotated[Count, Field(ge=1, le=_MOST_PARAMETERS)] = 10_000
    max_batch: Annotated[Count, Field(ge=1, le=100_000)] = 1000
    max_rows: Most = 10_000
    max_result: Most = 16 * 1024 * 1024
    region: Name | None = None
    regions: Mapping[Name, Text] = Field(default_factory=dict)
    elsewhere: Literal["redirect", "proxy"] = "redirect"


SQL_RELOADED: Final = tuple(key for key in SqlSettings.model_fields if key != "enabled")
"""Keys that a running process takes over."""


def sql_problems(
    sql: SqlSettings, *, http: Http | None, pg: Pg | None, row: RowSettings | None, schema: Schema | None
) -> Iterator[Problem]:
    """What `[sql]` needs of the other sections: callers, a listener, and walls that hold against SQL of strangers."""
    if not sql.enabled:
        return
    if http is not None and not http.listen:
        yield Problem(key="sql.enabled", problem="has no listener", fix="add listen to [http]")
    if pg is not None and not (pg.users or pg.jwt):
        problem, fix = "lets no one in: there are no users", "add a user to [pg.users], or jwt = true to [pg]"
        yield Problem(key="sql.enabled", problem=problem, fix=fix)
    if row is not None and not row.signed:
        problem = "needs a signed context: a setting alone keeps no row tenant out whose SQL is not ours"
        yield Problem(key="row.signed", problem=problem, fix="remove signed = false, or set [sql] enabled = false")
    if schema is not None and schema.shared_role:
        problem = "lets schema tenants whose SQL is not ours read each other by qualified names"
        fix = "give each its own role: tenantproxy install --roles; or set [sql] enabled = false"
        yield Problem(key="schema.shared_role", problem=problem, fix=fix)


def region_problems(sql: SqlSettings, servers: Mapping[str, Server | None]) -> Iterator[Problem]:
    """Whether each region that servers are in has an address, and no address is more than one."""
    for name, url in sql.regions.items():
        problem = _wrong_address(url)
        if problem is not None:
            fix = 'write it as clients reach it, such as "https://eu.db.example.com"'
            yield Problem(key=f"sql.regions.{name}", problem=problem, fix=fix)
    if sql.region is None:
        if sql.regions:
            problem, fix = "is missing: without it no tenant is elsewhere", "write the region of this process"
            yield Problem(key="sql.region", problem=problem, fix=fix)
        return
    for name, server in servers.items():
        region = None if server is None else server.region
        if region is not None and region not in (sql.region, *sql.regions):
            fix = f'add {region} = "https://..." to [sql.regions], or correct it'
            yield Problem(key=f"servers.{name}.region", problem="has no address", fix=fix)


def _wrong_address(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname if _URL.fullmatch(url) and parts.port != 0 else None
    except ValueError:
        return _NO_ADDRESS
    if not host:
        return _NO_ADDRESS
    is_local = is_loopback(f"[{host}]:80" if ":" in host else f"{host}:80")
    return None if parts.scheme == "https" or is_local else "is not https: passwords are sent there"
