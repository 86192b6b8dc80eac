CREATE TABLE payroll_periods (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    start_date date NOT NULL,
    end_date date NOT NULL CHECK (end_date > start_date),
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'processing', 'paid')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (start_date, end_date)
);

CREATE TABLE payroll (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    period_id uuid NOT NULL REFERENCES payroll_periods (id),
    employee_id uuid NOT NULL REFERENCES employee_details (id),
    basic numeric(14, 2) NOT NULL CHECK (basic >= 0),
    allowances numeric(14, 2) NOT NULL DEFAULT 0 CHECK (allowances >= 0),
    deductions numeric(14, 2) NOT NULL DEFAULT 0 CHECK (deductions >= 0),
    net_pay numeric(14, 2) GENERATED ALWAYS AS (basic + allowances - deductions) STORED,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'approved', 'paid')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (period_id, employee_id)
);

CREATE TABLE salary_components (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    payroll_id uuid NOT NULL REFERENCES payroll (id) ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('allowance', 'deduction')),
    name text NOT NULL,
    amount numeric(14, 2) NOT NULL CHECK (amount >= 0),
    UNIQUE (payroll_id, kind, name)
);
