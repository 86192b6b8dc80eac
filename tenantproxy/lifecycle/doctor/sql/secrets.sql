-- What only a superuser is shown: how connections and passwords are checked. $1: JSON; roles that tenants' SQL runs as.
SELECT 'TPD035' AS code, '' AS schema, h.line_number::text AS object, format('%s connections to %s as %s%s', h.type, array_to_string(h.database, ', '),
    array_to_string(h.user_name, ', '), coalesce(' from ' || h.address, '')) AS detail, '{}'::text[] AS sql
FROM pg_hba_file_rules h WHERE h.auth_method = 'trust'
UNION ALL
SELECT 'TPD037', '', a.rolname, 'an MD5 hash', '{}'
FROM pg_authid a WHERE a.rolcanlogin AND a.rolpassword ~ '^md5'
  AND a.rolname IN (SELECT json_array_elements_text($1::text::json -> 'roles'))
