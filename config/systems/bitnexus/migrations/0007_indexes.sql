-- For the platform's queries: the tenant first, since each of them is of one tenant.
CREATE INDEX users_role ON users (tenant_id, role);
CREATE INDEX products_shown ON products (tenant_id, name) WHERE is_active;
CREATE INDEX transactions_recent ON transactions (tenant_id, created_at DESC);
CREATE INDEX transactions_of_a_user ON transactions (tenant_id, user_id, created_at DESC);
CREATE INDEX transactions_of_a_product ON transactions (tenant_id, product_id);
CREATE INDEX team_tasks_open ON team_tasks (tenant_id, status, due_on);
CREATE INDEX team_tasks_of_a_user ON team_tasks (tenant_id, assigned_to);
CREATE INDEX email_submissions_recent ON email_submissions (tenant_id, created_at DESC);
CREATE INDEX email_submissions_email ON email_submissions (tenant_id, email);
