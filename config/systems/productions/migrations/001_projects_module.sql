-- Productions, their tasks, milestones, compliance and safety.

CREATE TABLE productions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    production_type text,
    status text NOT NULL DEFAULT 'planning' CHECK (status IN ('planning', 'active', 'completed', 'archived')),
    priority text NOT NULL DEFAULT 'medium' CHECK (priority IN ('low', 'medium', 'high', 'critical')),
    start_date date,
    end_date date,
    budget numeric(14, 2) NOT NULL DEFAULT 0,
    currency char(3) NOT NULL DEFAULT 'USD',
    progress smallint NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    manager_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    location_id uuid,
    client_id uuid,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    CHECK (end_date >= start_date)
);
CALL platform.entity('productions');

CREATE INDEX idx_productions_workspace ON productions (workspace_id);
CREATE INDEX idx_productions_search ON productions
    USING GIN (to_tsvector('english', name || ' ' || COALESCE(description, '')));
CREATE TRIGGER log_activity AFTER INSERT OR UPDATE ON productions FOR EACH ROW EXECUTE FUNCTION log_activity();

CREATE TABLE production_phases (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid NOT NULL,
    name text NOT NULL,
    position integer NOT NULL DEFAULT 0,
    starts_on date,
    ends_on date,
    status text NOT NULL DEFAULT 'planning' CHECK (status IN ('planning', 'active', 'completed', 'archived')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('production_phases');

CREATE TABLE production_members (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    responsibility text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, production_id, user_id)
);
CALL platform.entity('production_members');

CREATE TABLE project_tasks (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid,
    phase_id uuid,
    parent_task_id uuid,
    title text NOT NULL,
    description text,
    status text NOT NULL DEFAULT 'todo' CHECK (status IN ('todo', 'in_progress', 'done')),
    priority text NOT NULL DEFAULT 'medium',
    assignee_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    start_date date,
    due_date date,
    duration_days integer NOT NULL DEFAULT 1 CHECK (duration_days >= 0),
    estimated_hours numeric(8, 2) NOT NULL DEFAULT 0,
    completed_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    FOREIGN KEY (workspace_id, phase_id) REFERENCES production_phases (workspace_id, id) ON DELETE SET NULL (phase_id),
    FOREIGN KEY (workspace_id, parent_task_id) REFERENCES project_tasks (workspace_id, id)
        ON DELETE SET NULL (parent_task_id)
);
CALL platform.entity('project_tasks');

CREATE INDEX idx_project_tasks_open ON project_tasks (workspace_id, assignee_id, due_date) WHERE status <> 'done';
CREATE INDEX idx_project_tasks_search ON project_tasks
    USING GIN (to_tsvector('english', title || ' ' || COALESCE(description, '')));
CREATE TRIGGER log_activity AFTER INSERT OR UPDATE ON project_tasks FOR EACH ROW EXECUTE FUNCTION log_activity();

CREATE TABLE task_dependencies (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    task_id uuid NOT NULL,
    depends_on_id uuid NOT NULL,
    kind text NOT NULL DEFAULT 'finish_to_start',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, task_id) REFERENCES project_tasks (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, depends_on_id) REFERENCES project_tasks (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, task_id, depends_on_id),
    CHECK (task_id <> depends_on_id)
);
CALL platform.entity('task_dependencies');

CREATE TABLE task_checklists (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    task_id uuid NOT NULL,
    item text NOT NULL,
    position integer NOT NULL DEFAULT 0,
    is_done boolean NOT NULL DEFAULT false,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, task_id) REFERENCES project_tasks (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('task_checklists');

CREATE TABLE project_milestones (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid NOT NULL,
    name text NOT NULL,
    due_date date,
    completed_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('project_milestones');

CREATE TABLE project_compliance (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid,
    name text NOT NULL,
    kind text NOT NULL DEFAULT 'permit' CHECK (kind IN ('license', 'permit', 'certification', 'insurance')),
    authority text,
    reference text,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    issued_on date,
    expires_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id)
);
CALL platform.entity('project_compliance');

CREATE INDEX idx_project_compliance_expiry ON project_compliance (workspace_id, expires_on) WHERE status <> 'denied';

CREATE TABLE project_safety (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid NOT NULL,
    title text NOT NULL,
    kind text NOT NULL DEFAULT 'risk' CHECK (kind IN ('risk', 'plan', 'briefing')),
    likelihood smallint NOT NULL DEFAULT 1 CHECK (likelihood BETWEEN 1 AND 5),
    severity smallint NOT NULL DEFAULT 1 CHECK (severity BETWEEN 1 AND 5),
    mitigation text,
    resolved_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('project_safety');

-- Health of a production, 0 to 100: what is late, what is spent, and which risks are open.
CREATE FUNCTION get_production_health(p_production uuid, p_on date DEFAULT current_date)
    RETURNS TABLE (score int, tasks_total bigint, tasks_done bigint, tasks_overdue bigint, open_risks bigint)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH tasks AS (
        SELECT count(*) AS total, count(*) FILTER (WHERE status = 'done') AS done,
               count(*) FILTER (WHERE status <> 'done' AND due_date < p_on) AS overdue
        FROM project_tasks WHERE production_id = p_production
    ), risks AS (
        SELECT count(*) AS open FROM project_safety
        WHERE production_id = p_production AND kind = 'risk' AND resolved_at IS NULL AND likelihood * severity >= 9
    )
    SELECT greatest(0, 100 - 40 * t.overdue / greatest(t.total, 1) - 10 * r.open)::int, t.total, t.done, t.overdue, r.open
    FROM tasks AS t, risks AS r, productions AS p WHERE p.id = p_production
$$;

-- The critical path, in days from the beginning: a task is critical when the longest way through it is the longest of all.
CREATE FUNCTION get_production_timeline(p_production uuid)
    RETURNS TABLE (task_id uuid, title text, earliest_start int, earliest_finish int, is_critical boolean)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH RECURSIVE ahead (id, starts) AS (
        SELECT id, 0 FROM project_tasks WHERE production_id = p_production
        UNION
        SELECT d.task_id, a.starts + t.duration_days
        FROM ahead AS a JOIN project_tasks AS t ON t.id = a.id JOIN task_dependencies AS d ON d.depends_on_id = a.id
        WHERE a.starts < 36500
    ), behind (id, rest) AS (
        SELECT id, duration_days FROM project_tasks WHERE production_id = p_production
        UNION
        SELECT d.depends_on_id, b.rest + t.duration_days
        FROM behind AS b JOIN task_dependencies AS d ON d.task_id = b.id JOIN project_tasks AS t ON t.id = d.depends_on_id
        WHERE b.rest < 36500
    ), spans AS (
        SELECT t.id, t.title, t.duration_days, (SELECT max(a.starts) FROM ahead AS a WHERE a.id = t.id) AS starts,
               (SELECT max(b.rest) FROM behind AS b WHERE b.id = t.id) AS rest
        FROM project_tasks AS t WHERE t.production_id = p_production
    )
    SELECT id, title, starts, starts + duration_days, starts + rest = (SELECT max(s.starts + s.rest) FROM spans AS s)
    FROM spans ORDER BY starts, title
$$;

CREATE FUNCTION get_user_workload(p_user uuid, p_from date, p_to date)
    RETURNS TABLE (open_tasks bigint, planned_hours numeric, capacity_hours numeric, load_percent numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH days AS (
        SELECT count(*) FILTER (WHERE extract(isodow FROM d) < 6) * 8.0 AS hours
        FROM generate_series(p_from, p_to, interval '1 day') AS d
    ), tasks AS (
        SELECT count(*) AS open, coalesce(sum(estimated_hours), 0) AS hours FROM project_tasks
        WHERE assignee_id = p_user AND status <> 'done' AND due_date BETWEEN p_from AND p_to
    )
    SELECT t.open, t.hours, round(d.hours, 2), round(100 * t.hours / nullif(d.hours, 0), 1) FROM tasks AS t, days AS d
$$;
