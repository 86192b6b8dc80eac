-- Three systems in two versions, and the way from one to the next. `0` is a tenant that has none of it.
INSERT INTO management_systems (system_id, name, description, type, vendor, status) VALUES
    ('crm', 'PrismicX CRM', 'Contacts, and what is to become of them', 'crm', 'PrismicX', 'active'),
    ('sales', 'PrismicX Sales', 'Orders', 'sales', 'PrismicX', 'active'),
    ('marketing', 'PrismicX Marketing', 'Campaigns', 'marketing', 'PrismicX', 'active');
INSERT INTO system_versions (version_id, system_id, version, schema_version, is_latest, release_date)
    SELECT s.system_id || '-' || v.version, s.system_id, v.version, v.number, v.number = 2, v.released
    FROM management_systems AS s, (VALUES ('1.0.0', 1, date '2023-01-15'), ('1.1.0', 2, date '2023-06-01'))
        AS v (version, number, released);
INSERT INTO schema_migrations (migration_id, system_id, version_from, version_to, schema_version_from,
    schema_version_to, migration_sql, rollback_sql, description) VALUES
('crm-1', 'crm', '0', '1.0.0', 0, 1, $$
CREATE TABLE contacts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(200) NOT NULL, email varchar(255),
    created_at timestamp NOT NULL DEFAULT now());
CREATE TABLE deals (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), contact_id uuid NOT NULL REFERENCES contacts (id),
    title varchar(200) NOT NULL, stage varchar(20) NOT NULL DEFAULT 'new', amount numeric(15, 2));
CREATE INDEX ON deals (contact_id);
$$, 'DROP TABLE deals; DROP TABLE contacts;', 'contacts and deals'),
('crm-2', 'crm', '1.0.0', '1.1.0', 1, 2, $$
ALTER TABLE contacts ADD COLUMN tax_number bytea;
COMMENT ON COLUMN contacts.tax_number IS 'encrypted by the service; the key is not in the database';
$$, 'ALTER TABLE contacts DROP COLUMN tax_number;', 'the tax number of a contact, encrypted'),
('sales-1', 'sales', '0', '1.0.0', 0, 1, $$
CREATE TABLE orders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number varchar(30) NOT NULL UNIQUE,
    total numeric(15, 2) NOT NULL, created_at timestamp NOT NULL DEFAULT now());
$$, 'DROP TABLE orders;', 'orders'),
('sales-2', 'sales', '1.0.0', '1.1.0', 1, 2,
 'ALTER TABLE orders ADD COLUMN discount numeric(5, 2) NOT NULL DEFAULT 0;', 'ALTER TABLE orders DROP COLUMN discount;',
 'discounts'),
('marketing-1', 'marketing', '0', '1.0.0', 0, 1, $$
CREATE TABLE campaigns (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(200) NOT NULL, starts_on date);
$$, 'DROP TABLE campaigns;', 'campaigns'),
('marketing-2', 'marketing', '1.0.0', '1.1.0', 1, 2,
 'ALTER TABLE campaigns ADD COLUMN budget numeric(15, 2);', 'ALTER TABLE campaigns DROP COLUMN budget;', 'budgets');
