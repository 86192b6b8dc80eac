CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL DEFAULT 'employee' CHECK (role IN ('admin', 'manager', 'hr', 'finance', 'employee')),
    is_active boolean NOT NULL DEFAULT true,
    email_confirmed_at timestamptz,
    last_sign_in_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email_key ON users (lower(normalize(email) COLLATE "C"));

CREATE TABLE profiles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL UNIQUE REFERENCES users (id) ON DELETE CASCADE,
    agency_id uuid,
    full_name text NOT NULL DEFAULT '',
    phone text,
    avatar_url text,
    department text,
    position text,
    hire_date date,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN profiles.agency_id IS 'agencies.id of the main database';

CREATE TABLE user_roles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('admin', 'manager', 'hr', 'finance', 'employee')),
    assigned_by uuid REFERENCES users (id) ON DELETE SET NULL,
    assigned_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, role)
);

CREATE TABLE role_permissions (
    role text NOT NULL,
    permission text NOT NULL,
    PRIMARY KEY (role, permission)
);
INSERT INTO role_permissions (role, permission) VALUES
    ('admin', '*'), ('manager', 'projects.write'), ('manager', 'tasks.write'), ('hr', 'employees.write'),
    ('hr', 'payroll.write'), ('finance', 'invoices.write'), ('finance', 'ledger.write'), ('employee', 'tasks.read');
