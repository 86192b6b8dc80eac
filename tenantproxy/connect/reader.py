"""What could a role write that is to read only? One look at the catalogue. Pure.

The wall is what the role lacks: a read-only transaction is left by any client that says `SET TRANSACTION READ WRITE`.
What is granted is read from the lists of grants, what is owned from the list of owners, for every role that the session
can become. What no grant can take away is in docs/isolation.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from tenantproxy.errors import Exposure, IsolationError
from tenantproxy.model import PoolKey

__all__ = ["READER", "exposures", "reader_argument", "refusal"]

# Roles: who the session can become, itself first of all; 0 is PUBLIC. Nothing is granted where a list is NULL, but to
# the owner; for databases and functions PUBLIC has rights then. pg_settings: its UPDATE is a SET.
READER: Final = """
WITH given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'functions')) AS functions
), roles AS MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name, r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb
    OR r.rolreplication OR r.rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program',
      'pg_read_server_files', 'pg_signal_backend', 'pg_create_subscription', 'pg_maintain',
      'pg_checkpoint') AS is_mighty
  FROM pg_roles r WHERE pg_has_role(r.oid, 'MEMBER')
), grantees AS MATERIALIZED (
  SELECT r.oid FROM roles r UNION ALL SELECT 0::oid
), schemas AS MATERIALIZED (
  SELECT n.oid, n.nspname::text AS name FROM pg_namespace n
  WHERE n.nspname <> 'tenantproxy' AND EXISTS (SELECT FROM roles r WHERE has_schema_privilege(r.oid, n.oid, 'USAGE'))
), open_functions AS MATERIALIZED (
  SELECT p.oid, p.oid::regprocedure::text AS name, p.prosecdef,
    p.pronamespace = 'pg_catalog'::regnamespace AS is_own, l.lanpltrusted OR l.lanname IN ('internal', 'c') AS is_held
  FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
  WHERE EXISTS (SELECT FROM roles r WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE'))
    AND (p.prosecdef OR NOT (l.lanpltrusted OR l.lanname IN ('internal', 'c'))
      OR p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN (
        'lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_export', 'pg_file_write',
        'pg_promote', 'pg_reload_conf', 'pg_switch_wal', 'pg_create_restore_point'))
), found (what, why, fix) AS (
  SELECT 'role ' || r.name, 'it may create roles or databases, replicate, write all data, or pass every grant',
    CASE WHEN r.name = current_user
      THEN format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION', r.name)
      ELSE format('REVOKE %I FROM %I', r.name, current_user) END
  FROM roles r WHERE r.is_mighty
  UNION ALL
  SELECT pg_describe_object(d.classid, d.objid, 0), 'it owns this', 'ALTER ... OWNER TO another role'
  FROM pg_shdepend d JOIN roles r ON r.oid = d.refobjid
  WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
    AND d.dbid IN (0, (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))
  UNION ALL
  SELECT CASE c.relkind WHEN 'S' THEN 'sequence ' ELSE 'table ' END || c.oid::regclass::text,
    'it may ' || string_agg(DISTINCT a.privilege_type, ', '),
    format('REVOKE %s ON %s FROM %s', string_agg(DISTINCT a.privilege_type, ', '), c.oid::regclass,
      string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END, ', '))
  FROM pg_class c, aclexplode(c.relacl) a
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND a.grantee IN (SELECT g.oid FROM grantees g)
    AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN', 'USAGE')
    AND c.oid <> 'pg_settings'::regclass
  GROUP BY c.oid, c.relkind
  UNION ALL
  SELECT 'column ' || t.attrelid::regclass::text || '.' || quote_ident(t.attname), 'it may ' || a.privilege_type,
    format('REVOKE %s (%I) ON %s FROM %s', a.privilege_type, t.attname, t.attrelid::regclass,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END)
  FROM pg_attribute t, aclexplode(t.attacl) a
  WHERE a.grantee IN (SELECT g.oid FROM grantees g) AND a.privilege_type IN ('INSERT', 'UPDATE', 'REFERENCES')
  UNION ALL
  SELECT 'schema ' || quote_ident(n.nspname), 'it may CREATE in it',
    format('REVOKE CREATE ON SCHEMA %I FROM %s', n.nspname,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END)
  FROM pg_namespace n, aclexplode(n.nspacl) a
  WHERE n.nspname !~ '^pg_temp_' AND a.grantee IN (SELECT g.oid FROM grantees g) AND a.privilege_type = 'CREATE'
  UNION ALL
  SELECT 'database ' || quote_ident(b.datname), 'it may CREATE in it',
    format('REVOKE CREATE ON DATABASE %I FROM %s', b.datname,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END)
  FROM pg_database b, aclexplode(coalesce(b.datacl, acldefault('d', b.datdba))) a
  WHERE b.datname = current_database() AND a.grantee IN (SELECT g.oid FROM grantees g) AND a.privilege_type = 'CREATE'
  UNION ALL
  SELECT 'large object ' || l.oid, 'it may UPDATE it', format('REVOKE UPDATE ON LARGE OBJECT %s FROM %s', l.oid,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END)
  FROM pg_largeobject_metadata l, aclexplode(l.lomacl) a
  WHERE a.grantee IN (SELECT g.oid FROM grantees g) AND a.privilege_type = 'UPDATE'
  UNION ALL
  SELECT 'large objects', 'lo_compat_privileges is on, so that no grant holds', 'SET lo_compat_privileges = off'
  WHERE current_setting('lo_compat_privileges') = 'on'
  UNION ALL
  SELECT 'foreign server ' || quote_ident(s.srvname), 'it may reach another database by it',
    format('REVOKE USAGE ON FOREIGN SERVER %I FROM %s', s.srvname,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END)
  FROM pg_foreign_server s, aclexplode(s.srvacl) a WHERE a.grantee IN (SELECT g.oid FROM grantees g)
  UNION ALL
  SELECT 'foreign data wrapper ' || quote_ident(w.fdwname), 'it may make foreign servers',
    format('REVOKE USAGE ON FOREIGN DATA WRAPPER %I FROM %s', w.fdwname,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END)
  FROM pg_foreign_data_wrapper w, aclexplode(w.fdwacl) a WHERE a.grantee IN (SELECT g.oid FROM grantees g)
  UNION ALL
  SELECT 'parameter ' || p.parname, 'it may ALTER SYSTEM',
    format('REVOKE ALTER SYSTEM ON PARAMETER %s FROM %s', p.parname,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END)
  FROM pg_parameter_acl p, aclexplode(p.paracl) a
  WHERE a.grantee IN (SELECT g.oid FROM grantees g) AND a.privilege_type = 'ALTER SYSTEM'
  UNION ALL
  SELECT 'function ' || f.name,
    CASE WHEN f.prosecdef THEN 'it runs with the rights of its owner' WHEN f.is_own THEN 'it writes'
      ELSE 'its language is not held to the rights of a role' END,
    format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC, %I', f.name, current_user)
  FROM open_functions f, given g WHERE f.name <> ALL (g.functions)
)
SELECT json_build_object('role', current_user::text, 'count', count(*), 'found', coalesce((
  SELECT json_agg(json_build_array(f.what, f.why, f.fix)) FROM (SELECT * FROM found ORDER BY 1, 2 LIMIT 50) f), '[]')
)::text FROM found
"""
"""$1: JSON, `functions` (as `regprocedure` writes them) that it may call. One row with one text, JSON.

Asked with search_path = pg_catalog alone, so that what it names has its schema before it.
"""

_TOLD: Final = 10


def reader_argument(functions: Iterable[str]) -> str:
    """The parameter of READER."""
    return json.dumps({"functions": list(functions)})


def exposures(answer: str) -> list[Exposure]:
    """What it could write, by the answer of READER: at most the first fifty."""
    return [Exposure(what=what, why=why, fix=fix) for what, why, fix in json.loads(answer)["found"]]


def refusal(answer: str, key: PoolKey) -> IsolationError | None:
    """Why connections of this pool must not serve what is to be read only; None: its role can write nothing."""
    found = exposures(answer)
    if not found:
        return None
    given = json.loads(answer)
    told = "; ".join(f"{each.what} ({each.why})" for each in found[:_TOLD])
    more = f"; and {given['count'] - _TOLD} more" if given["count"] > _TOLD else ""
    fixes = list(dict.fromkeys(each.fix for each in found))
    shown = "; ".join(fixes[:3]) + ("; ..." if len(fixes) > 3 else "")
    return IsolationError(
        "the role that is to read only could write",
        detail=f"server {key.server!r}, database {key.database!r}, role {given['role']!r}: {told}{more}",
        hint=f"run `tenantproxy install --roles`, or: {shown}; functions that are meant are named in"
        " [tenant_roles] reader_functions",
    )
