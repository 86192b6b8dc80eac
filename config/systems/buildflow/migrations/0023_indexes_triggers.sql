-- Last, so that no module waits for them: an index for each foreign key, those of queries, and all triggers.
CREATE INDEX announcements_created_by_idx ON announcements (created_by);
CREATE INDEX approvals_decided_by_idx ON approvals (decided_by);
CREATE INDEX asset_assignments_asset_id_idx ON asset_assignments (asset_id);
CREATE INDEX asset_assignments_project_id_idx ON asset_assignments (project_id);
CREATE INDEX asset_assignments_user_id_idx ON asset_assignments (user_id);
CREATE INDEX attendance_shift_id_idx ON attendance (shift_id);
CREATE INDEX calendar_events_created_by_idx ON calendar_events (created_by);
CREATE INDEX calendar_events_project_id_idx ON calendar_events (project_id);
CREATE INDEX chart_of_accounts_parent_id_idx ON chart_of_accounts (parent_id);
CREATE INDEX client_contacts_client_id_idx ON client_contacts (client_id);
CREATE INDEX clients_created_by_idx ON clients (created_by);
CREATE INDEX crm_activities_lead_id_idx ON crm_activities (lead_id);
CREATE INDEX crm_activities_user_id_idx ON crm_activities (user_id);
CREATE INDEX departments_manager_id_idx ON departments (manager_id);
CREATE INDEX departments_parent_id_idx ON departments (parent_id);
CREATE INDEX documents_folder_id_idx ON documents (folder_id);
CREATE INDEX documents_project_id_idx ON documents (project_id);
CREATE INDEX documents_uploaded_by_idx ON documents (uploaded_by);
CREATE INDEX employee_details_department_id_idx ON employee_details (department_id);
CREATE INDEX event_attendees_user_id_idx ON event_attendees (user_id);
CREATE INDEX goods_receipts_order_id_idx ON goods_receipts (order_id);
CREATE INDEX goods_receipts_received_by_idx ON goods_receipts (received_by);
CREATE INDEX gst_transactions_hsn_sac_code_idx ON gst_transactions (hsn_sac_code);
CREATE INDEX gst_transactions_invoice_id_idx ON gst_transactions (invoice_id);
CREATE INDEX gst_transactions_return_id_idx ON gst_transactions (return_id);
CREATE INDEX inventory_items_category_id_idx ON inventory_items (category_id);
CREATE INDEX inventory_items_hsn_sac_code_idx ON inventory_items (hsn_sac_code);
CREATE INDEX inventory_items_supplier_id_idx ON inventory_items (supplier_id);
CREATE INDEX invoice_items_hsn_sac_code_idx ON invoice_items (hsn_sac_code);
CREATE INDEX invoice_items_invoice_id_idx ON invoice_items (invoice_id);
CREATE INDEX invoices_client_id_idx ON invoices (client_id);
CREATE INDEX invoices_project_id_idx ON invoices (project_id);
CREATE INDEX invoices_quotation_id_idx ON invoices (quotation_id);
CREATE INDEX jobs_category_id_idx ON jobs (category_id);
CREATE INDEX jobs_project_id_idx ON jobs (project_id);
CREATE INDEX journal_entries_created_by_idx ON journal_entries (created_by);
CREATE INDEX journal_entry_lines_account_id_idx ON journal_entry_lines (account_id);
CREATE INDEX journal_entry_lines_entry_id_idx ON journal_entry_lines (entry_id);
CREATE INDEX leads_assigned_to_idx ON leads (assigned_to);
CREATE INDEX leads_client_id_idx ON leads (client_id);
CREATE INDEX leads_source_id_idx ON leads (source_id);
CREATE INDEX leads_stage_id_idx ON leads (stage_id);
CREATE INDEX leave_requests_decided_by_idx ON leave_requests (decided_by);
CREATE INDEX leave_requests_employee_id_idx ON leave_requests (employee_id);
CREATE INDEX leave_requests_leave_type_id_idx ON leave_requests (leave_type_id);
CREATE INDEX notifications_user_id_idx ON notifications (user_id);
CREATE INDEX payments_invoice_id_idx ON payments (invoice_id);
CREATE INDEX payroll_employee_id_idx ON payroll (employee_id);
CREATE INDEX project_members_user_id_idx ON project_members (user_id);
CREATE INDEX projects_category_id_idx ON projects (category_id);
CREATE INDEX projects_client_id_idx ON projects (client_id);
CREATE INDEX projects_manager_id_idx ON projects (manager_id);
CREATE INDEX purchase_order_items_item_id_idx ON purchase_order_items (item_id);
CREATE INDEX purchase_order_items_order_id_idx ON purchase_order_items (order_id);
CREATE INDEX purchase_orders_request_id_idx ON purchase_orders (request_id);
CREATE INDEX purchase_orders_supplier_id_idx ON purchase_orders (supplier_id);
CREATE INDEX purchase_orders_warehouse_id_idx ON purchase_orders (warehouse_id);
CREATE INDEX purchase_request_items_item_id_idx ON purchase_request_items (item_id);
CREATE INDEX purchase_request_items_request_id_idx ON purchase_request_items (request_id);
CREATE INDEX purchase_requests_project_id_idx ON purchase_requests (project_id);
CREATE INDEX purchase_requests_requested_by_idx ON purchase_requests (requested_by);
CREATE INDEX quotation_items_quotation_id_idx ON quotation_items (quotation_id);
CREATE INDEX quotations_client_id_idx ON quotations (client_id);
CREATE INDEX quotations_project_id_idx ON quotations (project_id);
CREATE INDEX reimbursement_requests_category_id_idx ON reimbursement_requests (category_id);
CREATE INDEX reimbursement_requests_employee_id_idx ON reimbursement_requests (employee_id);
CREATE INDEX reimbursement_requests_project_id_idx ON reimbursement_requests (project_id);
CREATE INDEX saved_reports_created_by_idx ON saved_reports (created_by);
CREATE INDEX stock_levels_warehouse_id_idx ON stock_levels (warehouse_id);
CREATE INDEX stock_movements_item_id_idx ON stock_movements (item_id);
CREATE INDEX stock_movements_moved_by_idx ON stock_movements (moved_by);
CREATE INDEX stock_movements_project_id_idx ON stock_movements (project_id);
CREATE INDEX stock_movements_warehouse_id_idx ON stock_movements (warehouse_id);
CREATE INDEX task_comments_task_id_idx ON task_comments (task_id);
CREATE INDEX task_comments_user_id_idx ON task_comments (user_id);
CREATE INDEX task_time_entries_task_id_idx ON task_time_entries (task_id);
CREATE INDEX task_time_entries_user_id_idx ON task_time_entries (user_id);
CREATE INDEX tasks_assigned_to_idx ON tasks (assigned_to);
CREATE INDEX tasks_parent_id_idx ON tasks (parent_id);
CREATE INDEX tasks_project_id_idx ON tasks (project_id);
CREATE INDEX team_assignments_user_id_idx ON team_assignments (user_id);
CREATE INDEX user_roles_assigned_by_idx ON user_roles (assigned_by);
CREATE INDEX warehouses_manager_id_idx ON warehouses (manager_id);

CREATE INDEX attendance_day_idx ON attendance (day);
CREATE INDEX projects_status_idx ON projects (status);
CREATE INDEX tasks_open_idx ON tasks (due_date) WHERE status <> 'done';
CREATE INDEX invoices_status_idx ON invoices (status, due_date);
CREATE INDEX leave_requests_pending_idx ON leave_requests (created_at) WHERE status = 'pending';
CREATE INDEX notifications_unread_idx ON notifications (user_id, created_at) WHERE read_at IS NULL;
CREATE INDEX approvals_entity_id_idx ON approvals (entity_id);
CREATE INDEX audit_logs_record_idx ON audit_logs (table_name, record_id, changed_at);
CREATE INDEX clients_name_trgm_idx ON clients USING gin (name gin_trgm_ops);
CREATE INDEX leads_company_name_trgm_idx ON leads USING gin (company_name gin_trgm_ops);

CREATE TRIGGER agency_settings_updated_at BEFORE UPDATE ON agency_settings
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER announcements_updated_at BEFORE UPDATE ON announcements
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER assets_updated_at BEFORE UPDATE ON assets
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER attendance_updated_at BEFORE UPDATE ON attendance
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER calendar_events_updated_at BEFORE UPDATE ON calendar_events
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER clients_updated_at BEFORE UPDATE ON clients
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER crm_activities_updated_at BEFORE UPDATE ON crm_activities
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER departments_updated_at BEFORE UPDATE ON departments
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER employee_details_updated_at BEFORE UPDATE ON employee_details
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER gst_returns_updated_at BEFORE UPDATE ON gst_returns
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER gst_settings_updated_at BEFORE UPDATE ON gst_settings
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER inventory_items_updated_at BEFORE UPDATE ON inventory_items
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER invoices_updated_at BEFORE UPDATE ON invoices
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER jobs_updated_at BEFORE UPDATE ON jobs
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER leads_updated_at BEFORE UPDATE ON leads
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER leave_requests_updated_at BEFORE UPDATE ON leave_requests
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER payroll_updated_at BEFORE UPDATE ON payroll
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER payroll_periods_updated_at BEFORE UPDATE ON payroll_periods
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER profiles_updated_at BEFORE UPDATE ON profiles
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER projects_updated_at BEFORE UPDATE ON projects
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER purchase_orders_updated_at BEFORE UPDATE ON purchase_orders
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER purchase_requests_updated_at BEFORE UPDATE ON purchase_requests
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER quotations_updated_at BEFORE UPDATE ON quotations
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER reimbursement_requests_updated_at BEFORE UPDATE ON reimbursement_requests
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER saved_reports_updated_at BEFORE UPDATE ON saved_reports
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER suppliers_updated_at BEFORE UPDATE ON suppliers
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER tasks_updated_at BEFORE UPDATE ON tasks
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER users_updated_at BEFORE UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER users_audit AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE TRIGGER user_roles_audit AFTER INSERT OR UPDATE OR DELETE ON user_roles
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE TRIGGER employee_details_audit AFTER INSERT OR UPDATE OR DELETE ON employee_details
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE TRIGGER payroll_audit AFTER INSERT OR UPDATE OR DELETE ON payroll
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE TRIGGER invoices_audit AFTER INSERT OR UPDATE OR DELETE ON invoices
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE TRIGGER payments_audit AFTER INSERT OR UPDATE OR DELETE ON payments
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE TRIGGER purchase_orders_audit AFTER INSERT OR UPDATE OR DELETE ON purchase_orders
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE TRIGGER journal_entries_balance BEFORE INSERT OR UPDATE ON journal_entries
    FOR EACH ROW EXECUTE FUNCTION check_journal_balance();
CREATE TRIGGER stock_movements_apply AFTER INSERT ON stock_movements
    FOR EACH ROW EXECUTE FUNCTION apply_stock_movement();
