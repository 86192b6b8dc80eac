-- What an agency of the demo has on its first day; run as the agency.
INSERT INTO clients (name, company_name, email, gstin) VALUES
    ('Asha Rao', 'Rao Estates', 'asha@rao.example', '29ABCDE1234F1Z5'),
    ('Vikram Shah', 'Shah Infra', 'vikram@shah.example', '27PQRSX6789K1Z2');
INSERT INTO projects (name, client_id, category_id, status, budget)
    SELECT 'Villa', c.id, j.id, 'active', 4500000 FROM clients AS c, job_categories AS j
    WHERE c.company_name = 'Rao Estates' AND j.name = 'Civil';
INSERT INTO tasks (project_id, title, priority) SELECT id, 'Lay the foundation', 'high' FROM projects;
INSERT INTO invoices (invoice_number, client_id, project_id, subtotal, tax_amount, status)
    SELECT next_number('inv', current_date), client_id, id, 100000, 18000, 'sent' FROM projects;
INSERT INTO leads (company_name, source_id, stage_id, estimated_value)
    SELECT 'Metro Mall', s.id, g.id, 9000000 FROM lead_sources AS s, sales_stages AS g
    WHERE s.name = 'Tender' AND g.name = 'New';
INSERT INTO suppliers (name) VALUES ('Deccan Cement');
INSERT INTO inventory_items (sku, name, category_id, supplier_id, hsn_sac_code, unit, unit_cost, reorder_level)
    SELECT 'CEM-53', 'Cement, grade 53', c.id, s.id, '2523', 'bag', 380, 200
    FROM inventory_categories AS c, suppliers AS s WHERE c.name = 'Cement';
INSERT INTO stock_movements (item_id, warehouse_id, quantity, reason)
    SELECT i.id, w.id, 500, 'purchase' FROM inventory_items AS i, warehouses AS w;
