-- Which code of this database runs with other rights than its caller's, or reaches out of it? $1: JSON; roles that tenants' SQL runs as here;
-- shared: whether several tenants live here.
WITH given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'roles')) AS roles, ($1::text::json ->> 'shared')::boolean AS shared
), app AS MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name FROM pg_roles r, given g WHERE r.rolname = ANY (g.roles) AND NOT r.rolsuper
), routine AS MATERIALIZED (
  SELECT p.oid, n.nspname::text AS schema, p.oid::regprocedure::text AS name, p.prosecdef, p.proleakproof, p.proowner, p.prokind,
    EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=') AS is_fixed,
    (SELECT string_agg(a.name, ', ' ORDER BY a.name) FROM app a WHERE has_function_privilege(a.oid, p.oid, 'EXECUTE')
       AND has_schema_privilege(a.oid, n.oid, 'USAGE')) AS callers,
    (SELECT string_agg(quote_ident(a.name), ', ' ORDER BY a.name) FROM app a) AS everyone
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'tenantproxy') AND n.nspname !~ '^pg_(toast|temp)'
    AND (p.prosecdef OR p.proleakproof)
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
)
SELECT 'TPD071' AS code, r.schema, r.name AS object, r.callers AS detail, ARRAY[format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC, %s', r.name, r.everyone)] AS sql
FROM routine r, given g WHERE r.prosecdef AND r.is_fixed AND r.callers IS NOT NULL AND g.shared
  AND r.proowner NOT IN (SELECT oid FROM app)
UNION ALL
SELECT 'TPD072', r.schema, r.name, '', ARRAY[format('ALTER ROUTINE %s SET search_path = pg_catalog, pg_temp', r.name)]
  || CASE WHEN r.callers IS NOT NULL AND g.shared THEN ARRAY[format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC, %s', r.name, r.everyone)] ELSE '{}' END
FROM routine r, given g WHERE r.prosecdef AND NOT r.is_fixed AND r.proowner NOT IN (SELECT oid FROM app)
UNION ALL
SELECT 'TPD073', r.schema, r.name, '', ARRAY[format('ALTER FUNCTION %s NOT LEAKPROOF', r.name)]
FROM routine r, given g WHERE r.proleakproof AND g.shared
UNION ALL
SELECT 'TPD074', '', l.lanname, '', ARRAY[coalesce((SELECT format('DROP EXTENSION %I', e.extname) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_language'::regclass AND d.objid = l.oid AND d.deptype = 'e'), format('DROP LANGUAGE %I', l.lanname))]
FROM pg_language l WHERE l.lanispl AND NOT l.lanpltrusted
UNION ALL
SELECT 'TPD075', '', e.extname, '', ARRAY[format('DROP EXTENSION %I', e.extname)]
FROM pg_extension e WHERE e.extname IN ('dblink', 'http', 'pg_net', 'plproxy', 'adminpack', 'pg_cron', 'pg_background', 'xml2', 'lo', 'plsh')
  AND EXISTS (SELECT FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid, app a WHERE d.classid = 'pg_proc'::regclass
    AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' AND has_function_privilege(a.oid, p.oid, 'EXECUTE')
    AND has_schema_privilege(a.oid, p.pronamespace, 'USAGE'))
UNION ALL
SELECT 'TPD076', '', s.srvname, a.name, ARRAY[format('REVOKE ALL ON FOREIGN SERVER %I FROM PUBLIC, %I', s.srvname, a.name)]
FROM pg_foreign_server s, app a WHERE has_server_privilege(a.oid, s.oid, 'USAGE')
UNION ALL
SELECT 'TPD076', '', w.fdwname, a.name, ARRAY[format('REVOKE ALL ON FOREIGN DATA WRAPPER %I FROM PUBLIC, %I', w.fdwname, a.name)]
FROM pg_foreign_data_wrapper w, app a WHERE has_foreign_data_wrapper_privilege(a.oid, w.oid, 'USAGE')
UNION ALL
SELECT 'TPD077', '', p.pubname, '', ARRAY[format('DROP PUBLICATION %I', p.pubname)]
FROM pg_publication p WHERE p.puballtables AND to_regclass('tenantproxy.context_key') IS NOT NULL
UNION ALL
SELECT 'TPD078', n.nspname, p.oid::regprocedure::text, '', ARRAY[format('ALTER FUNCTION %s STABLE', p.oid::regprocedure)]
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, given g
WHERE g.shared AND p.provolatile = 'i' AND p.prokind = 'f' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tenantproxy')
  AND concat(p.prosrc, pg_get_function_sqlbody(p.oid)) ~* '\m(current_setting|bound_tenant|current_tenant|current_user|session_user)\M|\mtenantproxy\s*\.'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'TPD103', 'pg_catalog', c.relname, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END,
  ARRAY[format('REVOKE ALL ON pg_catalog.%I FROM %s', c.relname, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)]
FROM pg_class c, given g, LATERAL (SELECT DISTINCT a.grantee FROM aclexplode(c.relacl) a WHERE a.privilege_type = 'SELECT' AND a.grantee <> c.relowner) x
WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname IN ('pg_statistic', 'pg_statistic_ext_data', 'pg_authid', 'pg_user_mapping', 'pg_subscription')
  AND (x.grantee = 0 AND c.relname <> 'pg_subscription' OR pg_get_userbyid(x.grantee) = ANY (g.roles))
