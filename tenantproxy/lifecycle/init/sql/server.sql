-- What is this server, and what may the user that looks do here? One row.
SELECT current_setting('server_version_num')::int AS version, current_user::text AS user, current_database()::text AS database,
  me.rolsuper AS is_super, me.rolcreaterole AS creates_roles, me.rolcreatedb AS creates_databases,
  pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') AS owns_database,
  current_setting('max_connections')::int AS max_connections,
  current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
  pg_backend_pid() AS pid, to_regnamespace('tenantproxy') IS NOT NULL AS is_installed,
  coalesce((SELECT min(rolname::text) FROM pg_roles
    WHERE rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'alloydbsuperuser', 'azure_pg_admin', 'neon_superuser', 'supabase_admin', '_doadmin')), '') AS provider,
  ARRAY(SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1) AS extensions
FROM pg_roles me WHERE me.rolname = current_user
