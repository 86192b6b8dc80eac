-- What a tenant of the demo has on its first day; run as the tenant.
INSERT INTO products (sku, name, price, stock) VALUES ('NX-1', 'Node', 49.00, 10), ('NX-2', 'Gateway', 199.00, 3);
INSERT INTO team_tasks (title, assigned_to, priority, due_on)
    SELECT 'Call the first customer', id, 'high', current_date + 7 FROM users WHERE role = 'admin';
INSERT INTO email_submissions (email, name, message) VALUES ('visitor@example.com', 'A visitor', 'Please call me.');
