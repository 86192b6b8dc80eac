-- What the service of systems may: read what there is, and keep which tenant has it. Where its role is already there.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'prismicx_systems') THEN
        GRANT SELECT ON management_systems, system_versions, schema_migrations TO prismicx_systems;
        GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_systems TO prismicx_systems;
    END IF;
END $$;
