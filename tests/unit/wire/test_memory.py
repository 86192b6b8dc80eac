"""Is what clients make the port keep counted once, bounded for each tenant, and let go?"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from tenantproxy.errors import OutOfMemory
from tenantproxy.wire.frames import PARSE, PARSE_COMPLETE, frame
from tenantproxy.wire.memory import FREE_BYTES, NAME_BYTES, ProcessMemory, TenantMemory
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import REFUSAL, Prepared
from tenantproxy.wire.statements import ServerStatements, Statements

KB = 1000


class ClientOf:
    """One client that prepares and whose server answers."""

    def __init__(self, memory: TenantMemory, statements: Statements, server: ServerStatements | None = None) -> None:
        self.pipeline = Pipeline()
        self.prepared = Prepared(statements, self.pipeline, memory=memory)
        self.prepared.board(ServerStatements() if server is None else server)

    def parse(self, name: bytes, text: bytes) -> bytes:
        """What goes out for a Parse that succeeds."""
        self.pipeline.opened()
        sent = self.prepared.parse(frame(PARSE, name + b"\0" + text + b"\0\0\0"))
        while self.pipeline.outstanding and sent is not REFUSAL:
            kind = PARSE_COMPLETE if sent[:1] == b"P" else ord("3")
            self.prepared.acknowledged(self.pipeline.acknowledged(kind))
        self.pipeline.abandon()
        return sent


def detail(taken: Callable[[], None]) -> str | None:
    with pytest.raises(OutOfMemory) as caught:
        taken()
    assert caught.value.sqlstate == "53200"
    return caught.value.detail


# --- whose share -----------------------------------------------------------------------------------------------------
def test_a_tenant_alone_has_half_of_what_the_process_may_keep() -> None:
    acme = TenantMemory(process := ProcessMemory(100))
    assert detail(lambda: acme.take(51)) == "[pg] max_memory = 100"
    acme.take(50)
    assert detail(lambda: acme.take(1)) == "[pg] max_memory = 100"
    assert (process.used, process.refused) == (50, 2)


def test_a_tenant_that_has_little_finds_room_however_many_take_all_they_can() -> None:
    process = ProcessMemory(100_000)
    greedy = [TenantMemory(process) for _ in range(9)]
    for _ in range(1000):
        for each in greedy:
            try:
                each.take(100)
            except OutOfMemory:
                pass
    assert process.limit - process.used >= 9_000
    TenantMemory(process).take(4_000)
    assert all(each.used >= 9_000 for each in greedy)


def test_a_tenants_own_limit_is_told_by_its_name() -> None:
    acme = TenantMemory(process := ProcessMemory(1000, 10))
    assert detail(lambda: acme.take(11)) == "[pg] max_memory_per_tenant = 10"
    acme.take(10)
    assert (process.refused, process.refused_tenant) == (0, 1)


def test_without_limits_all_is_counted_and_nothing_refused() -> None:
    acme = TenantMemory(process := ProcessMemory())
    acme.take(10**12)
    acme.give(10**12)
    assert (acme.used, process.used, process.peak) == (0, 0, 10**12)


def test_the_peak_is_told_once_when_much_less_is_used() -> None:
    acme = TenantMemory(process := ProcessMemory())
    acme.take(100)
    acme.give(60)
    assert not process.has_fallen(61)
    assert process.has_fallen(60)
    assert not process.has_fallen(60)


# --- statements ------------------------------------------------------------------------------------------------------
def test_a_text_that_many_clients_of_a_tenant_prepare_counts_once() -> None:
    acme, statements = TenantMemory(), Statements()
    clients = [ClientOf(acme, statements) for _ in range(5)]
    for client in clients:
        client.parse(b"s", b"x" * 10 * KB)
    assert 10 * KB < acme.used < 11 * KB + 5 * NAME_BYTES
    for client in clients:
        client.prepared.leave()
    assert acme.used == 0


def test_a_text_that_two_tenants_have_counts_for_both_and_is_kept_until_both_have_left() -> None:
    process, statements = ProcessMemory(), Statements()
    acme, globex = TenantMemory(process), TenantMemory(process)
    server = ServerStatements()
    one, other = ClientOf(acme, statements, server), ClientOf(globex, statements, server)
    one.parse(b"s", b"x" * KB)
    other.parse(b"t", b"x" * KB)
    statement = other.prepared.names.get(b"t")
    assert statement is one.prepared.names.get(b"s")
    assert acme.used == globex.used == process.used // 2
    one.prepared.leave()
    assert statement is not None
    assert statement.parse
    other.prepared.leave()
    assert (statement.parse, process.used) == (b"", 0)


def test_a_backend_keeps_no_text_and_its_statement_is_found_again_by_it() -> None:
    statements, server = Statements(), ServerStatements()
    first = ClientOf(TenantMemory(), statements, server)
    first.parse(b"s", b"x" * KB)
    statement = first.prepared.names.get(b"s")
    first.prepared.leave()
    second = ClientOf(TenantMemory(), statements, server)
    assert second.parse(b"t", b"x" * KB)[:1] == b"C"  # it is there: only said to be parsed
    assert second.prepared.names.get(b"t") is statement
    second.prepared.board(ServerStatements())
    bound = second.prepared.bind(frame(ord("B"), b"\0t\0\0\0\0\0\0\0"))
    assert b"x" * KB in bound


def test_a_text_is_kept_once() -> None:
    size, count = 1_000_000, 8
    client = ClientOf(TenantMemory(), Statements())
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(count):
            client.parse(b"s%d" % n, b"%d" % n + b"x" * size)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 1.1 * size * count
        client.prepared.leave()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 0.1 * size * count
    finally:
        tracemalloc.stop()


def test_a_name_that_is_closed_or_taken_twice_is_given_back() -> None:
    acme = TenantMemory()
    client = ClientOf(acme, Statements())
    client.parse(b"s", b"x" * KB)
    used = acme.used
    client.pipeline.opened()
    client.prepared.parse(frame(PARSE, b"s\0" + b"y" * 10 * KB + b"\0\0\0"))  # 42P05 is going to answer that
    assert acme.used > used + 10 * KB
    client.prepared.skipped(client.pipeline.failed(), by_first=True)
    assert acme.used == used
    client.pipeline.abandon()
    client.pipeline.opened()
    client.prepared.close(frame(ord("C"), b"Ss\0"))
    client.prepared.acknowledged(client.pipeline.acknowledged(ord("3")))
    assert acme.used == 0


def test_a_backend_that_is_lost_with_names_under_way_gives_back_all() -> None:
    acme = TenantMemory()
    client = ClientOf(acme, Statements())
    client.parse(b"s", b"x" * KB)
    used = acme.used
    client.pipeline.opened()
    for n in range(10):
        client.prepared.parse(frame(PARSE, b"t%d\0" % (n % 3) + b"y%d" % n * KB + b"\0\0\0"))
    client.prepared.abandon()
    assert acme.used == used
    client.prepared.leave()
    assert acme.used == 0


def test_an_unnamed_text_counts_while_it_may_be_bound_again() -> None:
    acme = TenantMemory()
    client = ClientOf(acme, Statements())
    client.parse(b"", b"x" * FREE_BYTES)
    assert acme.used > FREE_BYTES
    client.parse(b"", b"x" * 3 * FREE_BYTES)
    assert 3 * FREE_BYTES < acme.used < 4 * FREE_BYTES
    client.prepared.board(ServerStatements())
    client.prepared.bind(frame(ord("B"), b"\0\0\0\0\0\0\0\0"))
    assert 3 * FREE_BYTES < acme.used < 4 * FREE_BYTES
    client.prepared.acknowledged(client.pipeline.acknowledged(ord("1")))
    client.pipeline.synced()
    client.pipeline.ready()
    client.parse(b"", b"SELECT 1")
    assert acme.used == 0
    client.parse(b"", b"x" * FREE_BYTES)
    client.prepared.queried()
    assert acme.used == 0


@pytest.mark.parametrize("name", [b"", b"s"])
def test_a_parse_that_finds_no_room_is_an_error_and_changes_nothing(name: bytes) -> None:
    acme = TenantMemory(ProcessMemory(20 * KB))
    client = ClientOf(acme, Statements())
    client.parse(b"kept", b"x" * KB)
    used = acme.used
    assert client.parse(name, b"y" * 10 * KB) is REFUSAL
    assert b"\0C53200\0" in client.prepared.refusal
    assert acme.used == used
    assert client.prepared.names.get(name) is None
    assert client.prepared.unnamed is None
    assert client.parse(name, b"y" * KB) is not REFUSAL
