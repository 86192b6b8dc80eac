-- Which settings of this server leak, or hand to tenants what is the server's? $1: JSON; roles that tenants' SQL runs as.
WITH given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'roles')) AS roles
), logged AS MATERIALIZED (
  SELECT concat_ws(', ', CASE WHEN current_setting('log_statement') <> 'none' THEN 'log_statement is ' || current_setting('log_statement') END,
    CASE WHEN current_setting('log_min_duration_statement') <> '-1' THEN 'log_min_duration_statement is '
      || current_setting('log_min_duration_statement') END,
    CASE WHEN current_setting('log_min_duration_sample') <> '-1' AND current_setting('log_statement_sample_rate')::float8 > 0
      THEN 'log_min_duration_sample is ' || current_setting('log_min_duration_sample') END,
    CASE WHEN current_setting('log_transaction_sample_rate')::float8 > 0
      THEN 'log_transaction_sample_rate is ' || current_setting('log_transaction_sample_rate') END) AS by
)
SELECT 'TPD032' AS code, '' AS schema, 'max_prepared_transactions' AS object, setting AS detail,
  ARRAY['ALTER SYSTEM SET max_prepared_transactions = 0'] AS sql
FROM pg_settings WHERE name = 'max_prepared_transactions' AND setting <> '0'
UNION ALL
SELECT 'TPD033', '', 'log_parameter_max_length = ' || current_setting('log_parameter_max_length'), by,
  ARRAY['ALTER SYSTEM SET log_parameter_max_length = 0', 'SELECT pg_reload_conf()']
FROM logged WHERE by <> '' AND current_setting('log_parameter_max_length') <> '0'
UNION ALL
SELECT 'TPD033', '', 'log_parameter_max_length_on_error = ' || current_setting('log_parameter_max_length_on_error'), 'with each error',
  ARRAY['ALTER SYSTEM SET log_parameter_max_length_on_error = 0', 'SELECT pg_reload_conf()']
WHERE current_setting('log_parameter_max_length_on_error') <> '0'
UNION ALL
SELECT 'TPD034', '', x.who, format('%s the parameter %s%s', x.privilege_type, x.parname, CASE WHEN x.is_grantable THEN ', and grant it' ELSE '' END),
  ARRAY[CASE WHEN x.who = 'tenantproxy_keeper'
    THEN format('REVOKE GRANT OPTION FOR %s ON PARAMETER %s FROM tenantproxy_keeper', x.privilege_type, x.parname)
    ELSE format('REVOKE %s ON PARAMETER %s FROM %s', x.privilege_type, x.parname, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(x.who) END) END]
FROM (
  SELECT p.parname, a.grantee, a.privilege_type, a.is_grantable, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS who
  FROM pg_parameter_acl p, aclexplode(p.paracl) a) x, given g
WHERE x.grantee = 0 OR x.who = ANY (g.roles)
  -- 10 is the superuser that initdb made, to whom each parameter belongs
  OR x.parname = 'backtrace_functions' AND x.grantee <> 10 AND (x.who <> 'tenantproxy_keeper' OR x.is_grantable)
UNION ALL
SELECT 'TPD036', '', concat_ws(' in ', coalesce('the role ' || r.rolname, 'all roles'), coalesce('the database ' || d.datname, 'all databases')), '',
  ARRAY[CASE WHEN r.oid IS NULL THEN format('ALTER DATABASE %I', d.datname)
    ELSE format('ALTER ROLE %I', r.rolname) || CASE WHEN d.oid IS NULL THEN '' ELSE format(' IN DATABASE %I', d.datname) END END || ' RESET backtrace_functions']
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
WHERE c ~ '^backtrace_functions=' AND split_part(c, '=', 2) COLLATE "C" BETWEEN '0' AND ':'
UNION ALL
SELECT 'TPD036', '', 'the whole server', '', ARRAY['ALTER SYSTEM RESET backtrace_functions', 'SELECT pg_reload_conf()']
FROM pg_settings WHERE name = 'backtrace_functions' AND source = 'configuration file' AND reset_val COLLATE "C" BETWEEN '0' AND ':'
