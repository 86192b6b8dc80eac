-- How far each person is with the first steps.

-- The steps of a beginning, the same for all organizations, to be read alone.
CREATE TABLE onboarding_steps (
    code text PRIMARY KEY,
    position smallint NOT NULL UNIQUE,
    title text NOT NULL
);
INSERT INTO onboarding_steps VALUES
    ('profile', 1, 'Tell who you are'), ('organization', 2, 'Name your organization'),
    ('workspace', 3, 'Make a workspace'), ('invite', 4, 'Invite your team'),
    ('first_production', 5, 'Plan a first production'), ('integrations', 6, 'Connect other services');
GRANT SELECT ON onboarding_steps TO productions_app;

CREATE TABLE onboarding_progress (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    step_code text NOT NULL REFERENCES onboarding_steps (code),
    completed_at timestamptz,
    skipped_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, user_id, step_code)
);
CALL platform.entity('onboarding_progress');

CREATE TABLE onboarding_tours (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    tour text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, user_id, tour)
);
CALL platform.entity('onboarding_tours');
