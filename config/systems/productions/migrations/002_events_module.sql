-- Events, bookings, cue sheets and incidents.

CREATE TABLE events (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid,
    location_id uuid,
    name text NOT NULL,
    description text,
    event_type text NOT NULL DEFAULT 'performance',
    status text NOT NULL DEFAULT 'scheduled' CHECK (status IN ('scheduled', 'confirmed', 'completed', 'cancelled')),
    start_time timestamptz NOT NULL,
    end_time timestamptz NOT NULL,
    capacity integer,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    CHECK (end_time > start_time)
);
CALL platform.entity('events');

CREATE INDEX idx_events_workspace ON events (workspace_id);
CREATE INDEX idx_events_dates ON events (workspace_id, start_time, end_time);
CREATE INDEX idx_events_search ON events USING GIN (to_tsvector('english', name || ' ' || COALESCE(description, '')));
CREATE TRIGGER log_activity AFTER INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION log_activity();

CREATE TABLE event_attendees (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    event_id uuid NOT NULL,
    user_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    name text NOT NULL,
    email text,
    response text NOT NULL DEFAULT 'invited' CHECK (response IN ('invited', 'accepted', 'declined')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('event_attendees');

CREATE TABLE run_of_show (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    event_id uuid NOT NULL,
    cue_number numeric(6, 1) NOT NULL,
    title text NOT NULL,
    starts_at timestamptz,
    duration_seconds integer NOT NULL DEFAULT 0,
    department text,
    notes text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, event_id, cue_number)
);
CALL platform.entity('run_of_show');

CREATE TABLE call_sheets (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    event_id uuid NOT NULL,
    call_time timestamptz NOT NULL,
    department text,
    notes text,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'archived')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('call_sheets');

CREATE TABLE bookings (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    event_id uuid,
    location_id uuid,
    asset_id uuid,
    title text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    start_time timestamptz NOT NULL,
    end_time timestamptz NOT NULL,
    booked_for uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE SET NULL (event_id),
    CHECK (end_time > start_time)
);
CALL platform.entity('bookings');

CREATE INDEX idx_bookings_dates ON bookings (workspace_id, start_time, end_time) WHERE status <> 'denied';

CREATE TABLE incidents (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    event_id uuid,
    location_id uuid,
    title text NOT NULL,
    description text,
    severity text NOT NULL DEFAULT 'low' CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    occurred_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE SET NULL (event_id)
);
CALL platform.entity('incidents');

CREATE INDEX idx_incidents_open ON incidents (workspace_id, severity) WHERE resolved_at IS NULL;

CREATE TABLE incident_actions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    incident_id uuid NOT NULL,
    action text NOT NULL,
    assignee_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    status text NOT NULL DEFAULT 'todo' CHECK (status IN ('todo', 'in_progress', 'done')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, incident_id) REFERENCES incidents (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('incident_actions');

CREATE TABLE ticket_types (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    event_id uuid NOT NULL,
    name text NOT NULL,
    price numeric(14, 2) NOT NULL DEFAULT 0,
    quantity integer NOT NULL DEFAULT 0,
    sold integer NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, event_id) REFERENCES events (workspace_id, id) ON DELETE CASCADE,
    CHECK (sold BETWEEN 0 AND quantity)
);
CALL platform.entity('ticket_types');

CREATE FUNCTION check_event_conflicts(p_location uuid, p_from timestamptz, p_to timestamptz, p_except uuid DEFAULT NULL)
    RETURNS TABLE (event_id uuid, name text, start_time timestamptz, end_time timestamptz)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    SELECT e.id, e.name, e.start_time, e.end_time FROM events AS e
    WHERE e.location_id = p_location AND e.status <> 'cancelled' AND e.id IS DISTINCT FROM p_except
      AND e.start_time < p_to AND e.end_time > p_from
    ORDER BY e.start_time
$$;
