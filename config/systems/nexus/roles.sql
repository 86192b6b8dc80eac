-- Once, as the admin user, behind the first `tenantproxy install --roles`: what the service may do in this database,
-- and in tables that migrations add. `tenantproxy install --roles` then lets nexus_service_reader read the same.
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO nexus_service', current_database()); END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO nexus_service;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO nexus_service;
