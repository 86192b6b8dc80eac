-- The registry's own table. PostgreSQL 14+. Running it again is the upgrade: each step runs once, in order.
-- Installed by a superuser or the owner of the main database; the reader gets USAGE on the schema and SELECT on the table.
BEGIN;
SET LOCAL lock_timeout = '5s';                     -- waiting for a lock would hold up all queries behind us
SELECT pg_catalog.pg_advisory_xact_lock(8320914577001);

DO $$
BEGIN
  IF pg_catalog.to_regnamespace('tenantproxy') IS NULL THEN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tenantproxy_keeper'
               AND pg_catalog.pg_has_role(oid, 'MEMBER')) THEN
      CREATE SCHEMA tenantproxy AUTHORIZATION tenantproxy_keeper;  -- the signed context wants to own it
    ELSE
      CREATE SCHEMA tenantproxy;
    END IF;
    REVOKE ALL ON SCHEMA tenantproxy FROM PUBLIC;
  END IF;
END $$;

CREATE TABLE IF NOT EXISTS tenantproxy.registry_version (
  version    int PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT pg_catalog.now());
REVOKE ALL ON tenantproxy.registry_version FROM PUBLIC;

DO $$
BEGIN
  IF EXISTS (SELECT FROM tenantproxy.registry_version WHERE version > 1) THEN
    RAISE EXCEPTION 'tenantproxy: this registry was installed by a newer release'
      USING ERRCODE = '55000', HINT = 'install with that release, or a newer one';
  END IF;

  IF NOT EXISTS (SELECT FROM tenantproxy.registry_version WHERE version = 1) THEN
    CREATE TABLE tenantproxy.tenants (
      id              text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
      isolation       text NOT NULL CHECK (isolation IN ('database', 'schema', 'row')),
      server          text CHECK (server <> ''),   -- NULL: the main database's server
      database        text NOT NULL CHECK (pg_catalog.octet_length(database) BETWEEN 1 AND 63),
      schema          text CHECK (pg_catalog.octet_length(schema) BETWEEN 1 AND 63
                                  AND schema !~ '^pg_' AND schema <> 'information_schema'),
      role            text CHECK (pg_catalog.octet_length(role) BETWEEN 1 AND 63),
      status          text NOT NULL DEFAULT 'active'
                      CHECK (status IN ('provisioning', 'active', 'paused', 'suspended', 'inactive', 'deleting')),
      tier            text NOT NULL DEFAULT 'standard' CHECK (tier <> ''),
      region          text CHECK (region <> ''),
      epoch           bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
      max_size        int CHECK (max_size > 0),
      max_waiting     int CHECK (max_waiting >= 0),
      acquire_timeout double precision CHECK (acquire_timeout > 0 AND acquire_timeout < 2147483),
      settings        jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(settings) = 'object'),
      systems         jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(systems) = 'object'),
      created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
      updated_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
      CONSTRAINT tenants_schema_of_its_kind CHECK (
        (isolation <> 'schema' OR schema IS NOT NULL) AND (isolation <> 'database' OR schema IS NULL)));
    -- Names that a person, or a tool that folds case, could mistake for each other.
    CREATE UNIQUE INDEX tenants_id_any_case ON tenantproxy.tenants (pg_catalog.lower(id));
    CREATE UNIQUE INDEX tenants_database_any_case
      ON tenantproxy.tenants (COALESCE(server, ''), pg_catalog.lower(database)) WHERE isolation = 'database';
    CREATE UNIQUE INDEX tenants_schema_any_case
      ON tenantproxy.tenants (COALESCE(server, ''), pg_catalog.lower(database), pg_catalog.lower(schema))
      WHERE isolation = 'schema';
    REVOKE ALL ON tenantproxy.tenants FROM PUBLIC;

    CREATE FUNCTION tenantproxy.tenant_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
    BEGIN
      IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('tenantproxy_tenants', '');
        RETURN NULL;
      END IF;
      IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('tenantproxy_tenants', OLD.id);
      END IF;
      IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('tenantproxy_tenants', NEW.id);
      END IF;
      RETURN NULL;
    END $f$;
    CREATE FUNCTION tenantproxy.tenant_touched() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
    BEGIN
      NEW.updated_at := now();
      RETURN NEW;
    END $f$;
    REVOKE ALL ON FUNCTION tenantproxy.tenant_changed(), tenantproxy.tenant_touched() FROM PUBLIC;
    CREATE TRIGGER tenant_touched BEFORE UPDATE ON tenantproxy.tenants
      FOR EACH ROW EXECUTE FUNCTION tenantproxy.tenant_touched();
    CREATE TRIGGER tenant_changed AFTER INSERT OR UPDATE OR DELETE ON tenantproxy.tenants
      FOR EACH ROW EXECUTE FUNCTION tenantproxy.tenant_changed();
    CREATE TRIGGER tenants_emptied AFTER TRUNCATE ON tenantproxy.tenants
      FOR EACH STATEMENT EXECUTE FUNCTION tenantproxy.tenant_changed();

    INSERT INTO tenantproxy.registry_version (version) VALUES (1);
  END IF;
END $$;
COMMIT;
