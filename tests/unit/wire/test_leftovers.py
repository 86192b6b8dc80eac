"""Is it seen in a text what it may leave in its session, and nothing in those that leave nothing?"""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.frames import DESCRIBE, QUERY, frame
from tenantproxy.wire.leftovers import (
    ADVISORY_LOCK,
    CUSTOM,
    HELD_CURSOR,
    RELEASES,
    SETTING,
    SUSPECT,
    TEMPORARY,
    leftovers,
)
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.requests import RequestStream
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.fuzzing import IS_TRIED
from tests.support.model_server import SYNC, bind, execute, function, parse, query


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (b"CREATE TEMP TABLE x AS SELECT 1", TEMPORARY),
        (b"create local temporary view v as select 1", TEMPORARY),
        (b"CREATE OR REPLACE TEMP VIEW v AS SELECT 1", TEMPORARY),
        (b"SELECT 1 AS a INTO Temp x", TEMPORARY),
        (b"SELECT 1 AS a INTO pg_temp.x", TEMPORARY),
        (b'CREATE TABLE "pg_temp".x AS SELECT 1', TEMPORARY),
        (b"CREATE/**/TEMP TABLE x AS SELECT 1", TEMPORARY),
        (b"CREATE -- which?\n TEMP TABLE x AS SELECT 1", TEMPORARY),
        (b"EXPLAIN ANALYZE CREATE\n\tTEMP TABLE x AS SELECT 1", TEMPORARY),
        (b"SELECT 1; CREATE TEMP TABLE x AS SELECT 1; SELECT 2", TEMPORARY),
        (b"select set_config('app.user_id','alice',false)", SETTING | CUSTOM),
        (b"select set_config('work_mem','1MB',false)", SETTING),
        (b"select set_config($1, $2, $3)", SETTING | CUSTOM),
        (b"SELECT PG_CATALOG.SET_CONFIG('app.user_id', $1, false)", SETTING | CUSTOM),
        (b"SELECT set_config('a.b', 'c', true), set_config('a.b', 'c', $1)", SETTING | CUSTOM),
        (b"SELECT set_config/**/('a.b', 'c', true)", SETTING | CUSTOM),
        (b"SELECT query_to_xml('select set_config(''a.b'', ''c'', false)', true, true, '')", SETTING | CUSTOM),
        (b"UPDATE t SET a = set_config('a.b', a, false)", SETTING | CUSTOM),
        (b"SELECT set_limit(0.5)", SETTING),
        (b"SELECT pg_advisory_lock(1)", ADVISORY_LOCK),
        (b"select pg_try_advisory_lock_shared(1, 2)", ADVISORY_LOCK),
        (b"SELECT Pg_Advisory_Lock_Shared(1)", ADVISORY_LOCK),
        (b"CREATE TEMP TABLE x AS SELECT pg_advisory_lock(1)", TEMPORARY | ADVISORY_LOCK),
        (b"SELECT temp, attempts, template_id FROM temperatures", 0),
        (b"SELECT\n temp\nFROM readings", 0),
        (b"INSERT INTO templates VALUES (1)", 0),
        (b"SELECT pg_advisory_xact_lock(1), is_locked, credit_limit FROM t", 0),
        (b"SELECT pg_advisory_unlock(1)", RELEASES),
        (b"DECLARE c CURSOR WITH HOLD FOR SELECT 1", HELD_CURSOR),
        (b"DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1", 0),
        (b"CREATE TEMP TABLE x (n int) ON COMMIT DROP; INSERT INTO x VALUES (1)", 0),
        (b"CREATE TEMP TABLE x (n int) ON COMMIT DROP; CREATE TEMP TABLE y (n int)", TEMPORARY),
        (b"SELECT set_config('app.user_id', $1, true)", 0),
        (b"select set_config( 'app.user_id' , 'alice' , TRUE ), pg_catalog.set_config('a.b', $2::text, true)", 0),
        (b"SELECT set_config('TimeZone', 'UTC', false)", 0),
        (b"SELECT current_setting('app.user_id')", 0),
        (b"SELECT abalance FROM pgbench_accounts WHERE aid = 123;", 0),
        (b"", 0),
    ],
)
def test_a_text_is_known_by_what_it_may_leave(sql: bytes, found: int) -> None:
    assert leftovers(sql) == found
    assert leftovers(sql + b"\0") == found
    if found and not found & HELD_CURSOR:  # what begins as it does is looked at in any case
        assert SUSPECT(sql) or b"temp" in sql.lower(), "the first look misses it"


@IS_TRIED
@given(st.binary(max_size=200), st.sampled_from([b"set_config(", b"advisory_lock", b"into temp "]), st.binary())
def test_a_word_is_found_wherever_it_stands(before: bytes, word: bytes, behind: bytes) -> None:
    assert leftovers(before + b" " + word + b"('" + behind)


@pytest.mark.parametrize(
    "unit",
    [b"create/*", b"create --", b"\n", b"*/ ", b"set_config('", b"set_config (' ','", b"temp", b"into ", b"/*", b"--"],
)
def test_a_text_twice_as_long_takes_at_most_twice_the_time(unit: bytes) -> None:
    def seconds(size: int) -> float:
        text = b"temp set_config " + unit * (size // len(unit))
        best = 1e9
        for _ in range(5):
            begin = process_time()
            leftovers(text)
            best = min(best, process_time() - begin)
        return best

    assert seconds(400_000) <= 6 * seconds(100_000) + 0.01


# --- where a client says it ------------------------------------------------------------------------------------------
class Client:
    """A client that has a backend."""

    def __init__(self) -> None:
        self.kept = KeptSettings((), {})
        self.held = b""
        pipeline = Pipeline()
        self.prepared = Prepared(Statements(), pipeline)
        self.prepared.board(ServerStatements())
        self.stream = RequestStream(pipeline, self.prepared, self.kept, is_session=False)

    def leaves(self) -> bool:
        """Whether what was sent since this was last asked may leave something."""
        is_dirty, self.kept.is_dirty = self.kept.is_dirty, False
        return is_dirty

    def sends(self, data: bytes) -> None:
        """As it comes, by the shortest way that is open to it; what must wait for more is kept."""
        data, self.held = self.held + data, b""
        if data[0] == QUERY and self.stream.one_query(data) == 0:
            self.stream.queried()
            return
        bind_at = self.stream.one_statement(data)
        if bind_at >= 0:
            self.stream.statement(data, bind_at)
            return
        at = 0
        while at < len(data):
            self.stream.read(data, at, has_backend=True)
            if self.stream.at == at:
                self.held = data[at:]
                break
            at = self.stream.at


@pytest.fixture
def client() -> Client:
    return Client()


LOCKS = b"SELECT pg_advisory_lock(1)"
SHAPE = frame(DESCRIBE, b"P\0")


def as_libpq(name: bytes) -> bytes:
    return bind(name) + SHAPE + execute() + SYNC


def test_a_simple_query_that_locks_leaves_something(client: Client) -> None:
    client.sends(query(b"SELECT 1"))
    assert not client.leaves()
    client.sends(query(LOCKS))
    assert client.leaves()


def test_a_statement_without_a_name_leaves_something_each_time_it_runs(client: Client) -> None:
    client.sends(parse(b"", LOCKS) + SYNC)
    assert not client.leaves()
    for _ in range(2):
        client.sends(as_libpq(b""))
        assert client.leaves()
    client.sends(parse(b"", b"SELECT 1") + as_libpq(b""))
    assert not client.leaves()
    client.sends(parse(b"", LOCKS) + as_libpq(b""))
    assert client.leaves()


def test_a_statement_with_a_name_leaves_something_each_time_it_runs(client: Client) -> None:
    client.sends(parse(b"s", LOCKS) + parse(b"harmless", b"SELECT 1") + SYNC)
    assert not client.leaves()
    for _ in range(2):
        client.sends(as_libpq(b"s"))
        assert client.leaves()
    client.sends(bind(b"s") + execute() + SYNC)
    assert client.leaves()
    client.sends(as_libpq(b"harmless"))
    assert not client.leaves()


@pytest.mark.parametrize("cut", range(6, 70, 3))
def test_a_query_that_comes_in_pieces_is_searched_across_them(client: Client, cut: int) -> None:
    sent = query(b"SELECT 'long enough to be cut' || " + LOCKS[7:] + b"; SELECT 1" + b" " * 40)
    client.sends(sent[:cut])
    for at in range(cut, len(sent), 5):
        client.sends(sent[at : at + 5])
    assert client.leaves()
    client.sends(query(b"SELECT 1"))
    assert not client.leaves()


def test_a_long_query_in_pieces_that_says_nothing_of_the_kind_leaves_nothing(client: Client) -> None:
    sent = query(b"INSERT INTO t VALUES " + b"('abc'), " * 10_000)
    for at in range(0, len(sent), 20_000):
        client.sends(sent[at : at + 20_000])
    assert not client.leaves()


def test_a_function_that_is_called_by_its_number_may_be_any(client: Client) -> None:
    client.sends(function())
    assert client.leaves()
