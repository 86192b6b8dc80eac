CREATE TABLE job_categories (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    description text,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO job_categories (name) VALUES ('Civil'), ('Electrical'), ('Plumbing'), ('Interior'), ('Landscape');

CREATE TABLE projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    description text,
    client_id uuid REFERENCES clients (id),
    category_id uuid REFERENCES job_categories (id),
    manager_id uuid REFERENCES users (id) ON DELETE SET NULL,
    status text NOT NULL DEFAULT 'planning'
        CHECK (status IN ('planning', 'active', 'on_hold', 'completed', 'cancelled')),
    start_date date,
    end_date date CHECK (end_date >= start_date),
    budget numeric(16, 2) NOT NULL DEFAULT 0 CHECK (budget >= 0),
    progress smallint NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE project_members (
    project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role text NOT NULL DEFAULT 'member',
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, user_id)
);

CREATE TABLE milestones (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name text NOT NULL,
    due_date date,
    is_done boolean NOT NULL DEFAULT false,
    UNIQUE (project_id, name)
);

CREATE TABLE jobs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    category_id uuid REFERENCES job_categories (id),
    title text NOT NULL,
    estimated_cost numeric(16, 2) NOT NULL DEFAULT 0 CHECK (estimated_cost >= 0),
    actual_cost numeric(16, 2) NOT NULL DEFAULT 0 CHECK (actual_cost >= 0),
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'in_progress', 'done', 'cancelled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
