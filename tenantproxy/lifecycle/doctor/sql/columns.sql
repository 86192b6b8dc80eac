-- Which columns name a tenant here? Those that our policies compare with the session's tenant; neither one by which rows find whose they are through
-- another table, nor one that is by itself the key of its table, as in the table of tenants: in others a column of that name says something else.
SELECT DISTINCT a.attname::text FROM pg_policy p JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = p.polrelid AND d.refobjsubid > 0 JOIN pg_attribute a ON a.attrelid = p.polrelid AND a.attnum = d.refobjsubid
WHERE p.polname IN ('tenantproxy', 'tenantproxy_signed', 'tenantproxy_setting')
  AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid = 'pg_policy'::regclass AND o.objid = p.oid AND o.refclassid = 'pg_class'::regclass
    AND o.refobjid <> p.polrelid AND o.refobjsubid > 0)
  AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = p.polrelid AND i.indisprimary AND i.indnkeyatts = 1 AND i.indkey[0] = d.refobjsubid)
ORDER BY 1
