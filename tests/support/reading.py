"""Every way to write that PostgreSQL has, for sessions that are to read only. `{t}`: a table, `{s}`: a sequence."""

from __future__ import annotations

from typing import Final

__all__ = ["FURNISH", "WRITES"]

FURNISH: Final = (
    "CREATE SEQUENCE counter",
    "CREATE TABLE aims (id int PRIMARY KEY, name text)",
    "INSERT INTO aims VALUES (1, 'untouched')",
    "CREATE VIEW aims_view AS SELECT * FROM aims",
    "CREATE FUNCTION plain_write() RETURNS void LANGUAGE sql AS $$ UPDATE aims SET name = 'x' $$",
)
"""What the attacks aim at, in the tenant's own place."""

_DENIED: Final = "42501"
_READ_WRITE: Final = "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; SET TRANSACTION READ WRITE; "
WRITES: Final[dict[str, str]] = {
    "INSERT INTO aims VALUES (2, 'x')": _DENIED,
    "UPDATE aims SET name = 'x'": _DENIED,
    "UPDATE aims_view SET name = 'x'": _DENIED,
    "DELETE FROM aims": _DENIED,
    "MERGE INTO aims a USING (SELECT 1 AS id) b ON a.id = b.id WHEN MATCHED THEN DELETE": _DENIED,
    "TRUNCATE aims": _DENIED,
    "SELECT * FROM aims FOR UPDATE": _DENIED,
    "DO $$ BEGIN LOCK TABLE aims IN ACCESS EXCLUSIVE MODE; END $$": _DENIED,
    "WITH gone AS (DELETE FROM aims RETURNING *) SELECT * FROM gone": _DENIED,
    "EXPLAIN ANALYZE DELETE FROM aims": _DENIED,
    "SELECT plain_write()": _DENIED,
    "SELECT query_to_xml('SELECT plain_write()', true, false, '')": _DENIED,
    "DO $$ BEGIN EXECUTE 'DELETE FROM aims'; END $$": _DENIED,
    "PREPARE gone AS DELETE FROM aims": "",
    _READ_WRITE + "DELETE FROM aims": _DENIED,
    "SET default_transaction_read_only = off; DELETE FROM aims": _DENIED,
    "SET row_security = off; DELETE FROM aims": _DENIED,
    "RESET ALL; DELETE FROM aims": _DENIED,
    "DISCARD ALL": "",
    "SELECT nextval('counter')": _DENIED,
    "SELECT setval('counter', 100)": _DENIED,
    "SELECT lo_create(0)": _DENIED,
    "SELECT lo_creat(-1)": _DENIED,
    "SELECT lo_from_bytea(0, 'x')": _DENIED,
    "COPY aims FROM PROGRAM 'echo 2'": _DENIED,
    "COPY (SELECT 1) TO PROGRAM 'cat'": _DENIED,
    "CREATE TABLE mine (id int)": _DENIED,
    "CREATE SCHEMA mine": _DENIED,
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'": _DENIED,
    "CREATE INDEX ON aims (name)": _DENIED,
    "CREATE TRIGGER t BEFORE INSERT ON aims EXECUTE FUNCTION suppress_redundant_updates_trigger()": _DENIED,
    "CREATE ROLE mine": _DENIED,
    "CREATE DATABASE mine": "",
    "CREATE PUBLICATION mine FOR TABLE aims": _DENIED,
    "ALTER TABLE aims ADD COLUMN x int": _DENIED,
    "DROP TABLE aims": _DENIED,
    "COMMENT ON TABLE aims IS 'x'": _DENIED,
    "ANALYZE aims": "",
    "VACUUM aims": "",
    "GRANT ALL ON aims TO CURRENT_USER": "",
    "ALTER SYSTEM SET work_mem = '1GB'": "",
    "SELECT pg_terminate_backend(pg_backend_pid() - 1)": "",
    "SELECT pg_switch_wal()": _DENIED,
    "SELECT pg_reload_conf()": _DENIED,
}
"""Each statement, and the SQLSTATE that it must end with; empty: whatever it says, nothing is written."""
