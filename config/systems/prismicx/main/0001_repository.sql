-- The repository of management systems: which there are, in which versions, and which a tenant has.
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;

CREATE TABLE management_systems (
    system_id varchar(50) PRIMARY KEY,
    name varchar(100) NOT NULL,
    description text,
    type varchar(50) NOT NULL,
    vendor varchar(100) NOT NULL,
    status varchar(20) NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(),
    metadata jsonb
);
CREATE INDEX ON management_systems (type);
CREATE INDEX ON management_systems (vendor);
CREATE INDEX ON management_systems (status);
CREATE TRIGGER management_systems_updated_at BEFORE UPDATE ON management_systems
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE system_versions (
    version_id varchar(50) PRIMARY KEY,
    system_id varchar(50) NOT NULL REFERENCES management_systems (system_id),
    version varchar(20) NOT NULL,
    release_notes text,
    schema_version integer NOT NULL,
    is_latest boolean NOT NULL,
    release_date timestamp NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(),
    dependencies jsonb,
    compatibility jsonb
);
CREATE INDEX ON system_versions (system_id);
CREATE INDEX ON system_versions (system_id, is_latest);
CREATE INDEX ON system_versions (schema_version);

CREATE TABLE tenant_systems (
    tenant_id varchar(50) NOT NULL,
    system_id varchar(50) NOT NULL REFERENCES management_systems (system_id),
    version_id varchar(50) NOT NULL REFERENCES system_versions (version_id),
    status varchar(20) NOT NULL,
    installed_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(),
    configurations jsonb,
    features_enabled jsonb,
    error_message text,
    PRIMARY KEY (tenant_id, system_id)
);
CREATE INDEX ON tenant_systems (tenant_id);
CREATE INDEX ON tenant_systems (system_id);
CREATE INDEX ON tenant_systems (status);
CREATE INDEX ON tenant_systems (version_id);
CREATE TRIGGER tenant_systems_updated_at BEFORE UPDATE ON tenant_systems
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE schema_migrations (
    migration_id varchar(50) PRIMARY KEY,
    system_id varchar(50) NOT NULL REFERENCES management_systems (system_id),
    version_from varchar(20) NOT NULL,
    version_to varchar(20) NOT NULL,
    schema_version_from integer NOT NULL,
    schema_version_to integer NOT NULL,
    migration_sql text NOT NULL,
    rollback_sql text,
    description text,
    created_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX ON schema_migrations (system_id);
CREATE INDEX ON schema_migrations (system_id, version_from, version_to);
