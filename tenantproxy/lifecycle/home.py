"""What is still to be done until one tenant's role alone reaches its schema or database?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.errors import Problem
from tenantproxy.lifecycle.change import SEARCH_PATH, Change, ChangePlan
from tenantproxy.model import quote_identifier

__all__ = ["Home", "plan_home"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What belongs to one tenant's `role` in a database: these schemas, and with `whole` the database itself.

    `strangers`: the other roles that tenants' SQL runs as on this server. They lose what was granted to them here.
    """

    role: str
    schemas: tuple[str, ...]
    whole: bool
    strangers: tuple[str, ...] = ()


_DATABASE: Final = """
WITH acl AS (SELECT a.grantee, a.privilege_type FROM pg_database d,
             aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = current_database())
SELECT d.datname::text AS name, current_user::text AS user, pg_has_role(d.datdba, 'USAGE') AS is_mine,
  pg_get_userbyid(d.datdba)::text AS owner, d.datdba = coalesce(r.oid, 0) AS is_owner,
  EXISTS (SELECT FROM acl WHERE grantee = 0) AS is_public,
  EXISTS (SELECT FROM acl WHERE grantee = r.oid AND privilege_type = 'CONNECT') AS connects,
  has_database_privilege(coalesce(r.rolname::text, 'public'), d.oid, 'CONNECT') AS may_connect,
  ARRAY(SELECT privilege_type FROM acl WHERE grantee = r.oid AND privilege_type <> 'CONNECT' ORDER BY 1) AS excess,
  ARRAY(SELECT DISTINCT s.rolname::text FROM acl JOIN pg_roles s ON s.oid = acl.grantee
        WHERE s.rolname = ANY ($2) AND s.oid <> d.datdba ORDER BY 1) AS strangers
FROM pg_database d LEFT JOIN pg_roles r ON r.rolname = $1
WHERE d.datname = current_database()
"""
_SCHEMA: Final = """
SELECT n.nspname::text AS name, current_user::text AS user, pg_has_role(n.nspowner, 'USAGE') AS is_mine,
  pg_get_userbyid(n.nspowner)::text AS owner, n.nspowner = coalesce(r.oid, 0) AS is_owner,
  EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = 0) AS is_public,
  EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = r.oid AND a.privilege_type = 'USAGE') AS sees,
  EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = r.oid AND a.privilege_type = 'CREATE') AS creates,
  ARRAY(SELECT DISTINCT s.rolname::text FROM aclexplode(n.nspacl) a JOIN pg_roles s ON s.oid = a.grantee
        WHERE s.rolname = ANY ($3) AND s.oid <> n.nspowner ORDER BY 1) AS strangers,
  ARRAY(SELECT s.rolname::text FROM pg_roles s WHERE s.rolname = ANY ($3) AND s.oid <> n.nspowner
        AND has_schema_privilege(s.oid, n.oid, 'USAGE')
        AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee IN (0, s.oid)) ORDER BY 1) AS through_others,
  EXISTS (SELECT FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p WHERE c.relnamespace = n.oid
          AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_table_privilege(who.name, c.oid, p)) AS lacks_tables,
  EXISTS (SELECT FROM pg_class c, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) p WHERE c.relnamespace = n.oid
          AND c.relkind = 'S' AND NOT has_sequence_privilege(who.name, c.oid, p)) AS lacks_sequences,
  ARRAY(SELECT DISTINCT pg_get_userbyid(c.relowner)::text FROM pg_class c WHERE c.relnamespace = n.oid
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT pg_has_role(c.relowner, 'USAGE')) AS foreign_owners,
  ARRAY(SELECT pg_get_userbyid(o.oid)::text || ' ' || k.kind FROM unnest('{r,S}'::text[]) AS k(kind), (
          SELECT CASE pg_get_userbyid(n.nspowner) WHEN 'pg_database_owner'
            THEN (SELECT datdba FROM pg_database WHERE datname = current_database()) ELSE n.nspowner END
          UNION SELECT c.relowner FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
        ) AS o(oid) WHERE o.oid IS DISTINCT FROM r.oid AND pg_has_role(o.oid, 'USAGE') AND NOT EXISTS (
          SELECT FROM pg_default_acl f, aclexplode(f.defaclacl) a WHERE f.defaclrole = o.oid
            AND f.defaclnamespace = n.oid AND f.defaclobjtype = k.kind::"char" AND a.grantee = r.oid
          GROUP BY f.oid HAVING count(*) >= CASE k.kind WHEN 'r' THEN 4 ELSE 3 END) ORDER BY 1) AS lacks_defaults
FROM pg_namespace n LEFT JOIN pg_roles r ON r.rolname = $2,
  LATERAL (SELECT coalesce(r.rolname::text, 'public') AS name) who
WHERE n.nspname = $1
"""
_RIGHTS: Final = "SELECT, INSERT, UPDATE, DELETE"
_OF_SEQUENCES: Final = "USAGE, SELECT, UPDATE"  # the tenant's own: pg_dump reads them, pg_restore sets them


async def plan_home(conn: asyncpg.Connection, home: Home) -> ChangePlan:
    """The plan of one tenant in the database of `conn`. Changes nothing; what it cannot do is in `problems`."""
    async with conn.transaction(readonly=True):
        await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", SEARCH_PATH)
        database = await conn.fetchrow(_DATABASE, home.role, list(home.strangers))
        schemas = {name: await conn.fetchrow(_SCHEMA, name, home.role, list(home.strangers)) for name in home.schemas}
    assert database is not None
    changes = list(_database(database, home))
    missing = _not_mine(database, f"the database {quote_identifier(database['name'])}", changes)
    problems, notes = [], []
    for name, schema in schemas.items():
        if schema is None:
            fix = f"create it, and its tables: CREATE SCHEMA {quote_identifier(name)}"
            problem = f"does not exist in the database {database['name']}"
            problems.append(Problem(key=f"schema {name}", problem=problem, fix=fix))
            continue
        own = list(_schema(schema, home.role))
        missing += _not_mine(schema, f"the schema {quote_identifier(name)}", own)
        if own and schema["foreign_owners"]:
            missing += [_foreign(schema, owner) for owner in schema["foreign_owners"]]
        changes += own
        through = "reaches it through a role it is a member of: take that membership away"
        notes += [f"schema {name}: {role} {through}" for role in schema["through_others"]]
    if not home.whole and database["is_public"]:
        notes.append(f"PUBLIC may connect to the database {database['name']}: REVOKE ALL ON DATABASE ... FROM PUBLIC")
    return ChangePlan(changes=tuple(changes), notes=tuple(notes), problems=tuple(problems), missing=tuple(missing))


def _database(row: asyncpg.Record, home: Home) -> Iterator[Change]:
    database, role = quote_identifier(row["name"]), quote_identifier(home.role)
    if home.whole and row["is_public"]:
        what = f"database {database}: closed to PUBLIC"
        yield Change(what=what, sql=f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    if not (row["connects"] if home.whole else row["may_connect"]) and not row["is_owner"]:
        yield Change(
            what=f"database {database}: {role} may connect", sql=f"GRANT CONNECT ON DATABASE {database} TO {role}"
        )
    if row["excess"] and not row["is_owner"]:
        rights = ", ".join(row["excess"])
        what = f"database {database}: {role} makes no schema and no temporary table"
        yield Change(what=what, sql=f"REVOKE {rights} ON DATABASE {database} FROM {role}")
    for stranger in map(quote_identifier, row["strangers"] if home.whole else ()):
        what = f"database {database}: closed to {stranger}"
        yield Change(what=what, sql=f"REVOKE ALL ON DATABASE {database} FROM {stranger} CASCADE")


def _schema(row: asyncpg.Record, grantee: str) -> Iterator[Change]:
    schema, role = quote_identifier(row["name"]), quote_identifier(grantee)
    for stranger in [*(["PUBLIC"] if row["is_public"] else []), *map(quote_identifier, row["strangers"])]:
        what = f"schema {schema}: closed to {stranger}"
        # Its owner may have let them go on granting.
        yield Change(what=what, sql=f"REVOKE ALL ON SCHEMA {schema} FROM {stranger} CASCADE")
    if not row["is_owner"]:
        if row["creates"]:
            what = f"schema {schema}: {role} creates nothing in it"
            yield Change(what=what, sql=f"REVOKE CREATE ON SCHEMA {schema} FROM {role}")
        if not row["sees"]:
            yield Change(
                what=f"schema {schema}: {role} may look into it", sql=f"GRANT USAGE ON SCHEMA {schema} TO {role}"
            )
    if row["lacks_tables"]:
        what = f"schema {schema}: {role} may {_RIGHTS} in its tables"
        yield Change(what=what, sql=f"GRANT {_RIGHTS} ON ALL TABLES IN SCHEMA {schema} TO {role}")
    if row["lacks_sequences"]:
        what = f"schema {schema}: {role} may use, read and set its sequences"
        yield Change(what=what, sql=f"GRANT {_OF_SEQUENCES} ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
    for entry in row["lacks_defaults"]:
        creator, _, kind = entry.rpartition(" ")
        rights, things = (_RIGHTS, "TABLES") if kind == "r" else (_OF_SEQUENCES, "SEQUENCES")
        head = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote_identifier(creator)} IN SCHEMA {schema}"
        what = f"schema {schema}: the same for {things.lower()} that {quote_identifier(creator)} creates later"
        yield Change(what=what, sql=f"{head} GRANT {rights} ON {things} TO {role}")


def _not_mine(row: asyncpg.Record, what: str, changes: Sequence[Change]) -> list[Problem]:
    if row["is_mine"] or not changes:
        return []
    return [_may_not(row, f"change {what}", row["owner"])]


def _foreign(row: asyncpg.Record, owner: str) -> Problem:
    return _may_not(
        row, f"grant what {quote_identifier(owner)} owns in the schema {quote_identifier(row['name'])}", owner
    )


def _may_not(row: asyncpg.Record, what: str, owner: str) -> Problem:
    user, name = quote_identifier(row["user"]), quote_identifier(owner)
    fix = f"GRANT {name} TO {user}, or name {name} or a superuser in [servers.NAME.admin]"
    return Problem(key=f"user {row['user']}", problem=f"may not {what}, which belongs to {name}", fix=fix)
