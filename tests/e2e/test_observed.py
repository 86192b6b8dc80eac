"""Does each request lead to spans and log lines that say whose it was, at every door, and to nothing secret in them?

By real processes, their logs, and an OTLP collector of OpenTelemetry's own protobufs: one process on the compiled data
path with a log in JSON, and one with workers on Python's path with a log for people.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tenantproxy._native import why_not
from tenantproxy.demo.people import email_of
from tenantproxy.demo.world import PG_USER, DemoTenant, World
from tenantproxy.model import Isolation
from tests.e2e.conftest import get
from tests.support.otlp import CollectedSpan, Collector, a_collector
from tests.support.sidecar import Served, a_sidecar
from tests.support.waiting import PATIENCE, until

TRACES = {"sql": "11" * 16, "port": "22" * 16, "unsampled": "33" * 16, "after": "44" * 16, "failed": "55" * 16}
SPAN = "b7ad6b7169203331"
CANARY = "s3cr3t-canary"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def traceparent(trace: str, flags: str = "01") -> str:
    return f"00-{TRACES[trace]}-{SPAN}-{flags}"


@dataclass(frozen=True)
class Observed:
    served: Served
    world: World
    collector: Collector
    log: Path
    form: str

    @property
    def tenant(self) -> DemoTenant:
        return self.world.one(Isolation.ROW)

    def sql(self, statement: str, *params: str, user: str = PG_USER, **headers: str) -> tuple[int, dict[str, str]]:
        """One request of SQL over HTTP: its status and the headers of the answer."""
        dsn = f"postgresql://{user}:{self.world.pg_password}@db.example.com/{self.tenant.id}"
        return self.post("/sql", {"query": statement, "params": params}, {"Neon-Connection-String": dsn} | headers)

    def post(self, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        sent = {"Content-Type": "application/json"} | headers
        asked = urllib.request.Request(self.served.public + path, json.dumps(body).encode(), sent)
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                answer.read()
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, dict(exc.headers)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """Of the port."""
        dsn = f"postgresql://{PG_USER}:{self.world.pg_password}@{self.served.pg}/{self.tenant.id}?sslmode=disable"
        conn = await asyncpg.connect(dsn, timeout=PATIENCE)
        try:
            yield conn
        finally:
            await conn.close(timeout=PATIENCE)

    async def spans(self, trace: str, most: int = 2) -> dict[str, CollectedSpan]:
        """Those of a trace, by name, when so many are there."""
        await until(lambda: len(self.collector.of(TRACES[trace])) >= most, f"{most} spans of the trace {trace}")
        return {span.name: span for span in self.collector.of(TRACES[trace])}

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The log lines about what is named so: what each says by name."""
        found = []
        for line in self.log.read_text().splitlines():
            if self.form == "json":
                said = json.loads(line)
            else:
                said = {name: value.strip("'") for name, value in re.findall(r"(\w+)=('[^']*'|\S+)", line)}
            if said.get("kind") == kind:
                found.append(said)
        return found

    async def line(self, kind: str, again: Callable[[], Awaitable[Any]] | None = None, **about: str) -> dict[str, Any]:
        """The first of them that says this, when it is there. `again`: what leads to one, for not all are told."""

        async def is_there() -> bool:
            if again is not None and not found():
                await again()
            return bool(found())

        def found() -> list[dict[str, Any]]:
            return [said for said in self.lines(kind) if about.items() <= said.items()]

        await until(is_there, f"a line {kind} with {about}")
        return found()[0]


@pytest.fixture(scope="module", params=["json", "console"])
def observed(
    request: pytest.FixtureRequest, demo_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    log, form = tmp_path_factory.mktemp("observed") / "log", request.param
    with a_collector() as collector:
        variables = collector.variables | {
            "TENANTPROXY_TRACES__ENABLED": "true", "TENANTPROXY_LOG__FORMAT": form,
            "TENANTPROXY_LOG__SLOW_LEASE": "0.000001", "TENANTPROXY_LOG__SLOW_STATEMENT": "0.000001",
            "TENANTPROXY_NATIVE": "1" if form == "json" else "0",
        }  # fmt: skip
        options = () if form == "json" else ("--workers", "2")
        with a_sidecar(demo_world.config, log, *options, variables=variables) as served:
            yield Observed(served, demo_world, collector, log, form)


def is_about(span: CollectedSpan, observed: Observed, trace: str) -> None:
    assert (span.trace, span.parent) == (TRACES[trace], SPAN)
    assert span.attributes["tenantproxy.tenant"] == observed.tenant.id
    assert "/" in str(span.attributes["tenantproxy.pool"])  # a shared one
    assert span.attributes["tenantproxy.server"]


# --- logs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["slow_statement", "slow_lease"])
async def test_lines_about_sql_over_http_have_request_and_tenant(observed: Observed, kind: str) -> None:
    for number in range(2):  # the second one is answered past aiohttp
        name = f"{kind}-{number}"

        async def ask(name: str = name) -> None:
            status, headers = await asyncio.to_thread(observed.sql, f"SELECT '{CANARY}'", **{"X-Request-ID": name})
            assert (status, headers["X-Request-Id"]) == (200, name)

        said = await observed.line(kind, ask, request_id=name)
        assert said["tenant"] == observed.tenant.id


@pytest.mark.parametrize("kind", ["slow_statement", "slow_lease"])
async def test_lines_about_a_client_of_the_port_have_its_number_and_tenant(observed: Observed, kind: str) -> None:
    async with observed.client() as conn:
        said = await observed.line(
            kind, lambda: conn.fetch(f"SELECT '{CANARY}'"), request_id=f"pg-{conn.get_server_pid()}"
        )
        assert said["tenant"] == observed.tenant.id


async def test_lines_about_logins_have_their_request_and_where_it_is_known_the_tenant(observed: Observed) -> None:
    name = f"login-{observed.form}"
    right = {"email": email_of(observed.tenant.id), "password": observed.world.people_password}
    assert observed.post("/auth/login", right, {"X-Request-ID": f"{name}-1"})[0] == 200
    said = await observed.line("login_succeeded", request_id=f"{name}-1")
    assert said["tenant"]
    assert observed.post("/auth/login", right | {"password": CANARY}, {"X-Request-ID": f"{name}-2"})[0] == 401
    assert "tenant" not in await observed.line("login_failed", request_id=f"{name}-2")
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(
            f"postgresql://{PG_USER}:{CANARY}@{observed.served.pg}/{observed.tenant.id}?sslmode=disable",
            timeout=PATIENCE,
        )
    refused = await observed.line("port_login_refused", database=observed.tenant.id)
    assert re.fullmatch(r"pg-[0-9a-f]{16}", refused["request_id"])
    assert "tenant" not in refused  # nothing was proven


async def test_a_request_that_cannot_be_read_is_told_with_its_id(observed: Observed) -> None:
    answer = raw(observed, "Transfer-Encoding: nonsense\r\n").decode()
    (name,) = re.findall(r"X-Request-Id: (\w+)", answer)
    await until(lambda: f"{name}" in observed.log.read_text(), "the line is written")


# --- traces ----------------------------------------------------------------------------------------------------------
async def test_a_request_of_sql_is_a_part_of_its_trace(observed: Observed) -> None:
    text = f"SELECT name FROM projects WHERE name <> '{CANARY}' AND name <> $1"
    assert observed.sql(text, CANARY, traceparent=traceparent("sql"))[0] == 200
    spans = await observed.spans("sql")
    for span in spans.values():
        is_about(span, observed, "sql")
    lease = spans["tenantproxy lease"].attributes
    assert 0 <= float(str(lease["tenantproxy.wait"])) < PATIENCE
    assert 0 < float(str(lease["tenantproxy.hold"])) < PATIENCE
    assert spans["SELECT"].attributes["db.query.text"] == "SELECT name FROM projects WHERE name <> ? AND name <> $1"
    scraped = get(f"{observed.served.admin}/metrics", Accept=OPENMETRICS)[2]
    assert f'trace_id="{TRACES["sql"]}"' in scraped  # with workers too
    assert TRACES["sql"] not in get(f"{observed.served.admin}/metrics")[2]


async def test_a_statement_of_the_port_is_a_part_of_the_trace_in_its_comment(observed: Observed) -> None:
    comment = f"/*controller='{CANARY}',traceparent='{traceparent('port')}'*/"
    async with observed.client() as conn, conn.transaction():
        await conn.fetch(f"SELECT name FROM projects WHERE name <> '{CANARY}' AND name <> $1 {comment}", CANARY)
    spans = await observed.spans("port")
    for span in spans.values():
        is_about(span, observed, "port")
    assert {"tenantproxy.wait", "tenantproxy.hold"} <= spans["tenantproxy lease"].attributes.keys()
    assert spans["SELECT"].attributes["db.query.text"] == "SELECT name FROM projects WHERE name <> ? AND name <> $1"


async def test_a_statement_that_fails_is_a_span_with_its_sqlstate(observed: Observed) -> None:
    assert observed.sql(f"SELECT 1/0, '{CANARY}'", traceparent=traceparent("failed"))[0] == 400
    failed = (await observed.spans("failed"))["SELECT"]
    assert failed.has_failed
    assert failed.attributes["error.type"] == "22012"


HOSTILE = {
    "too long": f"{traceparent('sql')}{'0' * 8000}",
    "another version": f"01-{'66' * 16}-{SPAN}-01",
    "no version": f"ff-{'66' * 16}-{SPAN}-01",
    "more behind it": f"00-{'66' * 16}-{SPAN}-01-{CANARY}",
    "zeros": f"00-{'0' * 32}-{SPAN}-01",
    "capitals": f"00-{'AB' * 16}-{SPAN}-01",
    "control bytes": f"00-{'66' * 16}-{SPAN}-01\t\x7f",
}


async def test_a_trace_that_is_not_sampled_or_not_well_said_is_no_parent(observed: Observed) -> None:
    assert observed.sql("SELECT 1", traceparent=traceparent("unsampled", "00"))[0] == 200
    for hostile in HOSTILE.values():
        observed.sql("SELECT 2", traceparent=hostile)  # aiohttp may refuse it by itself
    ten = "".join(f"traceparent: 00-{number:032x}-{SPAN}-01\r\n" for number in range(1, 11))
    assert b" 200 " in raw(observed, ten)
    async with observed.client() as conn:
        for hostile in HOSTILE.values():
            await conn.execute(f"SELECT 3 /*traceparent='{hostile}'*/")
        both = " ".join(f"/*traceparent='00-{number:032x}-{SPAN}-01'*/" for number in range(1, 11))
        await conn.execute(f"SELECT 4 {both}")
    assert observed.sql("SELECT 5", traceparent=traceparent("after"))[0] == 200
    await observed.spans("after")  # what came before is there as well
    spans = observed.collector.spans
    assert {span.attributes.get("db.query.text") for span in spans} >= {"SELECT ?"}
    assert not observed.collector.of(TRACES["unsampled"])
    assert {span.trace for span in spans if span.parent} <= set(TRACES.values())


def raw(observed: Observed, headers: str) -> bytes:
    """The answer to a request with these lines among its headers."""
    host, port = observed.served.public.removeprefix("http://").split(":")
    dsn = f"postgresql://{PG_USER}:{observed.world.pg_password}@db.example.com/{observed.tenant.id}"
    body = b'{"query": "SELECT 4", "params": []}'
    lines = ("POST /sql HTTP/1.1", f"Host: {host}", f"Neon-Connection-String: {dsn}", f"Content-Length: {len(body)}")
    head = "\r\n".join(lines) + f"\r\n{headers}"
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
        return b"".join(iter(lambda: sock.recv(65536), b""))


# --- both ------------------------------------------------------------------------------------------------------------
def test_no_literal_and_no_secret_is_in_a_span_or_a_line(observed: Observed) -> None:
    told = observed.collector.bytes + observed.log.read_bytes()
    assert observed.collector.spans
    for secret in (CANARY, observed.world.pg_password, observed.world.people_password):
        assert secret.encode() not in told


@pytest.mark.skipif(why_not() is not None, reason="the data path is not compiled (needs a C compiler)")
def test_one_of_the_two_has_the_compiled_data_path(observed: Observed) -> None:
    assert ("data path: compiled" in observed.log.read_text()) is (observed.form == "json")


def test_spans_are_sent_before_the_process_ends(demo_world: World, tmp_path: Path) -> None:
    with a_collector() as collector:
        variables = collector.variables | {"TENANTPROXY_TRACES__ENABLED": "true", "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        with a_sidecar(demo_world.config, tmp_path / "log", variables=variables) as served:
            observed = Observed(served, demo_world, collector, tmp_path / "log", "json")
            assert observed.sql("SELECT 1", traceparent=traceparent("after"))[0] == 200
        assert {span.name for span in collector.of(TRACES["after"])} == {"tenantproxy lease", "SELECT"}
