-- Who may connect to the databases of tenants, and are there others? $1: JSON; databases: by name, roles (that its tenants' SQL runs as),
-- row_roles, tenant (one that is registered there), need (connections), is_main; known: logins that may be anywhere; marked: our roles; others: databases that are
-- being made or deleted; database_names, role_names: patterns of what tenants' are called.
WITH place AS MATERIALIZED (
  SELECT p.key AS name, ARRAY(SELECT json_array_elements_text(p.value -> 'roles')) AS roles,
    ARRAY(SELECT json_array_elements_text(p.value -> 'row_roles')) AS row_roles,
    p.value ->> 'tenant' AS tenant, (p.value ->> 'need')::int AS need, (p.value ->> 'is_main')::boolean AS is_main
  FROM json_each($1::text::json -> 'databases') p
), given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'known')) AS known,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'marked')) AS marked,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'roles')) AS roles,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'others')) AS others, $1::text::json ->> 'app' AS app,
    $1::text::json ->> 'database_names' AS database_names, $1::text::json ->> 'role_names' AS role_names
), here AS MATERIALIZED (
  SELECT p.*, d.oid, d.datdba, d.datacl, d.datconnlimit FROM place p JOIN pg_database d ON d.datname = p.name
), acl AS MATERIALIZED (
  SELECT h.name, h.roles, h.is_main, h.datdba, a.grantee, a.privilege_type, r.rolname::text AS who, r.rolsuper
  FROM here h, aclexplode(coalesce(h.datacl, acldefault('d', h.datdba))) a LEFT JOIN pg_roles r ON r.oid = a.grantee
  WHERE a.grantee <> h.datdba
)
SELECT 'TPD050' AS code, '' AS schema, h.name AS object, r.rolname::text AS detail, ARRAY[format('GRANT CONNECT ON DATABASE %I TO %I', h.name, r.rolname)] AS sql
FROM here h JOIN pg_roles r ON r.rolname = ANY (h.roles) WHERE NOT has_database_privilege(r.oid, h.oid, 'CONNECT')
UNION ALL
SELECT 'TPD051', '', name, string_agg(privilege_type, ', ' ORDER BY privilege_type), -- those of tenantproxy that PUBLIC alone let in keep what they need
  ARRAY(SELECT format('GRANT CONNECT ON DATABASE %I TO %I', acl.name, r.rolname) FROM pg_roles r, given g
    WHERE NOT r.rolsuper AND (r.rolname = ANY (acl.roles) OR r.rolname = ANY (g.known) OR acl.is_main AND r.rolname = g.app) AND NOT EXISTS (
      SELECT FROM acl a WHERE a.name = acl.name AND a.grantee = r.oid AND a.privilege_type = 'CONNECT') AND r.oid <> acl.datdba ORDER BY r.rolname)
  || format('REVOKE ALL ON DATABASE %I FROM PUBLIC', name)
FROM acl WHERE grantee = 0 GROUP BY name, roles, is_main, datdba
UNION ALL
SELECT 'TPD052', '', who, name, ARRAY[format('REVOKE ALL ON DATABASE %I FROM %I', name, who)]
FROM acl, given g WHERE privilege_type = 'CONNECT' AND grantee <> 0 AND NOT rolsuper AND NOT is_main
  AND who <> ALL (acl.roles) AND who <> ALL (g.known)
UNION ALL
SELECT 'TPD053', '', who, string_agg(privilege_type, ', ' ORDER BY privilege_type),
  ARRAY[format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM %I', name, who)]
FROM acl WHERE who = ANY (roles) AND privilege_type IN ('CREATE', 'TEMPORARY') AND NOT rolsuper GROUP BY name, who
UNION ALL
SELECT 'TPD054', '', h.name, r.rolname, ARRAY[format('ALTER DATABASE %I OWNER TO %I', h.name, current_user),
  format('GRANT CONNECT ON DATABASE %I TO %I', h.name, r.rolname)]
FROM here h JOIN pg_roles r ON r.oid = h.datdba WHERE r.rolname = ANY (h.row_roles) AND NOT r.rolsuper
UNION ALL
SELECT 'TPD055', '', name, format('%s, and its pool may have %s connections', datconnlimit, need),
  ARRAY[format('ALTER DATABASE %I CONNECTION LIMIT -1', name)]
FROM here WHERE datconnlimit BETWEEN 0 AND need - 1
UNION ALL
SELECT 'TPD056', '', p.name, coalesce('the tenant ' || p.tenant, 'the main database'), '{}'
FROM place p WHERE NOT EXISTS (SELECT FROM here h WHERE h.name = p.name)
UNION ALL
SELECT 'TPD057', '', d.datname, CASE WHEN d.datname ~ o.database_names THEN 'is named as those of tenants are'
    ELSE 'the role ' || m.who || ' may connect to it' END, ARRAY[format('DROP DATABASE %I', d.datname)]
FROM given o, pg_database d CROSS JOIN LATERAL (SELECT min(r.rolname::text) AS who FROM aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee, given g
  WHERE a.privilege_type = 'CONNECT' AND r.rolname = ANY (g.marked) AND a.grantee <> d.datdba) m
WHERE NOT d.datistemplate AND d.datname <> 'postgres' AND NOT EXISTS (SELECT FROM place p WHERE p.name = d.datname)
  AND d.datname <> ALL (o.others) AND (d.datname ~ o.database_names OR m.who IS NOT NULL)
UNION ALL
SELECT 'TPD058', '', r.rolname, '', ARRAY[format('DROP ROLE %I', r.rolname)]
FROM pg_roles r, given g WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname ~ g.role_names
  AND r.rolname <> ALL (g.roles) AND r.rolname <> ALL (g.known) AND r.rolname <> ALL (g.marked)
UNION ALL
SELECT 'TPD059', '', h.name, c, ARRAY[format('ALTER DATABASE %I RESET %s', h.name, split_part(c, '=', 1))]
FROM here h JOIN pg_db_role_setting s ON s.setdatabase = h.oid AND s.setrole = 0, unnest(s.setconfig) c
WHERE split_part(c, '=', 1) IN ('role', 'session_preload_libraries', 'session_replication_role', 'transform_null_equals', 'array_nulls',
  'backslash_quote', 'xmloption', 'check_function_bodies', 'lo_compat_privileges', 'default_table_access_method', 'event_triggers',
  'synchronous_commit', 'gin_fuzzy_search_limit', 'track_activities', 'debug_print_parse', 'debug_print_rewritten', 'debug_print_plan')
UNION ALL
SELECT 'TPD060', '', d.datname, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), ARRAY[format('REVOKE ALL ON DATABASE %I FROM PUBLIC', d.datname)]
FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
WHERE d.datname IN ('postgres', 'template1') AND d.datallowconn AND a.grantee = 0 AND NOT EXISTS (SELECT FROM place p WHERE p.name = d.datname)
GROUP BY d.datname
