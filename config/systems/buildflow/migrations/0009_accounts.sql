CREATE TABLE chart_of_accounts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_code text NOT NULL UNIQUE,
    account_name text NOT NULL,
    account_type text NOT NULL CHECK (account_type IN ('asset', 'liability', 'equity', 'income', 'expense')),
    parent_id uuid REFERENCES chart_of_accounts (id) CHECK (parent_id <> id),
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO chart_of_accounts (account_code, account_name, account_type) VALUES
    ('1000', 'Cash', 'asset'), ('1010', 'Bank', 'asset'), ('1200', 'Trade receivables', 'asset'),
    ('2000', 'Trade payables', 'liability'), ('2100', 'GST payable', 'liability'), ('3000', 'Capital', 'equity'),
    ('4000', 'Contract income', 'income'), ('5000', 'Material', 'expense'), ('5100', 'Wages', 'expense');

CREATE TABLE journal_entries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    entry_number text NOT NULL UNIQUE,
    entry_date date NOT NULL DEFAULT current_date,
    description text,
    reference text,
    is_posted boolean NOT NULL DEFAULT false,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE journal_entry_lines (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    entry_id uuid NOT NULL REFERENCES journal_entries (id) ON DELETE CASCADE,
    account_id uuid NOT NULL REFERENCES chart_of_accounts (id),
    debit numeric(16, 2) NOT NULL DEFAULT 0 CHECK (debit >= 0),
    credit numeric(16, 2) NOT NULL DEFAULT 0 CHECK (credit >= 0),
    CHECK ((debit = 0) <> (credit = 0))
);

CREATE FUNCTION check_journal_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.is_posted AND (SELECT coalesce(sum(debit - credit), 0) FROM journal_entry_lines WHERE entry_id = NEW.id) <> 0
    THEN
        RAISE EXCEPTION 'journal entry % is not balanced', NEW.entry_number USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
