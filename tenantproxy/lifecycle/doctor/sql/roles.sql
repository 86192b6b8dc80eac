-- What is wrong with the roles that tenants' SQL runs as, on this server? $1: JSON; roles, protected (roles that none of them may become),
-- names (of databases), pinned (settings that every session pins), allowed (name=value that the operator set), needs (by role, how many connections).
WITH given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'roles')) AS roles,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'protected')) AS protected,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'names')) AS databases,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'pinned')) AS pinned,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'allowed')) AS allowed
), app AS MATERIALIZED (
  SELECT r.* FROM pg_roles r, given g WHERE r.rolname = ANY (g.roles)
), member AS MATERIALIZED (
  SELECT a.rolname AS app, r.oid, r.rolname::text AS name,
    -- by itself, or as what it can become in turn
    (SELECT string_agg(DISTINCT t.rolname::text, ', ') FROM pg_roles t, given g WHERE pg_has_role(r.oid, t.oid, 'MEMBER')
       AND (t.rolsuper OR t.rolbypassrls OR t.rolcreaterole OR t.rolname = ANY (g.protected) OR t.rolname = ANY (g.roles)
         OR t.rolname ~ '^pg_' AND t.oid <> r.oid)) AS becomes
  FROM app a JOIN pg_auth_members m ON m.member = a.oid JOIN pg_roles r ON r.oid = m.roleid
  WHERE NOT a.rolsuper
), own AS (
  SELECT r.oid, r.rolname, r.rolcanlogin OR r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
      OR r.rolbypassrls AND r.rolname = 'tenantproxy_keeper' AS is_mighty
  FROM pg_roles r WHERE r.rolname IN ('tenantproxy_keeper', 'tenantproxy_lookup')
)
SELECT 'TPD011' AS code, '' AS schema, rolname::text AS object, concat_ws(' and ', CASE WHEN rolsuper THEN 'SUPERUSER' END,
    CASE WHEN rolbypassrls THEN 'BYPASSRLS' END) AS detail, ARRAY[format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS', rolname)] AS sql
FROM app WHERE rolsuper OR rolbypassrls
UNION ALL
SELECT 'TPD012', '', rolname, concat_ws(', ', CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
    CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolreplication THEN 'REPLICATION' END),
  ARRAY[format('ALTER ROLE %I NOCREATEROLE NOCREATEDB NOREPLICATION', rolname)]
FROM app WHERE rolcreaterole OR rolcreatedb OR rolreplication
UNION ALL
SELECT CASE WHEN name ~ '^pg_' THEN 'TPD013' WHEN becomes IS NULL THEN 'TPD014' ELSE 'TPD015' END, '', app,
  CASE WHEN name !~ '^pg_' AND becomes IS NOT NULL THEN becomes ELSE name END, ARRAY[format('REVOKE %I FROM %I', name, app)]
FROM member
UNION ALL
SELECT 'TPD016', '', w.name, CASE WHEN r.oid IS NULL THEN 'does not exist, and is registered' ELSE 'cannot log in (NOLOGIN)' END,
  ARRAY[format(CASE WHEN r.oid IS NULL THEN 'CREATE ROLE %I LOGIN NOINHERIT' ELSE 'ALTER ROLE %I LOGIN' END, w.name)]
FROM given g, unnest(g.roles) AS w(name) LEFT JOIN pg_roles r ON r.rolname = w.name WHERE r.oid IS NULL OR NOT r.rolcanlogin
UNION ALL
SELECT 'TPD017', '', rolname, 'may log in, or is mighty', ARRAY[format(CASE rolname WHEN 'tenantproxy_keeper'
    THEN 'ALTER ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION'
    ELSE 'ALTER ROLE %I NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION' END, rolname)]
FROM own WHERE is_mighty
UNION ALL
-- From 16 on, who created a role may grant it (ADMIN) without being able to become it.
SELECT 'TPD017', '', o.rolname, format('has the member %s', u.rolname), ARRAY[format('REVOKE %I FROM %I', o.rolname, u.rolname)]
FROM own o JOIN pg_auth_members m ON m.roleid = o.oid JOIN pg_roles u ON u.oid = m.member
WHERE NOT u.rolsuper AND NOT EXISTS (SELECT FROM app a WHERE a.oid = u.oid)
  AND (coalesce((to_jsonb(m) ->> 'set_option')::boolean, true) OR coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true))
UNION ALL
SELECT 'TPD018', '', a.rolname, split_part(c, '=', 1) || coalesce(' in the database ' || d.datname, ''),
  ARRAY[format('ALTER ROLE %I', a.rolname) || CASE WHEN d.oid IS NULL THEN '' ELSE format(' IN DATABASE %I', d.datname) END
    || ' RESET ' || (SELECT string_agg(quote_ident(part), '.') FROM unnest(string_to_array(split_part(c, '=', 1), '.')) part)]
FROM app a JOIN pg_db_role_setting s ON s.setrole = a.oid LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c, given g
WHERE lower(split_part(c, '=', 1)) <> ALL (g.pinned) AND c <> ALL (g.allowed)
  AND NOT (c ~ '^backtrace_functions=' AND split_part(c, '=', 2) COLLATE "C" BETWEEN '0' AND ':')
  AND (d.oid IS NULL OR d.datname = ANY (g.databases))
UNION ALL
SELECT 'TPD019', '', a.rolname, format('%s, and up to %s connections are opened with it', a.rolconnlimit, n.value),
  ARRAY[format('ALTER ROLE %I CONNECTION LIMIT -1', a.rolname)]
FROM app a JOIN json_each_text($1::text::json -> 'needs') n ON n.key = a.rolname WHERE a.rolconnlimit BETWEEN 0 AND n.value::int - 1
UNION ALL
SELECT 'TPD020', '', rolname, to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'),
  ARRAY[format('ALTER ROLE %I VALID UNTIL %L', rolname, 'infinity')]
FROM app WHERE rolvaliduntil < now() + interval '14 days'
