-- Personnel, teams, time, training and recruitment.

CREATE TABLE personnel (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    first_name text NOT NULL,
    last_name text NOT NULL,
    email text,
    phone text,
    position text,
    department text,
    employment_type text NOT NULL DEFAULT 'full_time',
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'on_leave', 'left')),
    hourly_rate numeric(14, 2) NOT NULL DEFAULT 0,
    hired_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('personnel');

CREATE INDEX idx_personnel_search ON personnel
    USING GIN (to_tsvector('english', first_name || ' ' || last_name || ' ' || COALESCE(position, '')));

CREATE TABLE personnel_skills (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    skill text NOT NULL,
    level smallint NOT NULL DEFAULT 1 CHECK (level BETWEEN 1 AND 5),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, personnel_id, skill)
);
CALL platform.entity('personnel_skills');

CREATE TABLE emergency_contacts (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    name text NOT NULL,
    phone text NOT NULL,
    relation text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('emergency_contacts');

CREATE TABLE teams (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    lead_id uuid,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, lead_id) REFERENCES personnel (workspace_id, id) ON DELETE SET NULL (lead_id)
);
CALL platform.entity('teams');

CREATE TABLE team_members (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    team_id uuid NOT NULL,
    personnel_id uuid NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, team_id) REFERENCES teams (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, team_id, personnel_id)
);
CALL platform.entity('team_members');

CREATE TABLE personnel_assignments (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    production_id uuid,
    event_id uuid,
    role text,
    starts_on date NOT NULL,
    ends_on date NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE SET NULL (event_id),
    CHECK (ends_on >= starts_on)
);
CALL platform.entity('personnel_assignments');

CREATE TABLE shifts (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    event_id uuid,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE SET NULL (event_id),
    CHECK (ends_at > starts_at)
);
CALL platform.entity('shifts');

CREATE TABLE leave_requests (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    kind text NOT NULL DEFAULT 'vacation',
    starts_on date NOT NULL,
    ends_on date NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE,
    CHECK (ends_on >= starts_on)
);
CALL platform.entity('leave_requests');

CREATE TABLE time_entries (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    production_id uuid,
    task_id uuid,
    worked_on date NOT NULL,
    hours numeric(5, 2) NOT NULL CHECK (hours > 0 AND hours <= 24),
    is_billable boolean NOT NULL DEFAULT true,
    note text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    FOREIGN KEY (workspace_id, task_id) REFERENCES project_tasks (workspace_id, id) ON DELETE SET NULL (task_id)
);
CALL platform.entity('time_entries');

CREATE INDEX idx_time_entries_days ON time_entries (workspace_id, personnel_id, worked_on);

CREATE TABLE training_records (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    name text NOT NULL,
    provider text,
    completed_on date,
    expires_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('training_records');

CREATE INDEX idx_training_records_expiry ON training_records (workspace_id, expires_on) WHERE expires_on IS NOT NULL;

CREATE TABLE job_openings (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    title text NOT NULL,
    description text,
    department text,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'archived')),
    closes_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('job_openings');

CREATE TABLE job_applicants (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    opening_id uuid NOT NULL,
    name text NOT NULL,
    email text NOT NULL,
    stage text NOT NULL DEFAULT 'applied'
        CHECK (stage IN ('applied', 'screening', 'interview', 'offer', 'hired', 'rejected')),
    resume_url text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, opening_id) REFERENCES job_openings (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('job_applicants');

CREATE FUNCTION get_availability(p_personnel uuid, p_from date, p_to date)
    RETURNS TABLE (day date, is_available boolean, reason text)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    SELECT d.day, b.reason IS NULL, b.reason
    FROM (SELECT g::date AS day FROM generate_series(p_from, p_to, interval '1 day') AS g) AS d
    LEFT JOIN LATERAL (
        SELECT 'leave: ' || l.kind AS reason FROM leave_requests AS l
        WHERE l.personnel_id = p_personnel AND l.status = 'approved' AND d.day BETWEEN l.starts_on AND l.ends_on
        UNION ALL
        SELECT 'assigned: ' || coalesce(a.role, 'work') FROM personnel_assignments AS a
        WHERE a.personnel_id = p_personnel AND d.day BETWEEN a.starts_on AND a.ends_on
        ORDER BY 1 LIMIT 1
    ) AS b ON true
    WHERE EXISTS (SELECT FROM personnel AS p WHERE p.id = p_personnel)
    ORDER BY d.day
$$;

-- Of a week, which begins on Monday: hours above 40.
CREATE FUNCTION calculate_overtime(p_personnel uuid, p_day date)
    RETURNS TABLE (week date, regular_hours numeric, overtime_hours numeric, overtime_pay numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH worked AS (
        SELECT coalesce(sum(hours), 0) AS hours FROM time_entries
        WHERE personnel_id = p_personnel AND worked_on >= date_trunc('week', p_day)
          AND worked_on < date_trunc('week', p_day) + interval '7 days'
    )
    SELECT date_trunc('week', p_day)::date, least(w.hours, 40), greatest(w.hours - 40, 0),
           round(greatest(w.hours - 40, 0) * p.hourly_rate * 1.5, 2)
    FROM worked AS w, personnel AS p WHERE p.id = p_personnel
$$;

CREATE FUNCTION check_compliance_expiry(p_within_days int DEFAULT 30, p_on date DEFAULT current_date)
    RETURNS TABLE (source text, entity_id uuid, name text, expires_on date, days_left int)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    SELECT 'project_compliance', c.id, c.name, c.expires_on, c.expires_on - p_on FROM project_compliance AS c
    WHERE c.expires_on <= p_on + p_within_days AND c.status <> 'denied'
    UNION ALL
    SELECT 'training_records', t.id, t.name, t.expires_on, t.expires_on - p_on FROM training_records AS t
    WHERE t.expires_on <= p_on + p_within_days
    ORDER BY 4, 3
$$;
