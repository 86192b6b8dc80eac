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
        ("COPY t FROM stdin\n7\ts3cr3t\n\\.", "COPY t FROM stdin ? ..."),
        ("COPY t (a) FROM STDIN WITH (FORMAT csv)", "COPY t (a) FROM STDIN WITH (FORMAT csv)"),
        ("SET TRANSACTION READ ONLY", "SET TRANSACTION READ ONLY"),
        ("SELECT $\N{EURO SIGN}$ s3cr3t $\N{EURO SIGN}$", "SELECT ?"),
        ("SELECT $\N{ARABIC-INDIC DIGIT THREE}$ s3cr3t $\N{ARABIC-INDIC DIGIT THREE}$", "SELECT ?"),
        ("SELECT $\N{NO-BREAK SPACE}$ s3cr3t $\N{NO-BREAK SPACE}$", "SELECT ?"),
        ("SELECT 1 AS a\N{EURO SIGN}$x$, 'it $x$ s3cr3t '", "SELECT ? AS ..."),
        ("SELECT 1a$x$, 'it $x$ s3cr3t '", "SELECT ?"),
        ("SELECT 1e-1_000 + 1e5 - 2", "SELECT ? + ? - ?"),
        ('ALTER USER u PASSWORD U&"s3cr3t"', "ALTER USER u PASSWORD ?"),
        ("ALTER USER u PASSWORD = s3cr3t", "ALTER USER u PASSWORD = ?"),
        ("ALTER USER u PASSWORD my s3cr3t; SELECT a", "ALTER USER u PASSWORD ?; SELECT a"),
        (
            "CREATE USER MAPPING FOR u SERVER s OPTIONS (password 's3cr3t', a 'b')",
            "CREATE USER MAPPING FOR u SERVER s OPTIONS ?",
        ),
        # --- what PostgreSQL refuses, and who wrote it meant as a value
        ("GRANT ALL ON d TO u IDENTIFIED BY s3cr3t", "GRANT ALL ON d TO u IDENTIFIED BY ?"),
        ("CREATE USER u IDENTIFIED BY PASSWORD s3cr3t", "CREATE USER u IDENTIFIED BY ?"),
        ("EXPLAIN ALTER USER u PASSWORD s3cr3t", "EXPLAIN ALTER USER u PASSWORD ?"),
        ('EXPLAIN (ANALYZE) CREATE ROLE u PASSWORD "s3cr3t"', "EXPLAIN (ANALYZE) CREATE ROLE u PASSWORD ?"),
        ("PREPARE p AS ALTER USER u PASSWORD s3cr3t", "PREPARE p AS ALTER USER u PASSWORD ?"),
        ("ALTERR USER u PASSWORD s3cr3t", "ALTERR USER u PASSWORD ?"),
        ("CREATE ROLE r CONNECTION LIMIT 5", "CREATE ROLE r CONNECTION LIMIT ?"),
        (
            "CREATE SUBSCRIPTION s CONNECTION 'password=s3cr3t' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION ? PUBLICATION p",
        ),
        ('ALTER SUBSCRIPTION s CONNECTION "password=s3cr3t"', "ALTER SUBSCRIPTION s CONNECTION ?"),
        ("ALTER SERVER s OPTIONS (SET password s3cr3t)", "ALTER SERVER s OPTIONS ?"),
        ("SECURITY LABEL FOR p ON TABLE t IS s3cr3t", "SECURITY LABEL FOR p ON TABLE t IS ?"),
        ('COMMENT ON TABLE t IS "s3cr3t"', "COMMENT ON TABLE t IS ?"),
        ("COMMENT ON TABLE t IS NULL", "COMMENT ON TABLE t IS NULL"),
        ("SET app.token s3cr3t", "SET app.token ?"),
        ("SET PASSWORD FOR u = s3cr3t", "SET PASSWORD ?"),
        ("SET SESSION AUTHORIZATION bob", "SET SESSION AUTHORIZATION bob"),
        ("EXPLAIN SET a = s3cr3t", "EXPLAIN SET a = ?"),
        ("SELECT 1 # s3cr3t\n, a", "SELECT ? , a"),
        ("SELECT a #>> b", "SELECT a #>> b"),
        ("\\set token s3cr3t", "..."),
        (
            "SELECT * FROM t WHERE a = \N{LEFT SINGLE QUOTATION MARK}s3cr3t\N{RIGHT SINGLE QUOTATION MARK}",
            "SELECT * FROM t WHERE a = ...",
        ),
        ("SELECT \N{FULLWIDTH APOSTROPHE}my s3cr3t\N{FULLWIDTH APOSTROPHE}", "SELECT ..."),
        ("DO AS$$ s3cr3t $$", "DO ..."),
        ("CREATE FUNCTION f() RETURNS text AS$b$ s3cr3t $b$", "CREATE FUNCTION f() RETURNS text ..."),
        ('SELECT * FROM t WHERE a = "s3cr3t"', "SELECT * FROM t WHERE a = ?"),
        ('SELECT * FROM t WHERE a LIKE "s3cr3t"', "SELECT * FROM t WHERE a LIKE ?"),
        ('SELECT * FROM t WHERE a IN ("s3cr3t", "s3cr3t")', "SELECT * FROM t WHERE a IN (?)"),
        ('SELECT * FROM t WHERE a BETWEEN "s3cr3t" AND "s3cr3t"', "SELECT * FROM t WHERE a BETWEEN ? AND ?"),
        ('SELECT f("s3cr3t", E"s3cr3t")', "SELECT f(?, E?)"),
        ('INSERT INTO t ("a", "b") VALUES ("s3cr3t", 1), (2, "s3cr3t")', 'INSERT INTO t ("a", "b") VALUES (?), (?)'),
        ('INSERT INTO t SELECT a FROM u WHERE b IN ("s3cr3t")', "INSERT INTO t SELECT a FROM u WHERE b IN (?)"),
        ('UPDATE "t" SET "a" = "s3cr3t", "b" = $1', 'UPDATE "t" SET "a" = ?, "b" = $1'),
        ('NOTIFY c, "s3cr3t"', "NOTIFY c, ?"),
        ('EXECUTE p("s3cr3t")', "EXECUTE p(?)"),
        # --- and names as those write them who quote each
        (
            'SELECT "t"."a", "b" AS "c" FROM "s"."t" JOIN "u" ON "t"."a" = "u"."a" WHERE ("b" = $1) ORDER BY "c", "b"',
            'SELECT "t"."a", "b" AS "c" FROM "s"."t" JOIN "u" ON "t"."a" = "u"."a" WHERE ("b" = $1) ORDER BY "c", "b"',
        ),
        (
            'INSERT INTO "t" ("a") VALUES ($1) ON CONFLICT ("a") DO UPDATE SET "a" = excluded."a" RETURNING "id"',
            'INSERT INTO "t" ("a") VALUES ($1) ON CONFLICT ("a") DO UPDATE SET "a" = excluded."a" RETURNING "id"',
        ),
        ('CREATE TABLE "t" ("id" int PRIMARY KEY, "n" text)', 'CREATE TABLE "t" ("id" int PRIMARY KEY, "n" text)'),
        ('ALTER TABLE "t" RENAME TO "u"', 'ALTER TABLE "t" RENAME TO "u"'),
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
UNQUOTED = (
    "SET a.b = {}", "set a TO {}, {}", "ALTER ROLE r SET a = {}", "CREATE USER u PASSWORD {}", "SET a {} {}",
    "GRANT a TO u IDENTIFIED BY {}", "CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p", "ALTER SYSTEM SET a TO {}",
    "CREATE SERVER s OPTIONS (a {}, password {})", "IMPORT FOREIGN SCHEMA s FROM SERVER s OPTIONS (a {})",
    "SECURITY LABEL ON TABLE t IS {}", "COPY t FROM STDIN {}", "COPY t FROM STDIN; {}",
    "ALTER USER u ENCRYPTED PASSWORD {}",
)  # fmt: skip
IN_DOUBLE_QUOTES = (
    'SELECT a FROM t WHERE b = "{}"', 'SELECT a FROM t WHERE b <> "{}" OR c IN (1, "{}")',
    'INSERT INTO t VALUES ("{}", "{}")',
    'UPDATE t SET a = "{}", b = lower("{}")', 'SELECT a || "{}" FROM t', 'SELECT a FROM t WHERE b ILIKE "{}"',
    'MERGE INTO t USING u ON a = "{}" WHEN MATCHED THEN UPDATE SET b = "{}"', 'CALL f(1, "{}")', 'SELECT f(a, "{}")',
    'WITH x AS (SELECT a FROM t WHERE b = ("{}")) SELECT a FROM x', 'DELETE FROM t WHERE (a, b) IN (("{}", "{}"))',
)  # fmt: skip
VALUES = st.sampled_from(UNQUOTED + IN_DOUBLE_QUOTES)
BEFORE = st.sampled_from(
    ["", "EXPLAIN ", "EXPLAIN (ANALYZE, BUFFERS) ", "PREPARE p (int) AS ", "BEGIN; ", "EXPLIAN ", "(", "SELECT 1; "]
)
AROUND = st.text(st.sampled_from(string.ascii_letters + " '\"$/*-\\\n;,()0123456789"), max_size=30)


@given(AROUND, QUOTED, AROUND)
def test_what_is_quoted_at_the_start_of_a_statement_is_never_told(inside: str, quoted: str, after: str) -> None:
    text = "SELECT " + quoted.format(CANARY) + after.replace(CANARY, "")
    assert CANARY not in fingerprint(text)
    assert len(fingerprint(f"{inside}{text}")) <= LONGEST


@given(BEFORE, VALUES, st.sampled_from([" ", "\n", "/* a */ ", "-- a\n"]))
def test_a_value_that_is_not_quoted_as_postgresql_does_is_not_told(before: str, statement: str, between: str) -> None:
    text = (before + statement.format(*[CANARY] * 2)).replace(" ", between)
    assert CANARY not in fingerprint(text)
    assert CANARY not in fingerprint(text.lower())


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
