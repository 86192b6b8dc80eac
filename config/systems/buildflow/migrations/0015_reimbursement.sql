CREATE TABLE expense_categories (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    limit_amount numeric(14, 2) CHECK (limit_amount > 0)
);
INSERT INTO expense_categories (name, limit_amount) VALUES ('Travel', 50000), ('Meals', 5000), ('Material', NULL);

CREATE TABLE reimbursement_requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    employee_id uuid NOT NULL REFERENCES employee_details (id),
    category_id uuid NOT NULL REFERENCES expense_categories (id),
    project_id uuid REFERENCES projects (id),
    amount numeric(14, 2) NOT NULL CHECK (amount > 0),
    expense_date date NOT NULL,
    description text,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'paid')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
