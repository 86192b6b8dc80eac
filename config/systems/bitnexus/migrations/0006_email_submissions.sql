-- What visitors send by the forms of a tenant's site.
CREATE TABLE email_submissions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    email text NOT NULL CHECK (position('@' IN email) > 1),
    name text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT 'website',
    message text NOT NULL DEFAULT '',
    is_answered boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
