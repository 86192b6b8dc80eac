CREATE TABLE accounts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid REFERENCES users ON DELETE RESTRICT,
    account_name varchar(255) NOT NULL,
    account_number varchar(100) NOT NULL UNIQUE,
    account_type varchar(50) NOT NULL,
    bank_name varchar(255),
    balance decimal(15, 2) DEFAULT 0.00,
    currency varchar(3) DEFAULT 'USD',
    is_active boolean DEFAULT true,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
CREATE INDEX idx_accounts_user_id ON accounts (user_id);
CREATE TRIGGER update_accounts_updated_at BEFORE UPDATE ON accounts
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE transactions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id uuid REFERENCES accounts ON DELETE RESTRICT,
    amount decimal(15, 2) NOT NULL,
    transaction_type varchar(50) NOT NULL,
    category varchar(100),
    description text,
    transaction_date timestamp DEFAULT now(),
    status varchar(50) DEFAULT 'pending',
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
CREATE INDEX idx_transactions_account_id ON transactions (account_id);
CREATE INDEX idx_transactions_date ON transactions (transaction_date);
CREATE TRIGGER update_transactions_updated_at BEFORE UPDATE ON transactions
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
