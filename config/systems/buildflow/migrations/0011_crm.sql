CREATE TABLE lead_sources (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    is_active boolean NOT NULL DEFAULT true
);
INSERT INTO lead_sources (name) VALUES ('Website'), ('Referral'), ('Tender'), ('Advertisement'), ('Walk-in');

CREATE TABLE sales_stages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    position smallint NOT NULL UNIQUE,
    probability smallint NOT NULL CHECK (probability BETWEEN 0 AND 100)
);
INSERT INTO sales_stages (name, position, probability) VALUES
    ('New', 1, 10), ('Qualified', 2, 30), ('Proposal', 3, 60), ('Won', 4, 100), ('Lost', 5, 0);

CREATE TABLE leads (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    company_name text NOT NULL,
    contact_name text,
    email text,
    phone text,
    source_id uuid REFERENCES lead_sources (id),
    stage_id uuid REFERENCES sales_stages (id),
    assigned_to uuid REFERENCES users (id) ON DELETE SET NULL,
    client_id uuid REFERENCES clients (id) ON DELETE SET NULL,
    estimated_value numeric(16, 2) NOT NULL DEFAULT 0 CHECK (estimated_value >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE crm_activities (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    lead_id uuid NOT NULL REFERENCES leads (id) ON DELETE CASCADE,
    user_id uuid REFERENCES users (id) ON DELETE SET NULL,
    kind text NOT NULL CHECK (kind IN ('call', 'email', 'meeting', 'site_visit', 'note')),
    subject text NOT NULL,
    due_at timestamptz,
    done_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
