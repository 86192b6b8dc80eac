-- Everything of a database that a file of init may change.
SELECT 'relation', c.oid::regclass::text, pg_get_userbyid(c.relowner)::text, c.relrowsecurity::text, c.relforcerowsecurity::text,
  c.reloptions::text, (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM aclexplode(coalesce(c.relacl, acldefault(
    CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) x WHERE pg_get_userbyid(x.grantee) <> 'postgres')
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I')
UNION ALL SELECT 'policy', polrelid::regclass::text, polname, '', '', '', '' FROM pg_policy
UNION ALL SELECT 'default', adrelid::regclass::text, adnum::text, pg_get_expr(adbin, adrelid), '', '', '' FROM pg_attrdef
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', '' FROM pg_constraint
  WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'routine', p.oid::regprocedure::text, pg_get_userbyid(p.proowner), p.proconfig::text,
  (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x), '', ''
FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace OR p.proname IN ('lo_get', 'pg_terminate_backend', 'query_to_xml')
UNION ALL SELECT 'schema', nspname, (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM aclexplode(nspacl) x), '', '', '', ''
FROM pg_namespace WHERE nspname !~ '^pg_'
UNION ALL SELECT 'database', datname, (SELECT string_agg(x::text, ' ' ORDER BY x::text)
  FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) x), '', '', '', ''
FROM pg_database WHERE datname IN (current_database(), 'postgres', 'template1')
UNION ALL SELECT 'role', rolname, rolcanlogin::text, rolbypassrls::text, '', '', '' FROM pg_roles
UNION ALL SELECT 'member', roleid::regrole::text, member::regrole::text, '', '', '', '' FROM pg_auth_members
ORDER BY 1, 2, 3, 4
