-- Resources, jobs, reports, analytics and insights; the sums of dashboards, and the search.

CREATE TABLE resource_categories (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, name)
);
CALL platform.entity('resource_categories');

CREATE TABLE resources (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    category_id uuid,
    name text NOT NULL,
    description text,
    url text,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'archived')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, category_id) REFERENCES resource_categories (workspace_id, id)
        ON DELETE SET NULL (category_id)
);
CALL platform.entity('resources');

CREATE TABLE resource_bookings (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    resource_id uuid NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    booked_for uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, resource_id) REFERENCES resources (workspace_id, id) ON DELETE CASCADE,
    CHECK (ends_at > starts_at)
);
CALL platform.entity('resource_bookings');

CREATE TABLE job_templates (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    steps jsonb NOT NULL DEFAULT '[]',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('job_templates');

CREATE TABLE jobs (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    template_id uuid,
    production_id uuid,
    company_id uuid,
    title text NOT NULL,
    status text NOT NULL DEFAULT 'planning' CHECK (status IN ('planning', 'active', 'completed', 'archived')),
    scheduled_on date,
    value numeric(14, 2) NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, template_id) REFERENCES job_templates (workspace_id, id)
        ON DELETE SET NULL (template_id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    FOREIGN KEY (workspace_id, company_id) REFERENCES companies (workspace_id, id) ON DELETE SET NULL (company_id)
);
CALL platform.entity('jobs');

CREATE TABLE job_runs (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    job_id uuid NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    outcome text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, job_id) REFERENCES jobs (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('job_runs');

CREATE TABLE reports (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    module text NOT NULL,
    definition jsonb NOT NULL DEFAULT '{}',
    is_shared boolean NOT NULL DEFAULT false,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('reports');

CREATE TABLE report_schedules (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    report_id uuid NOT NULL,
    every interval NOT NULL DEFAULT '1 day',
    next_run_at timestamptz,
    recipients text[] NOT NULL DEFAULT '{}',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, report_id) REFERENCES reports (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('report_schedules');

CREATE TABLE report_runs (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    report_id uuid NOT NULL,
    ran_at timestamptz NOT NULL DEFAULT now(),
    row_count integer,
    file_url text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, report_id) REFERENCES reports (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('report_runs');

CREATE TABLE data_exports (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    module text NOT NULL,
    format text NOT NULL DEFAULT 'csv' CHECK (format IN ('csv', 'xlsx', 'json', 'pdf')),
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    file_url text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('data_exports');

CREATE TABLE kpi_definitions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    unit text,
    target numeric,
    formula text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, name)
);
CALL platform.entity('kpi_definitions');

CREATE TABLE kpi_values (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    kpi_id uuid NOT NULL,
    measured_on date NOT NULL,
    value numeric NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, kpi_id) REFERENCES kpi_definitions (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, kpi_id, measured_on)
);
CALL platform.entity('kpi_values');

CREATE TABLE analytics_events (
    id uuid NOT NULL DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    name text NOT NULL,
    properties jsonb NOT NULL DEFAULT '{}',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CALL platform.partitions('analytics_events', 2025, 2027);
CALL platform.entity('analytics_events');

CREATE INDEX idx_analytics_events_name ON analytics_events (workspace_id, name, created_at);

CREATE TABLE forecasts (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    horizon_days integer NOT NULL DEFAULT 90,
    result jsonb NOT NULL DEFAULT '{}',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('forecasts');

CREATE TABLE insights (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    title text NOT NULL,
    body text,
    confidence numeric(3, 2) CHECK (confidence BETWEEN 0 AND 1),
    entity_type text,
    entity_id uuid,
    dismissed_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('insights');

CREATE INDEX idx_insights_open ON insights (workspace_id, confidence DESC) WHERE dismissed_at IS NULL;

CREATE TABLE insight_feedback (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    insight_id uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    is_useful boolean NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, insight_id) REFERENCES insights (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, insight_id, user_id)
);
CALL platform.entity('insight_feedback');

-- Sums that are dear to compute, for all organizations. No policy reaches a materialized view, so it is in a schema that
-- tenants' SQL may not look into, with a right for one role that no one logs in as. The one function of that role adds
-- the organization that the backend is bound to and the workspace of the request, takes no argument, and has its
-- search_path pinned: there is nothing by which its caller could ask for more. A function that runs as its owner is not
-- inlined either, so that no condition of the caller's is tried on other rows.
CREATE SCHEMA reports;
CREATE MATERIALIZED VIEW reports.workspace_totals AS
    SELECT w.organization_id, w.id AS workspace_id,
           (SELECT count(*) FROM productions AS p WHERE p.workspace_id = w.id AND p.status = 'active') AS active_productions,
           (SELECT count(*) FROM project_tasks AS t WHERE t.workspace_id = w.id AND t.status <> 'done') AS open_tasks,
           (SELECT count(*) FROM events AS e WHERE e.workspace_id = w.id AND e.status <> 'cancelled') AS events,
           (SELECT count(*) FROM assets AS a WHERE a.workspace_id = w.id AND a.status = 'in_use') AS assets_in_use,
           (SELECT coalesce(sum(i.total_amount - i.paid_amount), 0) FROM invoices AS i
            WHERE i.workspace_id = w.id AND i.status IN ('sent', 'overdue')) AS outstanding
    FROM workspaces AS w;
CREATE UNIQUE INDEX idx_workspace_totals ON reports.workspace_totals (organization_id, workspace_id);
GRANT USAGE ON SCHEMA reports TO productions_reports;
GRANT SELECT ON reports.workspace_totals TO productions_reports;

CREATE FUNCTION workspace_totals()
    RETURNS TABLE (workspace_id uuid, active_productions bigint, open_tasks bigint, events bigint, assets_in_use bigint,
                   outstanding numeric)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.workspace_id, t.active_productions, t.open_tasks, t.events, t.assets_in_use, t.outstanding
    FROM reports.workspace_totals AS t
    WHERE t.organization_id = (SELECT tenantproxy.bound_tenant())::uuid
      AND ((SELECT tenantproxy.context('app.current_workspace_id')) IS NULL
           OR t.workspace_id = (SELECT nullif(tenantproxy.context('app.current_workspace_id'), '')::uuid))
$$;
REVOKE ALL ON FUNCTION workspace_totals() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION workspace_totals() TO productions_app;
ALTER FUNCTION workspace_totals() OWNER TO productions_reports;

CREATE FUNCTION get_dashboard_metrics()
    RETURNS TABLE (metric text, value numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    SELECT m.metric, sum(m.value) FROM workspace_totals() AS t CROSS JOIN LATERAL (
        VALUES (1, 'active_productions', t.active_productions::numeric), (2, 'open_tasks', t.open_tasks),
               (3, 'events', t.events), (4, 'assets_in_use', t.assets_in_use), (5, 'outstanding', t.outstanding)
    ) AS m (place, metric, value)
    GROUP BY m.place, m.metric ORDER BY m.place
$$;

-- Each part is the expression of that table's index.
CREATE FUNCTION global_search(p_query text, p_limit int DEFAULT 20)
    RETURNS TABLE (entity_type text, entity_id uuid, title text, rank real)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH asked AS MATERIALIZED (SELECT websearch_to_tsquery('english', p_query) AS query),
    found (entity_type, entity_id, title, words) AS (
        SELECT 'productions', id, name, to_tsvector('english', name || ' ' || COALESCE(description, '')) FROM productions
        UNION ALL
        SELECT 'project_tasks', id, title, to_tsvector('english', title || ' ' || COALESCE(description, '')) FROM project_tasks
        UNION ALL
        SELECT 'events', id, name, to_tsvector('english', name || ' ' || COALESCE(description, '')) FROM events
        UNION ALL
        SELECT 'personnel', id, first_name || ' ' || last_name,
               to_tsvector('english', first_name || ' ' || last_name || ' ' || COALESCE(position, '')) FROM personnel
        UNION ALL
        SELECT 'assets', id, name, to_tsvector('english', name || ' ' || COALESCE(description, '')) FROM assets
        UNION ALL
        SELECT 'locations', id, name, to_tsvector('english', name || ' ' || COALESCE(description, '')) FROM locations
        UNION ALL
        SELECT 'files', id, name, to_tsvector('english', name || ' ' || COALESCE(description, '')) FROM files
        UNION ALL
        SELECT 'companies', id, name, to_tsvector('english', name || ' ' || COALESCE(description, '')) FROM companies
        UNION ALL
        SELECT 'community_posts', id, COALESCE(title, ''), to_tsvector('english', COALESCE(title, '') || ' ' || content)
        FROM community_posts
    )
    SELECT f.entity_type, f.entity_id, f.title, ts_rank(f.words, a.query)
    FROM found AS f, asked AS a WHERE f.words @@ a.query
    ORDER BY 4 DESC, 1, 3 LIMIT least(p_limit, 100)
$$;
