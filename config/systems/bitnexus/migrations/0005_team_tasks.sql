CREATE TABLE team_tasks (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    title text NOT NULL,
    description text NOT NULL DEFAULT '',
    assigned_to uuid,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'in_progress', 'done')),
    priority text NOT NULL DEFAULT 'normal' CHECK (priority IN ('low', 'normal', 'high')),
    due_on date,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, assigned_to) REFERENCES users (tenant_id, id)
);
CREATE TRIGGER team_tasks_updated_at BEFORE UPDATE ON team_tasks FOR EACH ROW EXECUTE FUNCTION set_updated_at();
