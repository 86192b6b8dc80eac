-- Custom roles and their permissions, tokens, webhooks, what was done, and profiles.

-- What can be granted: the same for all organizations, to be read alone.
CREATE TABLE permissions (
    code text PRIMARY KEY,
    module text NOT NULL,
    description text NOT NULL
);
INSERT INTO permissions
    SELECT module || '.' || verb, module, verb || ' ' || module
    FROM unnest(ARRAY['productions', 'events', 'people', 'assets', 'locations', 'files', 'companies', 'community',
                      'marketplace', 'finance', 'procurement', 'reports', 'admin']) AS module,
         unnest(ARRAY['read', 'write', 'delete', 'approve']) AS verb;
GRANT SELECT ON permissions TO productions_app;

CREATE TABLE roles (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    base_role text NOT NULL DEFAULT 'member' CHECK (base_role IN ('owner', 'admin', 'member', 'guest')),
    color text,
    is_system boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name),
    UNIQUE (organization_id, id)
);
CALL platform.organizational('roles');

CREATE TABLE role_permissions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    role_id uuid NOT NULL,
    permission_code text NOT NULL REFERENCES permissions (code),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, role_id, permission_code),
    FOREIGN KEY (organization_id, role_id) REFERENCES roles (organization_id, id) ON DELETE CASCADE
);
CALL platform.organizational('role_permissions');

CREATE TABLE member_roles (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    role_id uuid NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, user_id, role_id),
    FOREIGN KEY (organization_id, role_id) REFERENCES roles (organization_id, id) ON DELETE CASCADE,
    FOREIGN KEY (organization_id, user_id) REFERENCES organization_members (organization_id, user_id)
       
        ON DELETE CASCADE
);
CALL platform.organizational('member_roles');

-- Who is asked in. The person of the address is found, or made; its password is taken where no request asks,
-- for then the platform founds an organization: who is invited sets one by a link in a mail.
CREATE TABLE invitations (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    email text NOT NULL,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member', 'guest')),
    user_id uuid REFERENCES auth.users (id) ON DELETE CASCADE,
    password_hash text CHECK (password_hash IS NULL),
    token_hash bytea,
    expires_at timestamptz NOT NULL DEFAULT now() + interval '7 days',
    accepted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, email)
);
CREATE FUNCTION find_person() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.user_id IS NULL THEN
        INSERT INTO auth.users (email, encrypted_password)
            VALUES (NEW.email, CASE WHEN tenantproxy.context('app.user_id') IS NULL
                                    THEN coalesce(NEW.password_hash, '!') ELSE '!' END)
            ON CONFLICT DO NOTHING;
        SELECT u.id INTO NEW.user_id FROM auth.users AS u
            WHERE lower(normalize(u.email) COLLATE "C") = lower(normalize(NEW.email) COLLATE "C");
    END IF;
    NEW.password_hash := NULL;  -- it is kept with the person alone
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION find_person() FROM PUBLIC;
ALTER FUNCTION find_person() OWNER TO productions_accounts;
CREATE TRIGGER find_person BEFORE INSERT ON invitations FOR EACH ROW EXECUTE FUNCTION find_person();
CALL platform.organizational('invitations');

CREATE TABLE api_tokens (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    name text NOT NULL,
    token_hash bytea NOT NULL,
    scopes text[] NOT NULL DEFAULT '{}',
    last_used_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('api_tokens');

CREATE INDEX idx_api_tokens_good ON api_tokens (workspace_id, token_hash) WHERE revoked_at IS NULL;

CREATE TABLE webhooks (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    url text NOT NULL CHECK (url ~ '^https://'),
    events text[] NOT NULL DEFAULT '{}',
    secret_hash bytea,
    is_active boolean NOT NULL DEFAULT true,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('webhooks');

CREATE TABLE webhook_deliveries (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    webhook_id uuid NOT NULL,
    event text NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    response_status integer,
    delivered_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, webhook_id) REFERENCES webhooks (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('webhook_deliveries');

CREATE INDEX idx_webhook_deliveries_due ON webhook_deliveries (workspace_id, created_at) WHERE delivered_at IS NULL;

CREATE TABLE audit_logs (
    id uuid NOT NULL DEFAULT uuid_generate_v4(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    workspace_id uuid,
    user_id uuid,
    action text NOT NULL,
    table_name text NOT NULL,
    record_id uuid,
    old_values jsonb,
    new_values jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, id, created_at)
) PARTITION BY RANGE (created_at);
CALL platform.partitions('audit_logs', 2025, 2027);
CALL platform.organizational('audit_logs');

CREATE INDEX idx_audit_logs_record ON audit_logs (organization_id, table_name, record_id);

-- Written by requests and changed by none: what was done to members, roles and tokens.
CREATE POLICY kept ON audit_logs AS RESTRICTIVE FOR UPDATE USING (false);
CREATE POLICY added ON audit_logs AS RESTRICTIVE FOR DELETE USING ((SELECT tenantproxy.context('app.user_id')) IS NULL);
DROP POLICY may_insert ON audit_logs;
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := CASE TG_OP WHEN 'INSERT' THEN NULL ELSE to_jsonb(OLD) - 'token_hash' - 'secret_hash' END;
    now_is jsonb := CASE TG_OP WHEN 'DELETE' THEN NULL ELSE to_jsonb(NEW) - 'token_hash' - 'secret_hash' END;
BEGIN
    IF session_user = 'productions_app' AND tenantproxy.context('app.user_id') IS NOT NULL THEN
        INSERT INTO audit_logs (organization_id, workspace_id, user_id, action, table_name, record_id, old_values, new_values)
            VALUES ((SELECT tenantproxy.bound_tenant())::uuid, (coalesce(now_is, before) ->> 'workspace_id')::uuid,
                    current_user_id(), lower(TG_OP), TG_TABLE_NAME, (coalesce(now_is, before) ->> 'id')::uuid, before, now_is);
    END IF;
    RETURN NULL;
END
$$;
DO $$
DECLARE
    each regclass;
BEGIN
    FOREACH each IN ARRAY ARRAY['organization_members', 'roles', 'role_permissions', 'member_roles', 'invitations',
                                'api_tokens', 'webhooks']::regclass[] LOOP
        EXECUTE format('CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION audit()', each);
    END LOOP;
END
$$;

-- What a member may do: all of it as owner or administrator, else by the permissions of the roles that were given.
CREATE FUNCTION has_permission(p_code text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    SELECT tenantproxy.context('app.member_role') IN ('owner', 'admin') OR EXISTS (
        SELECT FROM member_roles AS m JOIN role_permissions AS p ON p.role_id = m.role_id
        WHERE m.user_id = current_user_id() AND p.permission_code = p_code)
$$;

CREATE TABLE user_profiles (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    display_name text NOT NULL,
    headline text,
    bio text,
    avatar_url text,
    timezone text NOT NULL DEFAULT 'UTC',
    preferences jsonb NOT NULL DEFAULT '{}',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, user_id)
);
CALL platform.entity('user_profiles');

CREATE TABLE endorsements (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    skill text NOT NULL,
    endorsed_by uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, user_id, skill, endorsed_by),
    CHECK (user_id <> endorsed_by)
);
CALL platform.entity('endorsements');

CREATE TABLE work_history (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    employer text NOT NULL,
    title text NOT NULL,
    starts_on date NOT NULL,
    ends_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('work_history');
