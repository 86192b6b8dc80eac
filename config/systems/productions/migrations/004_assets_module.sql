-- Equipment: what there is, who has it, and what is wrong with it.

CREATE TABLE asset_categories (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    parent_id uuid,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, parent_id) REFERENCES asset_categories (workspace_id, id) ON DELETE SET NULL (parent_id),
    UNIQUE (workspace_id, name)
);
CALL platform.entity('asset_categories');

CREATE TABLE assets (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    category_id uuid,
    name text NOT NULL,
    description text,
    serial_number text,
    status text NOT NULL DEFAULT 'available' CHECK (status IN ('available', 'in_use', 'maintenance', 'retired')),
    purchase_price numeric(14, 2) NOT NULL DEFAULT 0,
    purchased_on date,
    location_id uuid,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, category_id) REFERENCES asset_categories (workspace_id, id)
        ON DELETE SET NULL (category_id)
);

ALTER TABLE bookings
    ADD FOREIGN KEY (workspace_id, asset_id) REFERENCES assets (workspace_id, id) ON DELETE SET NULL (asset_id);
CALL platform.entity('assets');

CREATE UNIQUE INDEX idx_assets_serial ON assets (workspace_id, serial_number) WHERE serial_number IS NOT NULL;
CREATE INDEX idx_assets_search ON assets USING GIN (to_tsvector('english', name || ' ' || COALESCE(description, '')));

CREATE TABLE asset_kits (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('asset_kits');

CREATE TABLE asset_kit_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    kit_id uuid NOT NULL,
    asset_id uuid NOT NULL,
    quantity integer NOT NULL DEFAULT 1 CHECK (quantity > 0),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, kit_id) REFERENCES asset_kits (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, asset_id) REFERENCES assets (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, kit_id, asset_id)
);
CALL platform.entity('asset_kit_items');

CREATE TABLE asset_transactions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    asset_id uuid NOT NULL,
    production_id uuid,
    kind text NOT NULL CHECK (kind IN ('check_out', 'check_in')),
    happened_at timestamptz NOT NULL DEFAULT now(),
    user_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    note text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, asset_id) REFERENCES assets (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id)
);
CALL platform.entity('asset_transactions');

CREATE INDEX idx_asset_transactions_times ON asset_transactions (workspace_id, asset_id, happened_at);

CREATE TABLE asset_reservations (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    asset_id uuid NOT NULL,
    production_id uuid,
    starts_on date NOT NULL,
    ends_on date NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, asset_id) REFERENCES assets (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    CHECK (ends_on >= starts_on)
);
CALL platform.entity('asset_reservations');

CREATE TABLE asset_maintenance (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    asset_id uuid NOT NULL,
    kind text NOT NULL DEFAULT 'inspection',
    status text NOT NULL DEFAULT 'todo' CHECK (status IN ('todo', 'in_progress', 'done')),
    due_on date,
    completed_on date,
    cost numeric(14, 2) NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, asset_id) REFERENCES assets (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('asset_maintenance');

CREATE TABLE production_advances (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid NOT NULL,
    title text NOT NULL,
    needed_on date,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('production_advances');

CREATE TABLE production_advance_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    advance_id uuid NOT NULL,
    asset_id uuid,
    description text NOT NULL,
    quantity integer NOT NULL DEFAULT 1 CHECK (quantity > 0),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, advance_id) REFERENCES production_advances (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, asset_id) REFERENCES assets (workspace_id, id) ON DELETE SET NULL (asset_id)
);
CALL platform.entity('production_advance_items');

-- On how many days of a time an asset was out: from each check-out to the next check-in, or to the end.
CREATE FUNCTION calculate_asset_utilization(p_asset uuid, p_from date, p_to date)
    RETURNS TABLE (days_out bigint, days bigint, utilization numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH turns AS (
        SELECT kind, happened_at::date AS begins, lead(happened_at::date) OVER (ORDER BY happened_at) AS ends
        FROM asset_transactions WHERE asset_id = p_asset
    ), counted AS (
        SELECT d.day, EXISTS (SELECT FROM turns AS t WHERE t.kind = 'check_out' AND d.day >= t.begins
                              AND d.day < coalesce(t.ends, 'infinity')) AS is_out
        FROM (SELECT g::date AS day FROM generate_series(p_from, p_to, interval '1 day') AS g) AS d
    )
    SELECT count(*) FILTER (WHERE is_out), count(*), round(100.0 * count(*) FILTER (WHERE is_out) / count(*), 1)
    FROM counted WHERE EXISTS (SELECT FROM assets AS a WHERE a.id = p_asset)
$$;
