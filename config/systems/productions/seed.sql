-- What an organization of the demo has on its first day; run as the organization, without a request. Days are of 2026.
DO $$
DECLARE
    ws     uuid := (SELECT id FROM workspaces WHERE slug = 'main');
    mark   text := (SELECT slug FROM organizations);
    lead   uuid := (SELECT user_id FROM organization_members WHERE role = 'owner');
    hall   uuid; hamlet uuid; design uuid; build uuid; rehearse uuid; opening uuid;
    ada    uuid; lamp uuid; client uuid; plan uuid; pay uuid; post uuid;
BEGIN
    INSERT INTO locations (workspace_id, name, capacity) VALUES (ws, 'Main Stage', 500) RETURNING id INTO hall;
    INSERT INTO companies (workspace_id, name, kind) VALUES (ws, 'Globe Theatre', 'client') RETURNING id INTO client;
    INSERT INTO productions (workspace_id, name, description, status, start_date, end_date, budget, manager_id,
                             location_id, client_id, custom_fields)
        VALUES (ws, 'Hamlet', mark, 'active', '2026-03-01', '2026-06-30', 10000, lead, hall, client,
                '{"genre": "drama", "acts": 5}') RETURNING id INTO hamlet;

    INSERT INTO project_tasks (workspace_id, production_id, title, status, duration_days, completed_at)
        VALUES (ws, hamlet, 'Design the set', 'done', 3, '2026-03-04 12:00Z') RETURNING id INTO design;
    INSERT INTO project_tasks (workspace_id, production_id, title, duration_days, due_date, estimated_hours, assignee_id)
        VALUES (ws, hamlet, 'Build the set', 5, '2026-03-10', 40, lead) RETURNING id INTO build;
    INSERT INTO project_tasks (workspace_id, production_id, title, duration_days, due_date, estimated_hours, assignee_id)
        VALUES (ws, hamlet, 'Rehearse', 4, '2026-03-12', 20, lead) RETURNING id INTO rehearse;
    INSERT INTO project_tasks (workspace_id, production_id, title, duration_days, due_date)
        VALUES (ws, hamlet, 'Open', 1, '2026-03-20') RETURNING id INTO opening;
    INSERT INTO task_dependencies (workspace_id, task_id, depends_on_id) VALUES
        (ws, build, design), (ws, rehearse, design), (ws, opening, build), (ws, opening, rehearse);
    INSERT INTO project_safety (workspace_id, production_id, title, likelihood, severity) VALUES
        (ws, hamlet, 'Trapdoor', 3, 4), (ws, hamlet, 'Loose cable', 2, 2);
    INSERT INTO project_compliance (workspace_id, production_id, name, status, expires_on) VALUES
        (ws, hamlet, 'Fire permit', 'approved', '2026-03-15'), (ws, hamlet, 'Music license', 'approved', '2027-01-01');

    INSERT INTO events (workspace_id, production_id, location_id, name, description, status, start_time, end_time) VALUES
        (ws, hamlet, hall, 'Opening night', 'the first night of Hamlet', 'confirmed', '2026-03-20 19:00Z', '2026-03-20 22:00Z'),
        (ws, hamlet, hall, 'Gala', NULL, 'cancelled', '2026-03-20 21:30Z', '2026-03-20 23:30Z');

    INSERT INTO personnel (workspace_id, first_name, last_name, position, hourly_rate)
        VALUES (ws, 'Ada', 'Byron', 'stage manager', 50) RETURNING id INTO ada;
    INSERT INTO leave_requests (workspace_id, personnel_id, starts_on, ends_on, status)
        VALUES (ws, ada, '2026-03-11', '2026-03-12', 'approved');
    INSERT INTO personnel_assignments (workspace_id, personnel_id, production_id, role, starts_on, ends_on)
        VALUES (ws, ada, hamlet, 'stage manager', '2026-03-13', '2026-03-13');
    INSERT INTO time_entries (workspace_id, personnel_id, production_id, worked_on, hours)
        SELECT ws, ada, hamlet, '2026-03-09'::date + n, 9 FROM generate_series(0, 4) AS n;
    INSERT INTO training_records (workspace_id, personnel_id, name, expires_on)
        VALUES (ws, ada, 'Working at height', '2026-03-25');

    INSERT INTO assets (workspace_id, name, status, serial_number, purchase_price)
        VALUES (ws, 'Spotlight', 'in_use', 'SPOT-1', 1200) RETURNING id INTO lamp;
    INSERT INTO asset_transactions (workspace_id, asset_id, production_id, kind, happened_at) VALUES
        (ws, lamp, hamlet, 'check_out', '2026-03-02 12:00Z'), (ws, lamp, hamlet, 'check_in', '2026-03-05 12:00Z'),
        (ws, lamp, hamlet, 'check_out', '2026-03-09 12:00Z');

    INSERT INTO budgets (workspace_id, production_id, name, status, total_amount)
        VALUES (ws, hamlet, 'Season', 'approved', 8000) RETURNING id INTO plan;
    INSERT INTO budget_line_items (workspace_id, budget_id, description, planned_amount) VALUES
        (ws, plan, 'Set', 6000), (ws, plan, 'Light', 2000);
    INSERT INTO financial_transactions (workspace_id, production_id, company_id, kind, amount, occurred_on) VALUES
        (ws, hamlet, NULL, 'expense', 5000, '2026-03-03'), (ws, hamlet, NULL, 'expense', 1000, '2026-03-05'),
        (ws, hamlet, client, 'income', 9000, '2026-03-06');
    INSERT INTO invoices (workspace_id, company_id, production_id, invoice_number, status, issued_on, due_on, total_amount,
                          paid_amount) VALUES
        (ws, client, hamlet, 'INV-1', 'sent', '2026-03-01', '2026-03-31', 1000, 0),
        (ws, client, hamlet, 'INV-2', 'overdue', '2026-01-20', '2026-02-20', 500, 100),
        (ws, client, hamlet, 'INV-3', 'overdue', '2025-10-01', '2025-11-01', 300, 0),
        (ws, client, hamlet, 'INV-4', 'draft', '2026-03-01', '2026-04-01', 9999, 0);
    INSERT INTO payroll_records (workspace_id, personnel_id, period_start, period_end, status)
        VALUES (ws, ada, '2026-02-01', '2026-02-28', 'paid') RETURNING id INTO pay;
    INSERT INTO payroll_items (workspace_id, record_id, kind, description, amount) VALUES
        (ws, pay, 'earning', 'Salary', 4000), (ws, pay, 'deduction', 'Tax', 500);

    INSERT INTO files (workspace_id, name, storage_path, status) VALUES (ws, 'Hamlet script', mark || '/hamlet.pdf', 'published');
    INSERT INTO community_posts (workspace_id, user_id, title, content) VALUES (ws, lead, 'News', 'Rehearsals go well')
        RETURNING id INTO post;
    INSERT INTO comments (workspace_id, entity_type, entity_id, user_id, content)
        VALUES (ws, 'productions', hamlet, lead, 'To be, or not to be');
    INSERT INTO comments (workspace_id, entity_type, entity_id, user_id, content, parent_comment_id)
        SELECT ws, 'productions', hamlet, lead, 'That is the question', id FROM comments;
    INSERT INTO activities (workspace_id, user_id, action, entity_type, entity_id, created_at) VALUES
        (ws, lead, 'created', 'productions', hamlet, '2026-03-01 12:00Z'),
        (ws, lead, 'updated', 'productions', hamlet, '2024-03-01 12:00Z');
    INSERT INTO notifications (workspace_id, user_id, type, title) VALUES (ws, lead, 'task', 'Build the set is due');
    INSERT INTO onboarding_progress (workspace_id, user_id, step_code, completed_at)
        SELECT ws, lead, code, now() FROM onboarding_steps WHERE position < 4;
END
$$;
