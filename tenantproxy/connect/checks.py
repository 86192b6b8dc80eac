"""Is a fresh connection what it must be? What is asked of the server at connect, and what each answer means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tenantproxy.errors import ConnectFailed, IsolationError
from tenantproxy.model import PoolKey, Proof, quote_identifier

__all__ = [
    "BEHIND_POOLER",
    "CHECK",
    "Answer",
    "WrongRole",
    "binds_nothing",
    "clean_role_sql",
    "foreign_settings",
    "out_of_role",
    "pooler_between",
    "refusal",
]

MAX_CLOCK_OFFSET: Final = 1.0  # seconds between the server's clock and ours; beyond it a proof's window means nothing

CHECK: Final = """
SELECT r.rolname::text AS role, current_user::text AS acts_as, r.rolsuper, r.rolbypassrls,
  pg_catalog.pg_is_in_recovery() AS standby,
  pg_catalog.pg_backend_pid() AS pid,
  ARRAY(SELECT COALESCE(pg_catalog.current_setting(s.name, true), '')
        FROM pg_catalog.unnest(pg_catalog.string_to_array($3, ',')) AS s (name)) AS pinned,
  pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) AS server_now,
  pg_catalog.current_setting('max_connections')::int AS max_connections,
  pg_catalog.current_setting('superuser_reserved_connections')::int
    + coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int AS reserved_connections,
  d.datconnlimit AS database_limit, r.rolconnlimit AS role_limit,
  pg_catalog.current_setting('server_version_num')::int AS version,
  ARRAY(SELECT (s.setdatabase <> 0)::int || c FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
        WHERE s.setrole = r.oid AND s.setdatabase IN (0, d.oid)) AS role_settings,
  pg_catalog.to_regprocedure('tenantproxy.prepared_check(bigint)') IS NOT NULL AS installed,
  pg_catalog.to_regprocedure('tenantproxy.sign_context(text,text)') IS NOT NULL AS signs_settings,
  pg_catalog.has_function_privilege('pg_catalog.pg_prepared_statement()', 'EXECUTE') AS sees_prepared,
  COALESCE(pg_catalog.has_function_privilege(
    pg_catalog.to_regprocedure('tenantproxy.enter(text,integer,bigint,text,bigint)'), 'EXECUTE'), false) AS takes_turns,
  CASE WHEN $1 THEN EXISTS (SELECT FROM pg_catalog.pg_roles m WHERE pg_catalog.pg_has_role(m.oid, 'MEMBER')
    AND (pg_catalog.has_database_privilege(m.oid, d.oid, 'TEMPORARY, CREATE') OR EXISTS (
      SELECT FROM pg_catalog.pg_namespace n WHERE pg_catalog.has_schema_privilege(m.oid, n.oid, 'CREATE')))
  ) ELSE false END AS makes_objects,
  CASE WHEN $1 THEN EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND pg_catalog.pg_has_role(c.relowner, 'MEMBER')) ELSE false END AS owns_tables,
  CASE WHEN $2 = '' THEN true ELSE EXISTS (SELECT FROM pg_catalog.pg_namespace n
    WHERE n.nspname = $2 AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')) END AS has_schema
FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
WHERE r.rolname = session_user AND d.datname = pg_catalog.current_database()
"""
"""$1: shared tables, so look for owned ones; $2: the schema that must be there, or ''; $3: pinned settings, `a,b`.

unnest() keeps their order; an ORDER BY would cost each fresh backend a millisecond, for its first sort.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The one row of CHECK, in SQL's types. `role_settings`: `name=value` after a digit, 1: for this database only."""

    role: str  # that we logged in as
    acts_as: str  # another one when a setting makes it so; any reset ends that
    rolsuper: bool
    rolbypassrls: bool
    standby: bool
    pid: int  # of the process that answered
    pinned: list[str]  # the values that it has for $3, in that order
    server_now: float
    max_connections: int
    reserved_connections: int  # of them for others than us
    database_limit: int  # of connections; -1: none
    role_limit: int
    version: int
    role_settings: list[str]
    installed: bool  # in the version that we need: looks for the newest function
    signs_settings: bool  # of [signed_context]; not in databases of an older version
    sees_prepared: bool
    takes_turns: bool  # a session is reset and entered in one message; not in databases of an older version
    makes_objects: bool  # it, or a role that it can become; temporary ones too: looked for in shared tables alone
    owns_tables: bool
    has_schema: bool


BEHIND_POOLER: Final = (
    "connect to PostgreSQL itself: behind a connection pooler (PgBouncer and its like, in any mode) a session is not"
    " ours alone, so that nothing can be proven of it; tenantproxy pools connections itself"
)


class WrongRole(ConnectFailed):
    """The server is a standby where a primary is needed, or the other way round. A failover may change that."""


def binds_nothing(key: PoolKey) -> IsolationError:
    """A standby was chosen among the hosts of a server, for row tenants whose binding is written."""
    return IsolationError(
        "row tenants cannot be served from a standby of this server: a standby takes no binding",
        detail=f"server {key.server!r}, database {key.database!r}",
        hint="name it in `replicas` of its primary and read with replica=True, or write target_session_attrs ="
        ' "read-write"',
    )


def pooler_between(answer: Answer, key: PoolKey, *, pid: int, pins: Mapping[str, str]) -> IsolationError | None:
    """Why this is no session of our own; None: it is. `pid`: of the process that we logged in at (BackendKeyData).

    A pooler tells a process id of its own, and drops startup parameters or undoes them between two transactions.
    """
    where = f"server {key.server!r}, database {key.database!r}"
    if answer.pid != pid:
        return IsolationError(
            "another server process answers than the one that we logged in at: a connection pooler is in between",
            detail=where,
            hint=BEHIND_POOLER,
        )
    lost = [name for (name, value), found in zip(pins.items(), answer.pinned, strict=True) if not _same(value, found)]
    if lost:
        return IsolationError(
            f"the session does not have what we set at startup: {', '.join(lost)}",
            detail=f"{where}; a connection pooler in between may drop it (PgBouncer: ignore_startup_parameters)",
            hint=BEHIND_POOLER,
        )
    return None


_DURATION: Final = re.compile(r"(\d+)(ms|s|min|h|d|)")
_MILLISECONDS: Final = {"": 1, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def _same(pinned: str, found: str) -> bool:
    """Whether a server that was told `pinned` shows it as `found`: milliseconds come back with a unit."""
    if pinned == found:
        return True
    duration = _DURATION.fullmatch(found)
    return duration is not None and pinned == str(int(duration[1]) * _MILLISECONDS[duration[2]])


def out_of_role(answer: Answer, key: PoolKey, *, primary: str | None) -> WrongRole | None:
    """Why this server is not what it is used as; None: it is. `primary`: whose replica it is to be, if it is one."""
    where = f"server {key.server!r}, database {key.database!r}"
    if answer.standby and primary is None:
        return WrongRole(
            "the server is a standby (in recovery), where a primary is needed",
            detail=where,
            hint="it is tried again until it is promoted; or name the primary here, and this server in its `replicas`",
            retry_after=2.0,
        )
    if not answer.standby and primary is not None:
        return WrongRole(
            "the replica is not in recovery: it was promoted, or never was one",
            detail=f"{where}, a replica of {primary!r}",
            hint="make it a standby of that server again, or take it out of `replicas`",
            retry_after=2.0,
        )
    return None


def refusal(
    answer: Answer, key: PoolKey, *, offset: float, proof: Proof | None, signs_settings: bool = False
) -> IsolationError | None:
    """Why this connection must not serve a tenant; None: it may. `offset`: its clock minus ours, seconds."""
    where = f"server {key.server!r}, database {key.database!r}"
    if answer.rolsuper or answer.rolbypassrls:
        what = "is a superuser" if answer.rolsuper else "has BYPASSRLS"
        return IsolationError(
            f"the role {answer.role!r} {what}: no policy and no grant would hold it back",
            detail=where,
            hint="let tenants' SQL run as a role with NOSUPERUSER NOBYPASSRLS that owns nothing",
        )
    if answer.acts_as != answer.role:
        return IsolationError(
            f"the session acts as {answer.acts_as!r} from its start, and as {answer.role!r} after any reset",
            detail=f"{where}; ALTER ROLE or ALTER DATABASE ... SET role says so",
            hint="take that setting off, and log in as the role that tenants' SQL is to run as",
        )
    if answer.owns_tables:
        return IsolationError(
            f"the role {answer.role!r} owns tables: an owner can switch row-level security off",
            detail=where,
            hint="give the tables to another role: ALTER TABLE ... OWNER TO ...",
        )
    if not answer.has_schema:
        return IsolationError(
            f"the schema {key.schema!r} does not exist, or the role {answer.role!r} has no USAGE on it",
            detail=where,
            hint="create the schema, or grant USAGE on it to this role alone",
        )
    if proof is Proof.PLAIN and not answer.sees_prepared:
        return IsolationError(
            f"the role {answer.role!r} cannot see what is prepared on its own connection, as unsigned row tenants need",
            detail=where,
            hint="sign ([row] signed = true), or GRANT EXECUTE ON FUNCTION pg_prepared_statement() to this role, and"
            " tenants can read the texts of each other's statements",
        )
    if proof is None or proof is Proof.PLAIN:
        return None
    return _unsigned(answer, where, offset=offset, proof=proof, signs_settings=signs_settings)


def _unsigned(
    answer: Answer, where: str, *, offset: float, proof: Proof, signs_settings: bool
) -> IsolationError | None:
    """Why what is signed could not be verified there; None: it can."""
    if not answer.installed:
        return IsolationError(
            "the signed context is not installed in this database, or an older version of it",
            detail=where,
            hint="run `tenantproxy install --config FILE`",
        )
    if signs_settings and not answer.signs_settings:
        return IsolationError(
            "[signed_context] is configured, and what signs its settings is not installed in this database",
            detail=where,
            hint="run `tenantproxy install --config FILE` again: an older version of it ran here",
        )
    if proof is not Proof.EXACT and abs(offset) > MAX_CLOCK_OFFSET:
        return IsolationError(
            f"the clock of the server is {offset:+.1f} s from ours, more than {MAX_CLOCK_OFFSET:g} s",
            detail=where,
            hint="synchronise the clocks (NTP)",
        )
    return None


def foreign_settings(answer: Answer, *, pinned: Iterable[str], allowed: Mapping[str, str]) -> tuple[str, ...]:
    """Settings that were given to our role for every later session and that the operator did not name.

    Pinned ones have no effect and do not count. As in `Answer.role_settings`, without the values.
    """
    harmless = {name.lower() for name in pinned}
    foreign = []
    for entry in answer.role_settings:
        name, _, value = entry[1:].partition("=")
        if name.lower() not in harmless and allowed.get(name) != value:
            foreign.append(entry[0] + name)
    return tuple(foreign)


def clean_role_sql(answer: Answer, foreign: Iterable[str], *, database: str, allowed: Mapping[str, str]) -> list[str]:
    """Statements that take foreign settings off our role again; a role may do that to itself."""
    role = quote_identifier(answer.role)
    statements = ["SET ROLE NONE"] if answer.acts_as != answer.role else []  # another role may not
    for entry in foreign:
        where = f" IN DATABASE {quote_identifier(database)}" if entry[0] == "1" else ""
        name = ".".join(quote_identifier(part) for part in entry[1:].split("."))
        statements.append(f"ALTER ROLE {role}{where} RESET {name}")
    return statements
