"""Does a fingerprint say which statement it is, and never a literal or a comment of it?"""

from __future__ import annotations

import string
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.fingerprint import LONGEST, fingerprint, text_of

CANARY = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SELECT * FROM t WHERE a = 'x' AND b=12", "SELECT * FROM t WHERE a = ? AND b=?"),
        ("select  1\n,\t2 ", "select ? , ?"),
        ("SELECT $1, a1, t2.b3 FROM t2", "SELECT $1, a1, t2.b3 FROM t2"),
        ("INSERT INTO t VALUES (1, 'a', 2.5e-3, -7)", "INSERT INTO t VALUES (?, -?)"),
        ("SELECT a FROM t WHERE id IN (1,2,3)", "SELECT a FROM t WHERE id IN (?)"),
        ("SELECT 'it''s' || E'a\\'b' || B'01' || U&'x'", "SELECT ? || ? || ? || ?"),
        ("DO $body$ BEGIN PERFORM 'x'; END $body$", "DO ?"),
        ("SELECT $$a$b$$", "SELECT ?"),
        ('SELECT "a ""b" FROM "T"', 'SELECT "a ""b" FROM "T"'),
        ("SELECT /* s3cr3t /* nested */ s3cr3t */ 1 -- s3cr3t\nFROM t", "SELECT ? FROM t"),
        ("SELECT /* s3cr3t", "SELECT"),
        ("SELECT 1 -- a\r, '\ns3cr3t', 2", "SELECT ? , ?"),
        ("SELECT 'a\\' OR s3cr3t", "SELECT ..."),
        ("SELECT 'open s3cr3t", "SELECT ..."),
        ("SELECT $x$ open s3cr3t", "SELECT ..."),
        ('SELECT "open s3cr3t', "SELECT ..."),
        ("SELECT 0xFF, 1_000, .5", "SELECT ?"),
        ("ALTER ROLE r PASSWORD 's3cr3t'", "ALTER ROLE r PASSWORD ?"),
        ("SET app.token = s3cr3t", "SET app.token = ?"),
        ("set session app.token to s3cr3t, s3cr3t; SELECT 1", "set session app.token to ?; SELECT ?"),
        ("SET LOCAL search_path TO 'a', b", "SET LOCAL search_path TO ?"),
        ("ALTER ROLE r SET app.token TO s3cr3t", "ALTER ROLE r SET app.token TO ?"),
        ("ALTER SYSTEM SET a = s3cr3t", "ALTER SYSTEM SET a = ?"),
        ('ALTER USER u PASSWORD "s3cr3t"', "ALTER USER u PASSWORD ?"),
        ("create role r login password s3cr3t", "create role r login password ?"),
        ("ALTER ROLE r PASSWORD NULL", "ALTER ROLE r PASSWORD NULL"),
        ("ALTER ROLE r PASSWORD -- s3cr3t\n E's3cr3t\\' s3cr3t'", "ALTER ROLE r PASSWORD ?"),
        ("ALTER ROLE r PASSWORD 's3cr3t", "ALTER ROLE r PASSWORD ..."),
        ("SET app.token = 's3cr3t", "SET app.token = ..."),
        ("COPY t FROM stdin;\n7\ts3cr3t\n", "COPY t FROM stdin; ..."),
        ("COPY t (a) FROM STDIN WITH (FORMAT csv)", "COPY t (a) FROM STDIN WITH (FORMAT csv)"),
        ("SET TRANSACTION READ ONLY", "SET TRANSACTION READ ONLY"),
        ("SELECT $\N{EURO SIGN}$ s3cr3t $\N{EURO SIGN}$", "SELECT ?"),
        ("SELECT $\N{ARABIC-INDIC DIGIT THREE}$ s3cr3t $\N{ARABIC-INDIC DIGIT THREE}$", "SELECT ?"),
        ("SELECT $\N{NO-BREAK SPACE}$ s3cr3t $\N{NO-BREAK SPACE}$", "SELECT ?"),
        ("SELECT 1 AS a\N{EURO SIGN}$x$, 'it $x$ s3cr3t '", "SELECT ? AS a\N{EURO SIGN}$x$, ?"),
        ("SELECT 1a$x$, 'it $x$ s3cr3t '", "SELECT ?"),
        ("SELECT 1e-1_000 + 1e5 - 2", "SELECT ? + ? - ?"),
        ('ALTER USER u PASSWORD U&"s3cr3t"', "ALTER USER u PASSWORD ?"),
        ("ALTER USER u PASSWORD = s3cr3t", "ALTER USER u PASSWORD ?"),
        ("ALTER USER u PASSWORD my s3cr3t; SELECT a", "ALTER USER u PASSWORD ?; SELECT a"),
        (
            "CREATE USER MAPPING FOR u SERVER s OPTIONS (password 's3cr3t', a 'b')",
            "CREATE USER MAPPING FOR u SERVER s OPTIONS (password ?, a ?)",
        ),
        ("UPDATE t SET a = b, password = c", "UPDATE t SET a = b, password = c"),
        ("", ""),
    ],
)
def test_a_fingerprint_has_no_literals_and_no_comments(text: str, told: str) -> None:
    assert fingerprint(text) == told
    assert CANARY not in fingerprint(text)


QUOTED = st.sampled_from(
    ["'{}'", "E'{}'", "$q${}$q$", "'{}", "$$ {}", "/* {} */", "-- {}", "/* {}", "E'\\'{}'", "'\\'{}'"]
)
VALUES = st.sampled_from(["SET a.b = {}", "set a TO {}, {}", "ALTER ROLE r SET a = {}", "CREATE USER u PASSWORD {}"])
AROUND = st.text(st.sampled_from(string.ascii_letters + " '\"$/*-\\\n;,()0123456789"), max_size=30)


@given(AROUND, QUOTED, AROUND)
def test_what_is_quoted_at_the_start_of_a_statement_is_never_told(inside: str, quoted: str, after: str) -> None:
    text = "SELECT " + quoted.format(CANARY) + after.replace(CANARY, "")
    assert CANARY not in fingerprint(text)
    assert len(fingerprint(f"{inside}{text}")) <= LONGEST


@given(VALUES, st.sampled_from([" ", "\n", "/* a */ ", "-- a\n"]))
def test_a_value_that_is_not_quoted_is_not_told_either(statement: str, between: str) -> None:
    text = statement.format(*[CANARY] * 2).replace(" ", between)
    assert CANARY not in fingerprint(text)
    assert CANARY not in fingerprint(f"BEGIN;{text}")


def test_a_hostile_text_costs_little() -> None:
    started = perf_counter()
    for text in ("'" * 100_000, "$a$" * 50_000, "/*" * 50_000, "1e" * 50_000, '""' * 50_000, " " * 100_000):
        assert len(fingerprint(text)) <= LONGEST
    assert perf_counter() - started < 2


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"Q\0\0\0\x0dSELECT 1\0", b"SELECT 1"),
        (b"P\0\0\0\x10name\0SELECT 1\0\0\0B", b"SELECT 1"),
        (b"P\0\0\0\x0d\0SELECT 1\0\0\0", b"SELECT 1"),
        (b"B\0\0\0\x0c\0name\0", b""),
        (b"P\0\0", b""),
        (b"Q\0\0\0\xffSELECT", b"SELECT"),
        (b"", b""),
    ],
)
def test_the_text_of_a_message_is_found(message: bytes, text: bytes) -> None:
    assert text_of(message) == text
