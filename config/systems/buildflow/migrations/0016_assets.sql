CREATE TABLE assets (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    asset_tag text NOT NULL UNIQUE,
    name text NOT NULL,
    purchase_date date,
    purchase_cost numeric(16, 2) NOT NULL DEFAULT 0 CHECK (purchase_cost >= 0),
    status text NOT NULL DEFAULT 'available' CHECK (status IN ('available', 'assigned', 'maintenance', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE asset_assignments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    asset_id uuid NOT NULL REFERENCES assets (id) ON DELETE CASCADE,
    project_id uuid REFERENCES projects (id),
    user_id uuid REFERENCES users (id) ON DELETE SET NULL,
    assigned_on date NOT NULL DEFAULT current_date,
    returned_on date CHECK (returned_on >= assigned_on)
);
CREATE UNIQUE INDEX asset_assignments_current_key ON asset_assignments (asset_id) WHERE returned_on IS NULL;
