-- Which databases does the server have, and what may PUBLIC do there?
SELECT d.datname::text AS name, pg_get_userbyid(d.datdba)::text AS owner, pg_has_role(d.datdba, 'USAGE') AS is_mine,
  ARRAY(SELECT a.privilege_type FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0 ORDER BY 1) AS public_rights
FROM pg_database d WHERE d.datallowconn ORDER BY 1
