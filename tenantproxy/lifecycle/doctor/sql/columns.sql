-- Which columns name a tenant here? Those that our policies compare with the session's tenant.
SELECT DISTINCT a.attname::text FROM pg_policy p JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = p.polrelid AND d.refobjsubid > 0 JOIN pg_attribute a ON a.attrelid = p.polrelid AND a.attnum = d.refobjsubid
WHERE p.polname IN ('tenantproxy', 'tenantproxy_signed', 'tenantproxy_setting') ORDER BY 1
