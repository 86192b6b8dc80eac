-- Who may look into, or create in, the schemas of this database? $1: JSON; roles that tenants' SQL runs as here, row_roles, tenants (schema, role
-- of each schema tenant; reads: it is to read only), whole (the role whose own database it is, or null), strangers (roles of tenants that have nothing to do here).
WITH given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'roles')) AS roles,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'strangers')) AS strangers,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'row_roles')) AS row_roles, $1::text::json ->> 'whole' AS whole
), tenant AS MATERIALIZED (
  SELECT t.value ->> 'schema' AS schema, t.value ->> 'role' AS role, (t.value ->> 'reads')::boolean AS reads
  FROM json_array_elements($1::text::json -> 'tenants') t
), space AS MATERIALIZED (
  SELECT n.oid, n.nspname::text AS name, n.nspowner, n.nspacl, pg_get_userbyid(n.nspowner)::text AS owner
  FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy')
), acl AS MATERIALIZED (
  SELECT s.name, s.owner, s.nspowner, a.privilege_type, a.grantor, a.grantee, a.is_grantable, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS written,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS who
  FROM space s, aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) a WHERE a.grantee <> s.nspowner
)
SELECT 'TPD061' AS code, a.name AS schema, a.name AS object, a.who AS detail, ARRAY[format('REVOKE CREATE ON SCHEMA %I FROM %s', a.name, a.written)] AS sql
FROM acl a, given g WHERE a.privilege_type = 'CREATE' AND (a.grantee = 0 OR a.who = ANY (g.roles))
UNION ALL
-- Who owns it may have let others go on granting: they stand behind what is taken away first.
SELECT DISTINCT 'TPD062', a.name, a.name, a.who, ARRAY(SELECT DISTINCT format('REVOKE GRANT OPTION FOR ALL ON SCHEMA %I FROM %s CASCADE', o.name, o.written)
    FROM acl o WHERE o.name = a.name AND o.grantor = o.nspowner AND o.is_grantable AND a.grantor <> a.nspowner)
  || format('REVOKE ALL ON SCHEMA %I FROM %s%s', a.name, a.written, CASE WHEN a.is_grantable THEN ' CASCADE' ELSE '' END)
FROM acl a, given g WHERE a.privilege_type = 'USAGE' AND (EXISTS (SELECT FROM tenant t WHERE t.schema = a.name)
    OR shobj_description(a.nspowner, 'pg_authid') LIKE 'tenantproxy: made for %' AND NOT a.owner = ANY (g.row_roles))
  AND NOT EXISTS (SELECT FROM tenant t WHERE t.schema = a.name AND t.role = a.who)
  AND (a.grantee = 0 OR a.who = ANY (g.roles) OR a.who = ANY (g.strangers))
UNION ALL
SELECT 'TPD063', t.schema, t.schema, CASE WHEN s.oid IS NULL THEN 'does not exist, and is registered' ELSE format('is closed to its role %s', t.role) END,
  CASE WHEN s.oid IS NULL THEN ARRAY[format('CREATE SCHEMA %I', t.schema)] ELSE '{}' END || format('GRANT USAGE ON SCHEMA %I TO %I', t.schema, t.role)
FROM tenant t JOIN pg_roles r ON r.rolname = t.role LEFT JOIN space s ON s.name = t.schema
WHERE s.oid IS NULL OR NOT has_schema_privilege(r.oid, s.oid, 'USAGE')
UNION ALL
SELECT 'TPD065', coalesce(n.nspname::text, ''), pg_get_userbyid(f.defaclrole), x.who, ARRAY[format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE ALL ON %s FROM %s',
    pg_get_userbyid(f.defaclrole), CASE WHEN n.oid IS NULL THEN '' ELSE format(' IN SCHEMA %I', n.nspname) END, CASE f.defaclobjtype WHEN 'r' THEN 'TABLES' ELSE 'SEQUENCES' END,
    CASE x.who WHEN 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(x.who) END)]
FROM pg_default_acl f LEFT JOIN pg_namespace n ON n.oid = f.defaclnamespace, given g, LATERAL (
  SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS who, a.grantee FROM aclexplode(f.defaclacl) a) x
WHERE f.defaclobjtype IN ('r', 'S') AND (x.grantee = 0 OR x.who = ANY (g.strangers)
  OR x.who = ANY (g.roles) AND EXISTS (SELECT FROM tenant t WHERE t.schema = n.nspname)
    AND NOT EXISTS (SELECT FROM tenant t WHERE t.schema = n.nspname AND t.role = x.who))
UNION ALL
-- pg_dump reads each sequence that its user owns or sees
SELECT 'TPD068', n.nspname, format('%I.%I', n.nspname, c.relname), o.role, ARRAY[format('GRANT USAGE, SELECT, UPDATE ON SEQUENCE %I.%I TO %I', n.nspname, c.relname, o.role)]
FROM (SELECT t.schema, t.role FROM tenant t WHERE NOT t.reads UNION SELECT s.name, g.whole FROM space s, given g WHERE g.whole IS NOT NULL) o
JOIN pg_roles r ON r.rolname = o.role JOIN pg_namespace n ON n.nspname = o.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'S'
WHERE has_schema_privilege(r.oid, n.oid, 'USAGE') AND NOT has_sequence_privilege(r.oid, c.oid, 'SELECT')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
