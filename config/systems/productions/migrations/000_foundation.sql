-- Organizations, workspaces, members and their accounts; what each table gets; the universal systems; dashboards.
-- Entity tables have id, workspace_id, created_by, created_at, updated_at and custom_fields.

CREATE SCHEMA auth;
CREATE TABLE auth.users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL,
    encrypted_password text NOT NULL DEFAULT '!',
    email_confirmed_at timestamptz,
    last_sign_in_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email_key ON auth.users (lower(normalize(email) COLLATE "C"));

-- Roles that no one logs in as. Functions of theirs run with just these rights: one reads accounts, one the totals.
DO $$
BEGIN
    IF to_regrole('productions_accounts') IS NULL THEN CREATE ROLE productions_accounts NOLOGIN; END IF;
    IF to_regrole('productions_reports') IS NULL THEN CREATE ROLE productions_reports NOLOGIN; END IF;
END
$$;
GRANT USAGE ON SCHEMA tenantproxy TO productions_accounts, productions_reports;
GRANT EXECUTE ON FUNCTION tenantproxy.bound_tenant() TO productions_accounts, productions_reports;
GRANT EXECUTE ON FUNCTION tenantproxy.context(text) TO productions_accounts, productions_reports;
GRANT USAGE ON SCHEMA auth, public TO productions_accounts;
GRANT USAGE ON SCHEMA public TO productions_reports;

-- uuid-ossp's function, where that extension is not built: PostgreSQL has had its own for long.
CREATE FUNCTION uuid_generate_v4() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN gen_random_uuid();

-- Who asks, and as what: as the router signed it. NULL: no request, but work on the whole organization.
CREATE FUNCTION current_user_id() RETURNS uuid LANGUAGE sql STABLE
    RETURN nullif(tenantproxy.context('app.user_id'), '')::uuid;

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

-- What each table gets, in one place. Its tenant policy comes from `tenantproxy migrate`: by organization_id, or for
-- entity tables through their workspace. These restrict it: the workspace of the request, and what its role may do.
CREATE SCHEMA platform;
CREATE PROCEDURE platform.roles(what regclass, writers text) LANGUAGE plpgsql AS $$
DECLARE
    role text := $q$(SELECT tenantproxy.context('app.member_role'))$q$;
    may  text := format('%s IS NULL OR %s IN (%s)', role, role, writers);
    all_of text := format($q$%s IS NULL OR %s IN ('owner', 'admin')$q$, role, role);
BEGIN
    EXECUTE format('CREATE POLICY may_insert ON %s AS RESTRICTIVE FOR INSERT WITH CHECK (%s)', what, may);
    EXECUTE format('CREATE POLICY may_update ON %s AS RESTRICTIVE FOR UPDATE USING (%s)', what, may);
    EXECUTE format('CREATE POLICY may_delete ON %s AS RESTRICTIVE FOR DELETE USING (%s)', what, all_of);
END
$$;

-- An index for each foreign key that has none, in its own order, and the trigger of updated_at.
CREATE PROCEDURE platform.indexes(what regclass) LANGUAGE plpgsql AS $$
DECLARE
    key record;
BEGIN
    FOR key IN SELECT k.conkey, string_agg(quote_ident(a.attname), ', ' ORDER BY o.n) AS columns
               FROM pg_constraint k, unnest(k.conkey) WITH ORDINALITY o (attnum, n), pg_attribute a
               WHERE k.conrelid = what AND k.contype = 'f' AND a.attrelid = k.conrelid AND a.attnum = o.attnum
               GROUP BY k.oid, k.conkey
    LOOP
        IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = what AND i.indpred IS NULL
                       AND (i.indkey::int2[])[0:cardinality(key.conkey) - 1] = key.conkey) THEN
            EXECUTE format('CREATE INDEX ON %s (%s)', what, key.columns);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = what AND attname = 'updated_at') THEN
        EXECUTE format('CREATE TRIGGER set_updated_at BEFORE UPDATE ON %s'
                       ' FOR EACH ROW EXECUTE FUNCTION set_updated_at()', what);
    END IF;
END
$$;

CREATE PROCEDURE platform.entity(what regclass) LANGUAGE plpgsql AS $$
DECLARE
    chosen text := $q$(SELECT tenantproxy.context('app.current_workspace_id'))$q$;
    name   text := (SELECT relname FROM pg_class WHERE oid = what);
BEGIN
    EXECUTE format('CREATE POLICY in_workspace ON %s AS RESTRICTIVE USING (%s IS NULL OR workspace_id ='
                   ' (SELECT nullif(tenantproxy.context(''app.current_workspace_id''), '''')::uuid))', what, chosen);
    CALL platform.roles(what, $q$'owner', 'admin', 'member'$q$);
    EXECUTE format('CREATE INDEX %I ON %s USING GIN (custom_fields)',
                   CASE name WHEN 'productions' THEN 'idx_custom_fields' ELSE 'idx_' || name || '_custom_fields' END, what);
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = what AND attname = 'status') THEN
        EXECUTE format('CREATE INDEX %I ON %s (workspace_id, status)', 'idx_' || name || '_status', what);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = what AND a.attname = 'workspace_id'
                   WHERE i.indrelid = what AND i.indkey[0] = a.attnum AND i.indpred IS NULL) THEN
        EXECUTE format('CREATE INDEX %I ON %s (workspace_id)', 'idx_' || name || '_workspace', what);
    END IF;
    CALL platform.indexes(what);
END
$$;

CREATE PROCEDURE platform.organizational(what regclass) LANGUAGE plpgsql AS $$
BEGIN
    CALL platform.roles(what, $q$'owner', 'admin'$q$);
    CALL platform.indexes(what);
END
$$;

-- One partition for each year, and one for all other moments. No role of tenants' SQL has a right on any of them.
CREATE PROCEDURE platform.partitions(what regclass, first_year int, last_year int) LANGUAGE plpgsql AS $$
DECLARE
    name text := (SELECT relname FROM pg_class WHERE oid = what);
BEGIN
    FOR year IN first_year..last_year LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                       name || '_' || year, what, make_date(year, 1, 1), make_date(year + 1, 1, 1));
    END LOOP;
    EXECUTE format('CREATE TABLE %I PARTITION OF %s DEFAULT', name || '_other', what);
END
$$;

CREATE TABLE organizations (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    name text NOT NULL,
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    plan text NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'pro', 'business', 'enterprise')),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'archived')),
    stripe_customer_id text,
    stripe_subscription_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- The tenants themselves: their own id says whose the row is.
ALTER TABLE organizations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenantproxy ON organizations
    USING (id = (SELECT tenantproxy.bound_tenant())::uuid)
    WITH CHECK (id = (SELECT tenantproxy.bound_tenant())::uuid);
CALL platform.organizational('organizations');
GRANT SELECT, INSERT, UPDATE, DELETE ON organizations TO productions_app;

CREATE TABLE workspaces (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    name text NOT NULL,
    slug text NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, slug),
    UNIQUE (organization_id, id)
);
CALL platform.organizational('workspaces');

CREATE INDEX idx_workspaces_organization ON workspaces (organization_id);

CREATE TABLE organization_members (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member', 'guest')),
    status text NOT NULL DEFAULT 'invited' CHECK (status IN ('invited', 'active', 'suspended')),
    joined_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, user_id)
);
CALL platform.organizational('organization_members');

CREATE INDEX idx_organization_members_active ON organization_members (organization_id, role) WHERE status = 'active';

-- Who is let in, and as what. Owners and administrators invite, and each accepts for themselves alone: else SQL of one
-- organization could make any person its member, and read with `accounts` what they log in with everywhere.
DROP POLICY may_update ON organization_members;
CREATE FUNCTION guard_member() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    asks     uuid;
    may_rule boolean;
BEGIN
    IF session_user <> 'productions_app' OR tenantproxy.context('app.user_id') IS NULL THEN
        RETURN NEW;  -- no request: founded, restored
    END IF;
    asks := current_user_id();
    may_rule := tenantproxy.context('app.member_role') IN ('owner', 'admin');
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'invited' THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'a member is invited first';
        END IF;
    ELSIF (NEW.id, NEW.user_id) IS DISTINCT FROM (OLD.id, OLD.user_id)
       OR NEW.status = 'active' AND OLD.status <> 'active' AND NEW.user_id IS DISTINCT FROM asks THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'an invitation is accepted by who was invited';
    ELSIF may_rule IS NOT TRUE AND (NEW.role, NEW.organization_id) IS DISTINCT FROM (OLD.role, OLD.organization_id)
       OR may_rule IS NOT TRUE AND NEW.user_id IS DISTINCT FROM asks THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'only an owner or administrator changes a member';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_member BEFORE INSERT OR UPDATE ON organization_members
    FOR EACH ROW EXECUTE FUNCTION guard_member();

-- The accounts of the active members of the organization that asks: for its logins, and for no other one's. Without an
-- argument there is nothing by which its caller could ask for more.
GRANT SELECT (id, email, encrypted_password), INSERT (email, encrypted_password) ON auth.users TO productions_accounts;
GRANT SELECT ON organization_members TO productions_accounts;
CREATE FUNCTION accounts()
    RETURNS TABLE (user_id text, email text, password_hash text, role text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id::text, u.email, u.encrypted_password, m.role
    FROM auth.users AS u JOIN public.organization_members AS m ON m.user_id = u.id
    WHERE m.status = 'active' AND m.organization_id = (SELECT tenantproxy.bound_tenant())::uuid
$$;
REVOKE ALL ON FUNCTION accounts() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION accounts() TO productions_app;
ALTER FUNCTION accounts() OWNER TO productions_accounts;

CREATE TABLE custom_fields (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    module_name text NOT NULL,
    field_name text NOT NULL,
    field_type text NOT NULL DEFAULT 'text',
    options jsonb NOT NULL DEFAULT '{}',
    is_required boolean NOT NULL DEFAULT false,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    CHECK (field_type IN ('text', 'number', 'date', 'select', 'multiselect', 'boolean', 'url', 'user')),
    UNIQUE (workspace_id, module_name, field_name)
);
CALL platform.entity('custom_fields');

-- The 18 ways to look at a module: the same for all, to be read alone.
CREATE TABLE view_types (
    name text PRIMARY KEY,
    position smallint NOT NULL UNIQUE
);
INSERT INTO view_types
    SELECT name, n FROM unnest(ARRAY['list', 'board', 'table', 'calendar', 'timeline', 'gantt', 'map', 'gallery', 'form',
        'chart', 'workload', 'activity', 'mind_map', 'box', 'embed', 'chat', 'doc', 'dashboard']) WITH ORDINALITY t (name, n);
GRANT SELECT ON view_types TO productions_app;

CREATE TABLE views (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    module_name text NOT NULL,
    view_type text NOT NULL DEFAULT 'list' REFERENCES view_types (name),
    name text NOT NULL,
    filters jsonb NOT NULL DEFAULT '{}',
    sort_by jsonb NOT NULL DEFAULT '[]',
    group_by text,
    config jsonb NOT NULL DEFAULT '{}',
    is_shared boolean NOT NULL DEFAULT false,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('views');

CREATE TABLE activities (
    id uuid NOT NULL DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    action text NOT NULL,
    entity_type text NOT NULL,
    entity_id uuid NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CALL platform.partitions('activities', 2025, 2027);
CALL platform.entity('activities');

CREATE INDEX idx_activities_entity ON activities (workspace_id, entity_type, entity_id);

CREATE TABLE comments (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    entity_type text NOT NULL,
    entity_id uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    content text NOT NULL CHECK (content <> ''),
    parent_comment_id uuid,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, parent_comment_id) REFERENCES comments (workspace_id, id)
        ON DELETE SET NULL (parent_comment_id)
);
CALL platform.entity('comments');

CREATE INDEX idx_comments_entity ON comments (workspace_id, entity_type, entity_id);

CREATE TABLE notifications (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    type text NOT NULL,
    title text NOT NULL,
    message text,
    entity_type text,
    entity_id uuid,
    read boolean NOT NULL DEFAULT false,
    action_url text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('notifications');

CREATE INDEX idx_notifications_unread ON notifications (workspace_id, user_id) WHERE NOT read;

CREATE TABLE user_presence (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    location text,
    status text NOT NULL DEFAULT 'online' CHECK (status IN ('online', 'away', 'busy')),
    last_seen timestamptz NOT NULL DEFAULT now(),
    metadata jsonb NOT NULL DEFAULT '{}',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, user_id)
);
CALL platform.entity('user_presence');

-- What requests do to an entity is told in the feed; the table's name is the type. Who logs in as another role than that
-- of requests is an operator, and bound to no organization.
CREATE FUNCTION log_activity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user = 'productions_app' AND tenantproxy.context('app.user_id') IS NOT NULL THEN
        INSERT INTO activities (workspace_id, user_id, action, entity_type, entity_id)
            VALUES (NEW.workspace_id, current_user_id(), CASE TG_OP WHEN 'INSERT' THEN 'created' ELSE 'updated' END,
                    TG_TABLE_NAME, NEW.id);
    END IF;
    RETURN NULL;
END
$$;

CREATE TABLE dashboards (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    name text NOT NULL,
    layout jsonb NOT NULL DEFAULT '{}',
    is_default boolean NOT NULL DEFAULT false,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('dashboards');

CREATE TABLE dashboard_widgets (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    dashboard_id uuid NOT NULL,
    widget_type text NOT NULL,
    title text,
    position integer NOT NULL DEFAULT 0,
    config jsonb NOT NULL DEFAULT '{}',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, dashboard_id) REFERENCES dashboards (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('dashboard_widgets');
