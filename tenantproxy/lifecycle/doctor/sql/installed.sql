-- Is what we installed still ours alone? $1: JSON; row_roles that row tenants' SQL runs as here. Grants to the app role are those of the SQL files.
WITH given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'row_roles')) AS roles
), keeper AS MATERIALIZED (SELECT oid FROM pg_roles WHERE rolname = 'tenantproxy_keeper'
), app AS MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name FROM pg_roles r, given g WHERE r.rolname = ANY (g.roles) AND NOT r.rolsuper
), thing AS MATERIALIZED (
  SELECT 'relation' AS kind, c.oid, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS word, format('tenantproxy.%I', c.relname) AS name, c.relowner AS owner,
    coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl, '{}'::text[] AS expected
  FROM pg_class c WHERE c.relnamespace = to_regnamespace('tenantproxy') AND c.relname IN ('context_key', 'fenced_tenant', 'tenant_binding', 'tenant_mark',
    'session_nonce', 'trusted_mark', 'fleet', 'fleet_key', 'fleet_server', 'fleet_share')
  UNION ALL
  SELECT 'function', p.oid, 'FUNCTION', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)),
    CASE WHEN p.proname IN ('proof_until', 'mark') THEN '{}'::text[] ELSE '{EXECUTE}' END
  FROM pg_proc p WHERE p.pronamespace = to_regnamespace('tenantproxy') AND p.proname IN ('proof_until', 'mark', 'current_tenant', 'bound_tenant', 'proved_tenant',
    'bind', 'enter', 'hello', 'prepared_check', 'trust', 'trust_again', 'challenge', 'check_reference')
)
SELECT 'TPD113' AS code, 'tenantproxy' AS schema, t.name AS object, pg_get_userbyid(t.owner)::text AS detail,
  ARRAY[format('ALTER %s %s OWNER TO tenantproxy_keeper', t.word, t.name)] AS sql
FROM thing t, keeper k WHERE t.owner <> k.oid
UNION ALL
SELECT 'TPD113', 'tenantproxy', 'schema tenantproxy', pg_get_userbyid(n.nspowner), ARRAY['ALTER SCHEMA tenantproxy OWNER TO tenantproxy_keeper']
FROM pg_namespace n, keeper k WHERE n.nspname = 'tenantproxy' AND n.nspowner <> k.oid
UNION ALL
SELECT 'TPD114', 'tenantproxy', t.name, format('%s has %s', x.who, x.rights), ARRAY[format('REVOKE ALL ON %s %s FROM %s', t.word, t.name, x.written)]
FROM thing t, LATERAL (
  SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS who, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS rights,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS written
  FROM aclexplode(t.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
  WHERE a.grantee <> t.owner AND NOT coalesce(r.rolsuper, false) AND a.privilege_type <> ALL (t.expected) GROUP BY a.grantee) x
UNION ALL
SELECT 'TPD119', 'tenantproxy', t.name, a.name, ARRAY[format('GRANT EXECUTE ON FUNCTION %s TO %I', t.name, a.name)]
FROM thing t, app a WHERE t.kind = 'function' AND t.expected <> '{}' AND t.name !~ 'challenge' AND NOT has_function_privilege(a.oid, t.oid, 'EXECUTE')
