CREATE SCHEMA user_data;

CREATE FUNCTION user_data.set_updated_at() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;

CREATE TABLE user_data.users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id varchar(50) NOT NULL,
    username varchar(100) NOT NULL,
    email varchar(255) NOT NULL,
    password_hash varchar(255) NOT NULL,
    first_name varchar(100),
    last_name varchar(100),
    role varchar(50) NOT NULL,
    status varchar(20) NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(),
    last_login_at timestamp,
    metadata jsonb
);
CREATE UNIQUE INDEX ON user_data.users (tenant_id, email);
CREATE UNIQUE INDEX users_tenant_id_id_key ON user_data.users (tenant_id, id);
CREATE INDEX ON user_data.users (tenant_id);
CREATE INDEX ON user_data.users (status);
CREATE TRIGGER users_updated_at BEFORE UPDATE ON user_data.users
    FOR EACH ROW EXECUTE FUNCTION user_data.set_updated_at();

ALTER TABLE user_data.users ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation_policy ON user_data.users
    USING (tenant_id = current_setting('app.current_tenant_id', TRUE));
