-- Which types are there that no table makes, and whose?
SELECT format('%I.%I', n.nspname, t.typname) AS name, n.nspname::text AS schema, pg_get_userbyid(t.typowner)::text AS owner
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy') AND (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype IN ('e', 'i'))
ORDER BY 1
