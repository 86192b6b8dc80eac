-- Where is what tenants must not touch? In the keeper's schema, once per database. Comes after keeper_role.sql.
GRANT tenantproxy_keeper TO CURRENT_USER;              -- only needed when not superuser; revoked below
CREATE SCHEMA IF NOT EXISTS tenantproxy AUTHORIZATION tenantproxy_keeper;
DO $$ BEGIN                                            -- the registry's table may have been here first, in a schema that this user owns
  IF EXISTS (SELECT FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
             WHERE n.nspname = 'tenantproxy' AND r.rolname = current_user) THEN
    ALTER SCHEMA tenantproxy OWNER TO tenantproxy_keeper;
  END IF;
END $$;
SET LOCAL ROLE tenantproxy_keeper;
REVOKE ALL ON SCHEMA tenantproxy FROM PUBLIC;
GRANT USAGE ON SCHEMA tenantproxy TO PUBLIC;           -- migrations must be able to name the functions in policies
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
