"""From when on does a change of tables hold, and which command is one?"""

from __future__ import annotations

import pytest

from tenantproxy.wire.commands import changes_meanings, is_temporary
from tenantproxy.wire.definition_changes import MAY_CHANGE, DefinitionChanges
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.statements import Definitions, Statements


class Client:
    """One of a database."""

    def __init__(self, definitions: Definitions) -> None:
        self.statements = Statements(definitions)
        self.prepared = Prepared(self.statements, Pipeline())
        self.changes = DefinitionChanges(self.statements, self.prepared)

    def done(self, *tags: bytes) -> None:
        """In order, then it is ready and in no transaction."""
        for tag in tags:
            self.changes.tagged(tag)
        self.changes.ready(b"I")


@pytest.mark.parametrize(
    "tag",
    ["ALTER TABLE", "ALTER TYPE", "CREATE OPERATOR", "CREATE CAST", "DROP OWNED", "DROP FUNCTION", "CREATE EXTENSION",
     "CREATE SCHEMA", "IMPORT FOREIGN SCHEMA", "CREATE RULE", "ALTER VIEW"],
)  # fmt: skip
def test_what_gives_a_name_another_meaning_counts(tag: str) -> None:
    assert changes_meanings(tag.encode())
    assert tag[:2].encode() in MAY_CHANGE


@pytest.mark.parametrize(
    "tag",
    ["CREATE INDEX", "DROP TRIGGER", "ALTER ROLE", "CREATE DATABASE", "CREATE POLICY", "ALTER SYSTEM", "GRANT",
     "COMMENT", "COPY 5", "COMMIT", "PREPARE", "INSERT 0 1", "TRUNCATE TABLE", "REINDEX"],
)  # fmt: skip
def test_what_changes_no_type_does_not_count(tag: str) -> None:
    assert not changes_meanings(tag.encode())


@pytest.mark.parametrize(
    "sql", ["CREATE TEMP TABLE t ()", "create local temporary table t ();", "CREATE OR REPLACE TEMP VIEW v AS SELECT 1"]
)
def test_what_one_session_alone_sees_is_told_by_its_text(sql: str) -> None:
    assert is_temporary(sql.encode())


@pytest.mark.parametrize(
    "sql",
    ["CREATE TABLE temp ()", "CREATE TEMP TABLE t (); CREATE TABLE u ()", "CREATE TABLE pg_temp.t ()", "DROP TABLE t",
     "/* TEMP */ CREATE TABLE t ()"],
)  # fmt: skip
def test_a_text_that_may_create_more_than_that_counts(sql: str) -> None:
    assert not is_temporary(sql.encode())


def test_a_temporary_table_hides_no_change_behind_it() -> None:
    client = Client(definitions := Definitions())
    client.changes.asked(b"CREATE TEMP TABLE t ()")
    client.done(b"CREATE TABLE")
    assert definitions.generation == 0
    client.done(b"CREATE TABLE")
    client.changes.asked(b"CREATE TEMP TABLE t ()")  # it fails
    client.done()
    client.done(b"CREATE TABLE")
    client.changes.asked(b"CREATE TEMP TABLE t ()")
    client.done(b"CREATE TABLE", b"CREATE TABLE")
    assert definitions.generation == 3


def test_a_change_in_a_prepared_transaction_counts_when_it_is_committed() -> None:
    definitions = Definitions()
    client, other = Client(definitions), Client(definitions)
    other.done(b"COMMIT PREPARED")
    assert definitions.generation == 0, "no change was prepared"
    client.done(b"BEGIN", b"ALTER TABLE", b"PREPARE TRANSACTION")
    before = definitions.generation
    other.done(b"COMMIT PREPARED")
    assert definitions.generation == before + 1


def test_a_change_whose_backend_is_lost_may_hold() -> None:
    client = Client(definitions := Definitions())
    client.changes.tagged(b"ALTER TABLE")
    assert definitions.generation == 0
    client.changes.lost()
    assert definitions.generation == 1


def test_who_changes_something_shares_no_statement_until_it_holds() -> None:
    definitions, body = Definitions(), b"SELECT 1\0\0\0"
    client, other = Client(definitions), Client(definitions)
    before = client.statements.of(body)
    client.changes.tagged(b"ALTER TABLE")
    client.changes.ready(b"T")
    assert client.prepared._all.of(body) is not before
    assert client.statements.of(body) is before, "others still do"
    elsewhere = other.statements.of(body)
    client.changes.tagged(b"COMMIT")
    assert client.prepared._all is client.statements
    assert client.statements.of(body) is not before
    assert other.statements.of(body) is not elsewhere, "of another pool of the database"
