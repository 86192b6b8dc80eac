CREATE SCHEMA user_extensions;

CREATE TABLE user_extensions.extensions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    tenant_id varchar(50) NOT NULL,
    extension_type varchar(50) NOT NULL,
    name varchar(100) NOT NULL,
    description text,
    enabled boolean NOT NULL DEFAULT TRUE,
    priority integer NOT NULL DEFAULT 0,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(),
    metadata jsonb,
    -- To users (id), and of the same tenant: else a key would tell whether another tenant has such a user.
    FOREIGN KEY (tenant_id, user_id) REFERENCES user_data.users (tenant_id, id)
);
CREATE INDEX ON user_extensions.extensions (user_id);
CREATE INDEX ON user_extensions.extensions (tenant_id);
CREATE INDEX ON user_extensions.extensions (extension_type);
CREATE INDEX ON user_extensions.extensions (enabled);
CREATE TRIGGER extensions_updated_at BEFORE UPDATE ON user_extensions.extensions
    FOR EACH ROW EXECUTE FUNCTION user_data.set_updated_at();

CREATE TABLE user_extensions.extension_metrics (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    extension_id uuid NOT NULL REFERENCES user_extensions.extensions (id),
    usage_count integer NOT NULL DEFAULT 0,
    last_used_at timestamp,
    feedback_score float,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX ON user_extensions.extension_metrics (extension_id);
CREATE TRIGGER extension_metrics_updated_at BEFORE UPDATE ON user_extensions.extension_metrics
    FOR EACH ROW EXECUTE FUNCTION user_data.set_updated_at();

CREATE TABLE user_extensions.practicality_factors (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    extension_id uuid NOT NULL REFERENCES user_extensions.extensions (id),
    factor_name varchar(100) NOT NULL,
    factor_value integer NOT NULL CHECK (factor_value BETWEEN 1 AND 10),
    factor_weight float NOT NULL DEFAULT 1.0,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(),
    UNIQUE (extension_id, factor_name)
);
CREATE INDEX ON user_extensions.practicality_factors (extension_id);
CREATE TRIGGER practicality_factors_updated_at BEFORE UPDATE ON user_extensions.practicality_factors
    FOR EACH ROW EXECUTE FUNCTION user_data.set_updated_at();

ALTER TABLE user_extensions.extensions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation_policy
    ON user_extensions.extensions
    USING (tenant_id = current_setting('app.current_tenant_id', TRUE));

-- Views run as who asks: what the policies hide stays hidden.
CREATE VIEW user_extensions.extension_practicality WITH (security_invoker = true) AS
SELECT e.id AS extension_id, e.user_id, e.name,
       sum(f.factor_value * f.factor_weight) / nullif(sum(f.factor_weight), 0) AS practicality
FROM user_extensions.extensions AS e JOIN user_extensions.practicality_factors AS f ON f.extension_id = e.id
GROUP BY e.id, e.user_id, e.name;

-- tenant_XXX_extensions, for one tenant; run as who owns the schema, when the tenant comes.
CREATE FUNCTION user_extensions.make_tenant_view(tenant varchar) RETURNS text LANGUAGE plpgsql
    SET search_path = pg_catalog AS $$
DECLARE
    view text := format('%s_extensions', replace(tenant, '-', '_'));
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE VIEW user_extensions.%I WITH (security_invoker = true) AS'
        ' SELECT * FROM user_extensions.extensions WHERE tenant_id = %L', view, tenant);
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'prismicx_users') THEN
        EXECUTE format('GRANT SELECT ON user_extensions.%I TO prismicx_users', view);
    END IF;
    RETURN view;
END $$;
REVOKE ALL ON FUNCTION user_extensions.make_tenant_view(varchar) FROM PUBLIC;
