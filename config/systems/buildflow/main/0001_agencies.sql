-- What all agencies share: who they are, what they pay for, and the accounts of the platform's own staff.
CREATE TABLE subscription_plans (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    price_monthly numeric(12, 2) NOT NULL DEFAULT 0 CHECK (price_monthly >= 0),
    price_yearly numeric(12, 2) NOT NULL DEFAULT 0 CHECK (price_yearly >= 0),
    currency char(3) NOT NULL DEFAULT 'INR',
    max_users integer CHECK (max_users > 0),
    max_connections integer NOT NULL DEFAULT 10 CHECK (max_connections > 0),
    features jsonb NOT NULL DEFAULT '{}',
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE agencies (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    domain text NOT NULL UNIQUE,
    database_name text NOT NULL UNIQUE CHECK (database_name ~ '^agency_[a-z0-9_]+_[0-9a-f]{8}$'),
    subscription_plan text NOT NULL DEFAULT 'starter' REFERENCES subscription_plans (name),
    status text NOT NULL DEFAULT 'provisioning'
        CHECK (status IN ('provisioning', 'active', 'suspended', 'inactive', 'archived')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX agencies_subscription_plan_idx ON agencies (subscription_plan);
CREATE INDEX agencies_status_idx ON agencies (status);

CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL,
    password_hash text NOT NULL,
    agency_id uuid REFERENCES agencies (id),
    role text NOT NULL DEFAULT 'support' CHECK (role IN ('super_admin', 'support', 'billing')),
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email_key ON users (lower(email));
CREATE INDEX users_agency_id_idx ON users (agency_id);

INSERT INTO subscription_plans (name, price_monthly, price_yearly, max_users, max_connections) VALUES
    ('starter', 2900, 29000, 10, 10),
    ('professional', 7900, 79000, 50, 10),
    ('enterprise', 19900, 199000, NULL, 10);
