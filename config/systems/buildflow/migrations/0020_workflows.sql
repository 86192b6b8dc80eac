CREATE TABLE approval_workflows (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    entity text NOT NULL CHECK (entity IN ('leave_request', 'purchase_request', 'reimbursement_request', 'quotation')),
    steps jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(steps) = 'array'),
    is_active boolean NOT NULL DEFAULT true
);
INSERT INTO approval_workflows (name, entity, steps) VALUES
    ('Leave', 'leave_request', '["manager"]'), ('Purchase', 'purchase_request', '["manager", "finance"]'),
    ('Expense', 'reimbursement_request', '["manager", "finance"]');

CREATE TABLE approvals (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workflow_id uuid NOT NULL REFERENCES approval_workflows (id),
    entity_id uuid NOT NULL,
    step smallint NOT NULL CHECK (step >= 0),
    decision text NOT NULL DEFAULT 'pending' CHECK (decision IN ('pending', 'approved', 'rejected')),
    decided_by uuid REFERENCES users (id) ON DELETE SET NULL,
    decided_at timestamptz,
    UNIQUE (workflow_id, entity_id, step)
);
