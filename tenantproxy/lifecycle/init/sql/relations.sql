-- Which tables, views and sequences are there, whose are they, and what are views made of? Not those of extensions.
SELECT n.nspname::text AS schema, c.relname::text AS name, format('%I.%I', n.nspname, c.relname) AS label, c.relkind::text AS kind,
  pg_get_userbyid(c.relowner)::text AS owner, c.reltuples::float8 AS rows,
  has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS is_readable,
  (SELECT format('%I.%I', pn.nspname, p.relname) FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
     JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid LIMIT 1) AS parent,
  c.relkind = 'v' AND EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o
    WHERE o.option_name = 'security_invoker' AND o.option_value::boolean) AS is_invoker,
  c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) AS is_owned,
  CASE WHEN c.relkind IN ('v', 'm') THEN ARRAY(SELECT DISTINCT format('%I.%I', rn.nspname, r.relname)
    FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class r ON r.oid = d.refobjid JOIN pg_namespace rn ON rn.oid = r.relnamespace
    WHERE w.ev_class = c.oid AND r.oid <> c.oid ORDER BY 1) ELSE '{}' END AS reads,
  ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END
    FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner ORDER BY 1) AS grantees,
  ARRAY(SELECT a.privilege_type FROM aclexplode(c.relacl) a WHERE a.grantee = 0 ORDER BY 1) AS public_rights,
  CASE WHEN c.relkind IN ('r', 'p') THEN (SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, NULL), quote_ident(a.attname)) ORDER BY a.attnum)::text
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
