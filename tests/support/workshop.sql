-- An ordinary application's database: thirty tables of one role, which knows nothing of tenantproxy.
CREATE TYPE order_state AS ENUM ('draft', 'open', 'done', 'cancelled');
CREATE DOMAIN percentage AS numeric(5, 2) CHECK (VALUE BETWEEN 0 AND 100);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TABLE companies (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, status text NOT NULL DEFAULT 'active',
  plan text NOT NULL DEFAULT 'free', created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE countries (code char(2) PRIMARY KEY, name text NOT NULL);
CREATE TABLE currencies (code char(3) PRIMARY KEY, name text NOT NULL);
CREATE TABLE units (id smallint PRIMARY KEY, name text NOT NULL);
CREATE TABLE schema_migrations (version text PRIMARY KEY);
CREATE SEQUENCE invoice_numbers;
CREATE TABLE users (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies ON DELETE CASCADE,
  email text NOT NULL, name text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), UNIQUE (company_id, email));
CREATE TABLE customers (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, name text NOT NULL,
  country char(2) REFERENCES countries, owner_id bigint REFERENCES users ON DELETE SET NULL,
  updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE orders (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, customer_id bigint NOT NULL
  REFERENCES customers, state order_state NOT NULL DEFAULT 'draft', discount percentage, currency char(3) REFERENCES currencies,
  updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies,
  order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, unit_id smallint REFERENCES units, amount numeric NOT NULL);
CREATE TABLE order_notes (id bigserial PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, text text);
CREATE TABLE invoices (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, order_id bigint
  REFERENCES orders DEFERRABLE INITIALLY DEFERRED, number bigint NOT NULL DEFAULT nextval('invoice_numbers'), total numeric,
  UNIQUE (company_id, number));
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, company_id bigint NOT NULL, happened_at timestamptz NOT NULL,
  what text, PRIMARY KEY (company_id, id, happened_at)) PARTITION BY RANGE (happened_at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE projects (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, users_id bigint REFERENCES users, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE tasks (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, projects_id bigint REFERENCES projects, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE comments (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, tasks_id bigint REFERENCES tasks, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE attachments (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, comments_id bigint REFERENCES comments, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE tags (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, attachments_id bigint REFERENCES attachments, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE suppliers (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, tags_id bigint REFERENCES tags, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE products (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, suppliers_id bigint REFERENCES suppliers, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE prices (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, products_id bigint REFERENCES products, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE stock_moves (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, prices_id bigint REFERENCES prices, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE warehouses (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, stock_moves_id bigint REFERENCES stock_moves, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE payments (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, warehouses_id bigint REFERENCES warehouses, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE expenses (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, payments_id bigint REFERENCES payments, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE time_entries (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, expenses_id bigint REFERENCES expenses, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE holidays (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, time_entries_id bigint REFERENCES time_entries, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE settings (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, holidays_id bigint REFERENCES holidays, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE webhooks (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, settings_id bigint REFERENCES settings, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE api_keys (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, webhooks_id bigint REFERENCES webhooks, name text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE reports (id bigserial PRIMARY KEY, company_id bigint NOT NULL REFERENCES companies, api_keys_id bigint REFERENCES api_keys, name text, created_at timestamptz NOT NULL DEFAULT now());

CREATE VIEW open_orders AS SELECT o.id, o.company_id, c.name AS customer FROM orders o JOIN customers c ON c.id = o.customer_id
  WHERE o.state = 'open';
CREATE VIEW late_orders AS SELECT * FROM open_orders WHERE customer IS NOT NULL;
CREATE MATERIALIZED VIEW sales AS SELECT company_id, count(*) AS orders FROM orders GROUP BY company_id;
CREATE FUNCTION order_total(bigint) RETURNS numeric LANGUAGE sql STABLE AS
  'SELECT coalesce(sum(amount), 0) FROM order_items WHERE order_id = $1';
CREATE TRIGGER touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
