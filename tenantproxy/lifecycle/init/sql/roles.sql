-- Which roles are there, and can the user that looks act for them? From 16 on, a membership may be one in name alone.
SELECT r.rolname::text AS name, r.rolcanlogin AS logs_in, r.rolsuper AS is_super, r.rolbypassrls AS bypasses, r.rolinherit AS inherits,
  pg_has_role(r.oid, 'USAGE') AS is_mine,
  me.rolsuper OR pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
    OR me.rolcreaterole AND NOT r.rolsuper AND current_setting('server_version_num')::int < 160000 AS may_join
FROM pg_roles r, pg_roles me WHERE me.rolname = current_user AND r.rolname !~ '^pg_' ORDER BY 1
