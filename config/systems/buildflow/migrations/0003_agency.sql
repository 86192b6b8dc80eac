CREATE TABLE agency_settings (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    agency_name text NOT NULL DEFAULT '',
    domain text,
    logo_url text,
    currency char(3) NOT NULL DEFAULT 'INR',
    timezone text NOT NULL DEFAULT 'Asia/Kolkata',
    date_format text NOT NULL DEFAULT 'DD/MM/YYYY',
    fiscal_year_start smallint NOT NULL DEFAULT 4 CHECK (fiscal_year_start BETWEEN 1 AND 12),
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO agency_settings DEFAULT VALUES;

CREATE TABLE departments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    description text,
    manager_id uuid REFERENCES users (id) ON DELETE SET NULL,
    parent_id uuid REFERENCES departments (id) ON DELETE SET NULL CHECK (parent_id <> id),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO departments (name) VALUES ('Management'), ('Engineering'), ('Site'), ('Finance'), ('Human resources');

CREATE TABLE team_assignments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    department_id uuid NOT NULL REFERENCES departments (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    position text,
    start_date date NOT NULL DEFAULT current_date,
    end_date date CHECK (end_date >= start_date),
    UNIQUE (department_id, user_id)
);

CREATE TABLE holidays (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    day date NOT NULL UNIQUE,
    name text NOT NULL,
    is_optional boolean NOT NULL DEFAULT false
);
INSERT INTO holidays (day, name) VALUES
    ('2026-01-26', 'Republic Day'), ('2026-08-15', 'Independence Day'), ('2026-10-02', 'Gandhi Jayanti');
