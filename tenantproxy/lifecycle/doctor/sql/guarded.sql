-- Which tables have a column that names a tenant, and what does row security say of each? $1: JSON, as for tables.sql.
SELECT DISTINCT ON (c.oid) c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, a.attname::text AS column,
  c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced, pg_get_userbyid(c.relowner)::text AS owner,
  (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive)::int AS policies,
  ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid AND p.polroles <> '{0}'
     AND pg_get_expr(p.polqual, p.polrelid) ~ 'tenantproxy\.(bound|current)_tenant\(\)' ORDER BY p.polname) AS with_roles,
  (SELECT pg_get_expr(f.adbin, f.adrelid) FROM pg_attrdef f WHERE f.adrelid = c.oid AND f.adnum = a.attnum AND NOT EXISTS (
     SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_proc'::regclass)
     AND pg_get_expr(f.adbin, f.adrelid) !~ '^NULL') AS constant,
  EXISTS (SELECT FROM pg_inherits h JOIN pg_attribute p ON p.attrelid = h.inhparent AND p.attname = a.attname WHERE h.inhrelid = c.oid) AS is_part
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped,
  LATERAL (SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'columns')) AS columns,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'outside')) AS outside) g
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy') AND n.nspname <> ALL (g.outside)
  AND a.attname = ANY (g.columns) AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid, array_position(g.columns, a.attname::text)
