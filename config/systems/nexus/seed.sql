-- What the demo has on its first day. $1: the hash of the password of all these people.
WITH person AS (
    INSERT INTO users (email, username, password_hash, first_name, last_name, is_verified) VALUES
        ('ann@nexus.example', 'ann', $1, 'Ann', 'Archer', true),
        ('max@nexus.example', 'max', $1, 'Max', 'Miller', true),
        ('uma@nexus.example', 'uma', $1, 'Uma', 'Underwood', true),
        ('vic@nexus.example', 'vic', $1, 'Vic', 'Vance', true)
    RETURNING id, username
), granted AS (
    INSERT INTO user_roles (user_id, role_id)
    SELECT p.id, r.id FROM person p JOIN roles r
        ON r.name = CASE p.username WHEN 'ann' THEN 'admin' WHEN 'max' THEN 'manager' WHEN 'uma' THEN 'user' ELSE 'viewer' END
), opened AS (
    INSERT INTO accounts (user_id, account_name, account_number, account_type, bank_name, balance, currency)
    SELECT id, 'Savings of ' || username, 'NX-' || username, 'savings', 'First Bank', 1250.00, 'EUR'
    FROM person WHERE username <> 'vic'
    RETURNING id
)
INSERT INTO transactions (account_id, amount, transaction_type, category, description, status)
SELECT id, 1250.00, 'deposit', 'salary', 'first salary', 'completed' FROM opened
