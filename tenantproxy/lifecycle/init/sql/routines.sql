-- Which functions and procedures are there, and whose? Not those of extensions.
SELECT p.oid::regprocedure::text AS name, n.nspname::text AS schema, pg_get_userbyid(p.proowner)::text AS owner, p.prosecdef AS is_definer,
  EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=') AS is_fixed,
  EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0) AS is_public,
  p.prorettype = 'trigger'::regtype AS is_trigger
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
ORDER BY 1
