"""Which texts stay prepared, for how long, and how many of them?"""

from __future__ import annotations

from tenantproxy.model import tenant_id
from tenantproxy.sidecar.sql.texts import TRUSTED_SECONDS, PoolTexts, preparing
from tenantproxy.wire.statements import Definitions, ServerStatements, Statement, new_statement

ONE, OTHER = tenant_id("one"), tenant_id("other")


def a_statement(text: str = "SELECT 1") -> Statement:
    return new_statement(text.encode() + b"\0\0\0")


def test_a_text_has_a_name_from_its_second_time_on_and_for_each_tenant_its_own() -> None:
    texts = PoolTexts(Definitions())
    assert texts.of(ONE, b"SELECT 1") is None
    first = texts.of(ONE, b"SELECT 1")
    assert first is not None
    assert texts.of(ONE, b"SELECT 1") is first
    assert texts.of(OTHER, b"SELECT 1") is None, "it would tell that another one has asked that"
    second = texts.of(OTHER, b"SELECT 1")
    assert second is not None
    assert second.name != first.name


def test_after_a_change_of_tables_no_former_name_is_used() -> None:
    definitions = Definitions()
    texts = PoolTexts(definitions)
    former = [texts.of(ONE, b"SELECT 1") for _ in range(2)][1]
    definitions.generation += 1  # by a client of the port
    assert texts.of(ONE, b"SELECT 1") is None
    assert texts.of(ONE, b"SELECT 1") is not former
    texts.changed(is_delayed=True)
    assert definitions.generation == 2
    assert definitions.is_delayed
    assert texts.of(ONE, b"SELECT 1") is None


def test_however_many_texts_come_few_are_kept() -> None:
    texts = PoolTexts(Definitions())
    for number in range(3000):
        texts.of(ONE, b"SELECT %d" % number)
        texts.of(ONE, b"SELECT %d" % number)
    assert len(texts) <= 1000
    for number in range(200):
        texts.of(ONE, b"SELECT '%s', %d" % (b"x" * 4000, number))
    assert len(texts) <= 40
    assert texts.of(ONE, b"SELECT 0") is None, "it came long ago"


def test_a_statement_is_parsed_once_until_it_is_trusted_no_longer() -> None:
    server, statement = ServerStatements(), a_statement()
    assert preparing(server, statement, 100.0) == statement.parse
    assert preparing(server, statement, 100.0 + TRUSTED_SECONDS / 2) is None
    again = 100.0 + TRUSTED_SECONDS
    assert preparing(server, statement, again) == statement.close + statement.parse
    assert preparing(server, statement, again + TRUSTED_SECONDS / 2) is None
    server.forget(statement)
    assert preparing(server, statement, again) == statement.parse


def test_what_is_in_doubt_or_was_put_back_is_closed_before_it_is_parsed() -> None:
    server, statement = ServerStatements(), a_statement()
    assert preparing(server, statement, 100.0) is not None
    server.distrust(statement)
    assert preparing(server, statement, 100.0) == statement.close + statement.parse
    server.doubt()
    assert preparing(server, statement, 100.0) == statement.close + statement.parse
    server, other = ServerStatements(1), a_statement()
    preparing(server, statement, 100.0)
    assert server.add(other) == [statement]
    server.put_back(statement)  # a client's message that would have closed it was skipped
    assert preparing(server, statement, 100.0) == statement.close + other.close + statement.parse
    assert len(server) == 1


def test_a_backend_has_no_more_statements_than_it_may() -> None:
    server = ServerStatements(3)
    statements = [a_statement(f"SELECT {number}") for number in range(10)]
    sent = [preparing(server, statement, 100.0) for statement in statements]
    assert len(server) == 3
    assert len(server._since) == 3
    assert sent[3] == statements[0].close + statements[3].parse
    assert preparing(server, statements[9], 100.0) is None
    server.clear()
    assert not server._since
