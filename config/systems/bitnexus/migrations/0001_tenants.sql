-- Whose all other rows are. A tenant is one row here, known to the registry by its identifier as text.
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE TABLE tenants (
    id uuid GENERATED ALWAYS AS (tenant_id) STORED PRIMARY KEY,  -- so that a tenant can be restored under a new one
    tenant_id uuid NOT NULL UNIQUE,
    name text NOT NULL DEFAULT '',
    plan text NOT NULL DEFAULT 'starter' CHECK (plan IN ('starter', 'team', 'business')),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'closed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER tenants_updated_at BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION set_updated_at();
