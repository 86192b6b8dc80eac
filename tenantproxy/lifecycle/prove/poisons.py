"""What may a tenant leave in its session, and how may it name another one? SQL of attackers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tenantproxy.lifecycle.prove.base import Pair, quoted
from tenantproxy.model import Isolation, quote_identifier

__all__ = ["GONE", "STATE", "Poison", "forgeries", "hidden_poisons", "poisons", "shadows"]

STATE: Final = (
    "SELECT current_user, session_user, current_setting('search_path'), current_setting('statement_timeout'),"
    " current_setting('lock_timeout'), current_setting('row_security'), current_setting('work_mem'),"
    " current_setting('default_transaction_read_only'), current_setting('standard_conforming_strings'),"
    " (SELECT count(*) FROM pg_cursors), pg_my_temp_schema() <> 0"
    " AND EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema()),"
    " (SELECT count(*) FROM pg_listening_channels()),"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
)
"""What a session is, as far as any poison changes it."""
_PREPARED: Final = "tenantproxy_poison"
GONE: Final = f"EXECUTE {_PREPARED}"
"""Must be refused with 26000: what `poisons` prepared is gone."""


@dataclass(frozen=True, slots=True)
class Poison:
    """Left by statements of its tenant, each a simple query."""

    name: str
    statements: tuple[str, ...]


def poisons(*, read: str, other: str, role: str, schema: str, setting: str = "app.current_tenant_id") -> list[Poison]:
    """What is left by statements whose tags show it, or by functions. `read`: a query; `other`: another tenant."""
    return [
        Poison("a role", ("SET ROLE none", "SET SESSION AUTHORIZATION DEFAULT", f"SET ROLE {quote_identifier(role)}")),
        Poison("another search_path", (f"SET search_path = {quote_identifier(schema)}, public",)),
        Poison("a hostile statement_timeout", ("SET statement_timeout = '1ms'",)),
        Poison(
            "a hostile statement_timeout set by a function", ("SELECT set_config('statement_timeout', '1', false)",)
        ),
        Poison("a hostile lock_timeout", ("SET lock_timeout = '1ms'",)),
        Poison("row security switched off", ("SET row_security = off",)),
        Poison("a session that reads only", ("SET default_transaction_read_only = on",)),
        Poison("strings that read otherwise", ("SET standard_conforming_strings = off",)),
        Poison("many cursors held open", tuple(f"DECLARE held{n} CURSOR WITH HOLD FOR SELECT 1" for n in range(50))),
        Poison("a cursor held open", (f"DECLARE held CURSOR WITH HOLD FOR {read}",)),
        Poison("a statement prepared under a name", (f"PREPARE {_PREPARED} AS {read}",)),
        Poison("a lock of the session", ("SELECT pg_advisory_lock(7305137421)",)),
        Poison("a channel listened to", ("LISTEN tenantproxy_poison",)),
        Poison(
            "a channel listened to where no tag shows it", ("DO $$ BEGIN EXECUTE 'LISTEN tenantproxy_poison'; END $$",)
        ),
        Poison("a setting of its own", ("SET work_mem = '64kB'", f"SET {setting} = {quoted(other)}")),
        Poison("its binding cleared", ("RESET ALL",)),
        Poison("its binding thrown away", ("DISCARD ALL",)),
        Poison("its sequences thrown away", ("DISCARD SEQUENCES",)),
    ]


def hidden_poisons(*, other: str, schema: str, setting: str = "app.current_tenant_id") -> list[Poison]:
    """What no tag shows, and transactions that are left open."""
    name = quoted(other)
    path = quoted(f"{schema}, public")
    return [
        Poison("a search_path set by a function", (f"SELECT set_config('search_path', {path}, false)",)),
        Poison("the next tenant's name", (f"SELECT set_config('{setting}', {name}, false)",)),
        Poison("a proof of its own making", ("SELECT set_config('app.tenant_proof', 'bound', false)",)),
        Poison("a transaction that failed", ("BEGIN", "SELECT 1/0")),
        Poison(
            "a transaction that is open",
            ("BEGIN", "SET LOCAL work_mem = '77kB'", "SELECT pg_advisory_xact_lock(7305137422)"),
        ),
        Poison("a savepoint in a failed transaction", ("BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a")),
        Poison("chained transactions", ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "COMMIT AND CHAIN")),
        Poison(
            "a block that sets and commits",
            ("DO $$ BEGIN PERFORM set_config('role', 'none', false); COMMIT; END $$",),
        ),
    ]


def shadows(*, table: str, read: str, lie: str) -> list[Poison]:
    """What stands in front of the next tenant's own names. Refused where there is no TEMP, which holds as well."""
    text = quoted(lie)
    driver = tuple(f"PREPARE __asyncpg_stmt_{n}__ AS SELECT {text}, {text}" for n in range(1, 5))
    return [
        Poison(
            "a temporary table of the same name",
            (f"CREATE TEMP TABLE {table} AS SELECT {text}::text AS tenant_id, {text}::text AS secret",),
        ),
        Poison(
            "a temporary view of the same name",
            (f"CREATE TEMP VIEW {table} AS SELECT {text}::text AS tenant_id, {text}::text AS secret",),
        ),
        Poison(
            "a function in front of set_config",
            (
                "CREATE FUNCTION pg_temp.set_config(text, text, boolean) RETURNS text LANGUAGE sql"
                f" AS $$ SELECT {text}::text $$",
                "SET search_path = pg_temp, pg_catalog",
            ),
        ),
        Poison("statements under the driver's names", ("DEALLOCATE ALL", *driver)),
        Poison("a cursor over its own rows", ("BEGIN", f"DECLARE held CURSOR WITH HOLD FOR {read}", "COMMIT")),
    ]


def forgeries(pair: Pair, *, table: str, place: str) -> dict[str, tuple[str, ...]]:
    """Ways in which the first tenant says that it is the second. `place`: the qualified table of the second.

    Nothing that is left of them outlives the session, and none does harm where it works but to `table`.
    """
    read, away = f"SELECT tenant_id, secret FROM {table}", f"SELECT tenant_id, secret FROM {place}"
    common = {
        "another role": ("SET ROLE tenantproxy_keeper", away),
        "a superuser": ("SET SESSION AUTHORIZATION postgres", away),
        "RESET SESSION AUTHORIZATION": ("RESET SESSION AUTHORIZATION", "RESET ROLE", away),
        "RESET ALL": ("RESET ALL", read, away),
        "DISCARD ALL": ("DISCARD ALL", read, away),
        "row_security off": ("SET row_security = off", read),
        "a cursor": ("BEGIN", f"DECLARE c CURSOR FOR {away}", "FETCH ALL c", "COMMIT"),
        "a prepared statement": (f"PREPARE p AS {away}", "EXECUTE p"),
        "text as SQL": (f"SELECT query_to_xml({quoted(away)}, true, true, '')",),
        "the whole database": ("SELECT database_to_xml(true, true, '')",),
        "statistics": (
            "SELECT most_common_vals::text, histogram_bounds::text FROM pg_stats WHERE tablename LIKE"
            " 'tenantproxy_canary_%'",
        ),
        "a file": ("SELECT pg_read_file('PG_VERSION')",),
    }
    if pair.isolation is Isolation.ROW:
        return common | _row_forgeries(pair, table=table, read=read)
    other = pair.second.placement
    found = dict(common)
    if other.role is not None and not pair.shares_role:
        role = quote_identifier(other.role)
        found["the other's role"] = (f"SET ROLE {role}", away)
        found["the other's user"] = (f"SET SESSION AUTHORIZATION {role}", away)
    if other.schema is not None:
        schema = quote_identifier(other.schema)
        found["search_path"] = (f"SET search_path = {schema}", read)
        found["search_path by a function"] = (f"SELECT set_config('search_path', {quoted(schema)}, false)", read)
        found["search_path in a block"] = (f"DO $$ BEGIN SET search_path = {schema}; END $$", read)
    else:
        found["another database"] = (f"SELECT * FROM {quote_identifier(other.database)}.{place}",)
    return found


def _row_forgeries(pair: Pair, *, table: str, read: str) -> dict[str, tuple[str, ...]]:
    setting, other = pair.setting, quoted(pair.second.id)
    flip = f"set_config('{setting}', {other}, false)"
    sets = f"SET {setting} = {other}"
    proof = "v1.1.0000000000." + f"{0:016d}.{10**16 - 1}." + "0" * 64
    trusted = quoted(f"{2**33:010d}{pair.second.id}")
    return {
        "SET": (sets, read),
        "SET LOCAL": ("BEGIN", sets.replace("SET", "SET LOCAL", 1), read, "COMMIT"),
        "set_config": (f"SELECT {flip}", read),
        "set_config in a CTE": (f"WITH x AS MATERIALIZED (SELECT {flip}) SELECT secret FROM x, {table}",),
        "set_config in a subquery": (f"SELECT secret FROM {table} WHERE (SELECT {flip}) = {other}",),
        "set_config in a lateral join": (f"SELECT p.secret FROM (SELECT {flip} OFFSET 0) f, LATERAL (TABLE {table}) p",
                                        ),
        "set_config for each row": (f"SELECT secret, {flip} FROM {table} UNION ALL SELECT secret, '' FROM {table}",),
        "set_config in DO": (f"DO $$ BEGIN PERFORM {flip}; END $$", read),
        "set_config in EXPLAIN ANALYZE": (f"EXPLAIN ANALYZE SELECT {flip}", read),
        "set_config with another spelling": (f'SELECT U&"\\0073et_config"{flip[10:]}', read),
        "set_config in a prepared statement": (f"PREPARE p AS SELECT {flip}", "EXECUTE p", read),
        "a generic plan": ("SET plan_cache_mode = force_generic_plan", f"PREPARE p AS {read}", f"SELECT {flip}",
                           "EXECUTE p"),
        "a cursor before it": ("BEGIN", f"DECLARE c CURSOR FOR {read}", f"SELECT {flip}", "FETCH ALL c", "COMMIT"),
        "a savepoint": ("BEGIN", "SAVEPOINT s", f"SELECT {flip}", "ROLLBACK TO s", read, f"SELECT {flip}", read,
                        "COMMIT"),
        "RESET and the setting": ("RESET ALL", sets, "SET app.tenant_proof = 'bound'", read),
        "DISCARD and the setting": ("DISCARD ALL", sets, "SET app.tenant_proof = 'bound'", read),
        "DISCARD SEQUENCES": ("DISCARD SEQUENCES", sets, read),
        "no setting at all": (f"RESET {setting}", read),
        "a forged proof": (sets, f"SELECT set_config('app.tenant_proof', '{proof}', false)", read),
        "binding with a forged proof": ("RESET ALL", f"SELECT tenantproxy.bind({other}, '{proof}')", read),
        "binding with nothing": ("RESET ALL", f"SELECT tenantproxy.bind({other}, NULL)", read),
        "the mark": (f"SELECT tenantproxy.mark(1, {other})", read),
        "the trusted setting": (f"SET backtrace_functions = {trusted}", read),
        "the trusted setting by a function": (f"SELECT set_config('backtrace_functions', {trusted}, false)", read),
        "dropping the policy": (f"DROP POLICY tenantproxy ON {table}", read),
        "another policy": (f"CREATE POLICY opened ON {table} USING (true)", read),
        "switching it off": (f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY", read),
    }  # fmt: skip
