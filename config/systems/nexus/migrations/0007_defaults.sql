INSERT INTO roles (name, description, permissions) VALUES
    ('admin', 'Administrator with full access', '["*"]'),
    ('user', 'Standard user with basic access', '["accounts:own", "transactions:own"]'),
    ('viewer', 'Read-only access', '["read"]'),
    ('manager', 'Manager with team access', '["accounts:team", "transactions:team", "read"]');

INSERT INTO api_endpoints (name, path, method, description) VALUES
    ('health.check', '/healthz', 'GET', 'Health check'),
    ('health.ready', '/readyz', 'GET', 'Readiness check'),
    ('users.profile', '/users/me', 'GET', 'Profile of the user'),
    ('users.profile.update', '/users/me', 'PATCH', 'Change the profile of the user'),
    ('accounts.list', '/accounts', 'GET', 'List accounts'),
    ('accounts.create', '/accounts', 'POST', 'Create an account'),
    ('transactions.list', '/accounts/{account}/transactions', 'GET', 'List transactions'),
    ('transactions.create', '/accounts/{account}/transactions', 'POST', 'Create a transaction'),
    ('ai.chat', '/ai/chat', 'POST', 'AI chat'),
    ('ai.insights', '/ai/insights', 'GET', 'AI insights'),
    ('analytics.metrics', '/analytics/metrics', 'GET', 'System metrics'),
    ('analytics.summary', '/analytics/summary', 'GET', 'Summary of accounts and transactions');

INSERT INTO ssot_anchors (anchor_id, family, description, format, source_hint, owner, version, centrality_score) VALUES
    ('config.environment', 'environment', 'Environment configuration', 'env', '.env', 'platform', '1.0', 0.95),
    ('config.docker', 'docker', 'Docker configuration', 'yaml', 'docker-compose.yml', 'platform', '1.0', 0.85),
    ('config.kubernetes', 'kubernetes', 'Kubernetes configuration', 'yaml', 'k8s/', 'platform', '1.0', 0.80),
    ('config.monitoring', 'monitoring', 'Monitoring configuration', 'yaml', 'monitoring/', 'operations', '1.0', 0.75),
    ('config.api', 'api', 'API configuration', 'json', 'api/config.json', 'platform', '1.0', 0.90);
