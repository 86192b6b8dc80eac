-- Companies, budgets, invoices, orders, expenses, payroll, procurement and approvals.

CREATE TABLE companies (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    kind text NOT NULL DEFAULT 'vendor' CHECK (kind IN ('vendor', 'client', 'partner')),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive')),
    tax_number text,
    website text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);

ALTER TABLE productions
    ADD FOREIGN KEY (workspace_id, client_id) REFERENCES companies (workspace_id, id) ON DELETE SET NULL (client_id);
CALL platform.entity('companies');

CREATE INDEX idx_companies_search ON companies USING GIN (to_tsvector('english', name || ' ' || COALESCE(description, '')));

CREATE TABLE company_contacts (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    company_id uuid NOT NULL,
    name text NOT NULL,
    email text,
    phone text,
    title text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, company_id) REFERENCES companies (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('company_contacts');

CREATE TABLE contracts (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    company_id uuid,
    production_id uuid,
    title text NOT NULL,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'archived')),
    value numeric(14, 2) NOT NULL DEFAULT 0,
    starts_on date,
    ends_on date,
    signed_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, company_id) REFERENCES companies (workspace_id, id) ON DELETE SET NULL (company_id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id)
);
CALL platform.entity('contracts');

CREATE TABLE budget_categories (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    code text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, name)
);
CALL platform.entity('budget_categories');

CREATE TABLE budgets (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid,
    name text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    fiscal_year integer,
    total_amount numeric(14, 2) NOT NULL DEFAULT 0,
    currency char(3) NOT NULL DEFAULT 'USD',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id)
);
CALL platform.entity('budgets');

CREATE TABLE budget_line_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    budget_id uuid NOT NULL,
    category_id uuid,
    description text NOT NULL,
    planned_amount numeric(14, 2) NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, budget_id) REFERENCES budgets (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, category_id) REFERENCES budget_categories (workspace_id, id)
        ON DELETE SET NULL (category_id)
);
CALL platform.entity('budget_line_items');

CREATE TABLE budget_revisions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    budget_id uuid NOT NULL,
    reason text NOT NULL,
    change_amount numeric(14, 2) NOT NULL,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, budget_id) REFERENCES budgets (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('budget_revisions');

CREATE TABLE financial_transactions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid,
    category_id uuid,
    company_id uuid,
    kind text NOT NULL CHECK (kind IN ('income', 'expense')),
    amount numeric(14, 2) NOT NULL CHECK (amount >= 0),
    currency char(3) NOT NULL DEFAULT 'USD',
    occurred_on date NOT NULL DEFAULT current_date,
    description text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    FOREIGN KEY (workspace_id, category_id) REFERENCES budget_categories (workspace_id, id)
        ON DELETE SET NULL (category_id),
    FOREIGN KEY (workspace_id, company_id) REFERENCES companies (workspace_id, id) ON DELETE SET NULL (company_id)
);
CALL platform.entity('financial_transactions');

CREATE INDEX idx_financial_transactions_dates ON financial_transactions (workspace_id, occurred_on, kind);

CREATE TABLE tax_rates (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    rate numeric(6, 3) NOT NULL CHECK (rate BETWEEN 0 AND 100),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, name)
);
CALL platform.entity('tax_rates');

CREATE TABLE invoices (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    company_id uuid,
    production_id uuid,
    invoice_number text NOT NULL,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'sent', 'paid', 'overdue', 'void')),
    issued_on date NOT NULL DEFAULT current_date,
    due_on date NOT NULL,
    total_amount numeric(14, 2) NOT NULL DEFAULT 0,
    paid_amount numeric(14, 2) NOT NULL DEFAULT 0,
    currency char(3) NOT NULL DEFAULT 'USD',
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, company_id) REFERENCES companies (workspace_id, id) ON DELETE SET NULL (company_id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    UNIQUE (workspace_id, invoice_number)
);
CALL platform.entity('invoices');

CREATE INDEX idx_invoices_open ON invoices (workspace_id, due_on) WHERE status IN ('sent', 'overdue');
CREATE TRIGGER log_activity AFTER INSERT OR UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION log_activity();

CREATE TABLE invoice_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    invoice_id uuid NOT NULL,
    tax_rate_id uuid,
    description text NOT NULL,
    quantity numeric(12, 3) NOT NULL DEFAULT 1,
    unit_price numeric(14, 2) NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, invoice_id) REFERENCES invoices (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, tax_rate_id) REFERENCES tax_rates (workspace_id, id) ON DELETE SET NULL (tax_rate_id)
);
CALL platform.entity('invoice_items');

CREATE TABLE payment_methods (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    kind text NOT NULL DEFAULT 'bank' CHECK (kind IN ('bank', 'card', 'cash', 'check')),
    last_four char(4),
    is_default boolean NOT NULL DEFAULT false,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('payment_methods');

CREATE TABLE invoice_payments (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    invoice_id uuid NOT NULL,
    method_id uuid,
    amount numeric(14, 2) NOT NULL CHECK (amount > 0),
    paid_on date NOT NULL DEFAULT current_date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, invoice_id) REFERENCES invoices (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, method_id) REFERENCES payment_methods (workspace_id, id) ON DELETE SET NULL (method_id)
);
CALL platform.entity('invoice_payments');

CREATE TABLE purchase_orders (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    company_id uuid,
    production_id uuid,
    po_number text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    total_amount numeric(14, 2) NOT NULL DEFAULT 0,
    ordered_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, company_id) REFERENCES companies (workspace_id, id) ON DELETE SET NULL (company_id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id),
    UNIQUE (workspace_id, po_number)
);
CALL platform.entity('purchase_orders');

CREATE TABLE po_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    order_id uuid NOT NULL,
    description text NOT NULL,
    quantity numeric(12, 3) NOT NULL DEFAULT 1,
    unit_price numeric(14, 2) NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, order_id) REFERENCES purchase_orders (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('po_items');

CREATE TABLE expense_reports (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    title text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    total_amount numeric(14, 2) NOT NULL DEFAULT 0,
    submitted_at timestamptz,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('expense_reports');

CREATE TABLE expense_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    report_id uuid NOT NULL,
    category_id uuid,
    description text NOT NULL,
    amount numeric(14, 2) NOT NULL CHECK (amount >= 0),
    spent_on date NOT NULL,
    receipt_url text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, report_id) REFERENCES expense_reports (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, category_id) REFERENCES budget_categories (workspace_id, id)
        ON DELETE SET NULL (category_id)
);
CALL platform.entity('expense_items');

CREATE TABLE payroll_records (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    personnel_id uuid NOT NULL,
    period_start date NOT NULL,
    period_end date NOT NULL,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'approved', 'paid')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, personnel_id) REFERENCES personnel (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, personnel_id, period_start),
    CHECK (period_end >= period_start)
);
CALL platform.entity('payroll_records');

CREATE TABLE payroll_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    record_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('earning', 'deduction')),
    description text NOT NULL,
    amount numeric(14, 2) NOT NULL CHECK (amount >= 0),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, record_id) REFERENCES payroll_records (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('payroll_items');

CREATE TABLE requisitions (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    production_id uuid,
    title text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    needed_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, production_id) REFERENCES productions (workspace_id, id)
        ON DELETE SET NULL (production_id)
);
CALL platform.entity('requisitions');

CREATE TABLE requisition_items (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    requisition_id uuid NOT NULL,
    description text NOT NULL,
    quantity numeric(12, 3) NOT NULL DEFAULT 1,
    estimated_price numeric(14, 2) NOT NULL DEFAULT 0,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, requisition_id) REFERENCES requisitions (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('requisition_items');

CREATE TABLE rfqs (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    requisition_id uuid,
    title text NOT NULL,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'archived')),
    due_on date,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, requisition_id) REFERENCES requisitions (workspace_id, id)
        ON DELETE SET NULL (requisition_id)
);
CALL platform.entity('rfqs');

CREATE TABLE rfq_responses (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    rfq_id uuid NOT NULL,
    company_id uuid NOT NULL,
    amount numeric(14, 2) NOT NULL,
    note text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, rfq_id) REFERENCES rfqs (workspace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, company_id) REFERENCES companies (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, rfq_id, company_id)
);
CALL platform.entity('rfq_responses');

CREATE TABLE goods_receipts (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    order_id uuid NOT NULL,
    received_on date NOT NULL DEFAULT current_date,
    note text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, order_id) REFERENCES purchase_orders (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('goods_receipts');

CREATE TABLE approval_requests (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    entity_type text NOT NULL,
    entity_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    requested_by uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    decided_by uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    decided_at timestamptz,
    comment text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);
CALL platform.entity('approval_requests');

CREATE INDEX idx_approval_requests_open ON approval_requests (workspace_id, entity_type, entity_id) WHERE status = 'pending';

CREATE TABLE approval_steps (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    request_id uuid NOT NULL,
    position integer NOT NULL DEFAULT 1,
    approver_id uuid REFERENCES auth.users (id) ON DELETE SET NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'denied')),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, request_id) REFERENCES approval_requests (workspace_id, id) ON DELETE CASCADE,
    UNIQUE (workspace_id, request_id, position)
);
CALL platform.entity('approval_steps');

CREATE FUNCTION get_budget_variance(p_production uuid)
    RETURNS TABLE (budgeted numeric, actual numeric, variance numeric, variance_percent numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH planned AS (
        SELECT coalesce(sum(i.planned_amount), 0) AS amount
        FROM budgets AS b JOIN budget_line_items AS i ON i.budget_id = b.id
        WHERE b.production_id = p_production AND b.status <> 'denied'
    ), spent AS (
        SELECT coalesce(sum(amount), 0) AS amount FROM financial_transactions
        WHERE production_id = p_production AND kind = 'expense'
    )
    SELECT p.amount, s.amount, p.amount - s.amount, round(100 * (p.amount - s.amount) / nullif(p.amount, 0), 2)
    FROM planned AS p, spent AS s WHERE EXISTS (SELECT FROM productions AS x WHERE x.id = p_production)
$$;

CREATE FUNCTION get_invoice_aging(p_on date DEFAULT current_date)
    RETURNS TABLE (bucket text, invoices bigint, outstanding numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH owed AS (
        SELECT p_on - due_on AS late, total_amount - paid_amount AS amount FROM invoices
        WHERE status IN ('sent', 'overdue') AND total_amount > paid_amount
    )
    SELECT b.name, count(o.amount), coalesce(sum(o.amount), 0)
    FROM (VALUES (1, 'current', NULL, 0), (2, '1-30', 1, 30), (3, '31-60', 31, 60), (4, '61-90', 61, 90),
                 (5, 'over 90', 91, NULL)) AS b (place, name, first, last)
    LEFT JOIN owed AS o ON o.late >= coalesce(b.first, o.late) AND o.late <= coalesce(b.last, o.late)
    GROUP BY b.place, b.name ORDER BY b.place
$$;

CREATE FUNCTION get_payroll_summary(p_from date, p_to date)
    RETURNS TABLE (personnel_id uuid, full_name text, gross numeric, deductions numeric, net numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    SELECT p.id, p.first_name || ' ' || p.last_name, sum(i.amount) FILTER (WHERE i.kind = 'earning'),
           coalesce(sum(i.amount) FILTER (WHERE i.kind = 'deduction'), 0),
           sum(CASE i.kind WHEN 'earning' THEN i.amount ELSE -i.amount END)
    FROM payroll_records AS r JOIN personnel AS p ON p.id = r.personnel_id JOIN payroll_items AS i ON i.record_id = r.id
    WHERE r.period_start >= p_from AND r.period_end <= p_to
    GROUP BY p.id, p.first_name, p.last_name ORDER BY 2
$$;

CREATE FUNCTION get_financial_summary(p_from date, p_to date)
    RETURNS TABLE (income numeric, expenses numeric, net numeric, outstanding numeric)
    LANGUAGE sql STABLE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    WITH moved AS (
        SELECT coalesce(sum(amount) FILTER (WHERE kind = 'income'), 0) AS income,
               coalesce(sum(amount) FILTER (WHERE kind = 'expense'), 0) AS expenses
        FROM financial_transactions WHERE occurred_on BETWEEN p_from AND p_to
    )
    SELECT m.income, m.expenses, m.income - m.expenses,
           (SELECT coalesce(sum(total_amount - paid_amount), 0) FROM invoices WHERE status IN ('sent', 'overdue'))
    FROM moved AS m
$$;
