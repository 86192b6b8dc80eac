CREATE TABLE quotations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    quotation_number text NOT NULL UNIQUE,
    client_id uuid NOT NULL REFERENCES clients (id),
    project_id uuid REFERENCES projects (id),
    valid_until date,
    subtotal numeric(16, 2) NOT NULL DEFAULT 0 CHECK (subtotal >= 0),
    tax_amount numeric(16, 2) NOT NULL DEFAULT 0 CHECK (tax_amount >= 0),
    total_amount numeric(16, 2) GENERATED ALWAYS AS (subtotal + tax_amount) STORED,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'sent', 'accepted', 'rejected', 'expired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE quotation_items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    quotation_id uuid NOT NULL REFERENCES quotations (id) ON DELETE CASCADE,
    description text NOT NULL,
    quantity numeric(14, 3) NOT NULL DEFAULT 1 CHECK (quantity > 0),
    unit_price numeric(16, 2) NOT NULL CHECK (unit_price >= 0),
    amount numeric(16, 2) GENERATED ALWAYS AS (round(quantity * unit_price, 2)) STORED
);

CREATE TABLE invoices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    invoice_number text NOT NULL UNIQUE,
    client_id uuid NOT NULL REFERENCES clients (id),
    project_id uuid REFERENCES projects (id),
    quotation_id uuid REFERENCES quotations (id),
    issue_date date NOT NULL DEFAULT current_date,
    due_date date CHECK (due_date >= issue_date),
    subtotal numeric(16, 2) NOT NULL DEFAULT 0 CHECK (subtotal >= 0),
    tax_amount numeric(16, 2) NOT NULL DEFAULT 0 CHECK (tax_amount >= 0),
    total_amount numeric(16, 2) GENERATED ALWAYS AS (subtotal + tax_amount) STORED,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'sent', 'paid', 'overdue', 'cancelled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE invoice_items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    invoice_id uuid NOT NULL REFERENCES invoices (id) ON DELETE CASCADE,
    description text NOT NULL,
    hsn_sac_code text,
    quantity numeric(14, 3) NOT NULL DEFAULT 1 CHECK (quantity > 0),
    unit_price numeric(16, 2) NOT NULL CHECK (unit_price >= 0),
    amount numeric(16, 2) GENERATED ALWAYS AS (round(quantity * unit_price, 2)) STORED
);

CREATE TABLE payments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    invoice_id uuid NOT NULL REFERENCES invoices (id),
    paid_on date NOT NULL DEFAULT current_date,
    amount numeric(16, 2) NOT NULL CHECK (amount > 0),
    method text NOT NULL DEFAULT 'bank' CHECK (method IN ('bank', 'cash', 'cheque', 'card', 'upi')),
    reference text,
    created_at timestamptz NOT NULL DEFAULT now()
);
