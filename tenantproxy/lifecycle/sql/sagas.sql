-- Tenants that are being made, moved or removed, and how far each is: a crash at any moment leaves a row that says what may be there.
-- PostgreSQL 14+. Running it again is the upgrade. It is the installing user's alone: the router's role does not see it.
CREATE TABLE IF NOT EXISTS tenantproxy.sagas (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key        text COLLATE "C" NOT NULL UNIQUE CHECK (pg_catalog.octet_length(key) BETWEEN 1 AND 200),
  tenant     text COLLATE "C" NOT NULL,
  state      text NOT NULL,
  wanted     jsonb NOT NULL,
  database   oid,                                      -- of the database or schema that was made, which has no other
  schema     oid,
  error      text,
  holder     uuid,                                     -- the process that works on it, and when it last said so
  seen_at    timestamptz,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  updated_at timestamptz NOT NULL DEFAULT pg_catalog.now());
ALTER TABLE tenantproxy.sagas
  ADD COLUMN IF NOT EXISTS stocked text,               -- the mark of the database that came from the stock
  ADD COLUMN IF NOT EXISTS admin jsonb;                -- the first account, until the saga has ended
CREATE UNIQUE INDEX IF NOT EXISTS sagas_one_each ON tenantproxy.sagas (tenant) WHERE state NOT IN ('active', 'cleaned');
CREATE INDEX IF NOT EXISTS sagas_of_tenant ON tenantproxy.sagas (tenant, id);
-- create; delete and archive, of what a tenant has; move. What was removed for good stays as a row: a name comes once.
ALTER TABLE tenantproxy.sagas ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'create';
ALTER TABLE tenantproxy.sagas ADD COLUMN IF NOT EXISTS notes jsonb NOT NULL DEFAULT '{}';
CREATE INDEX IF NOT EXISTS sagas_gone ON tenantproxy.sagas (pg_catalog.lower(tenant)) WHERE kind = 'delete' AND state = 'cleaned';
REVOKE ALL ON tenantproxy.sagas FROM PUBLIC;

-- Databases that are kept ready for tenants to come. One that is taken leaves its row in the transaction of its saga.
CREATE TABLE IF NOT EXISTS tenantproxy.stock (
  mark       text COLLATE "C" PRIMARY KEY CHECK (mark ~ '^[0-9a-f]{32}$'),  -- its name is tenantproxy_new_MARK
  server     text NOT NULL,
  content    text NOT NULL,                            -- a hash of the files that ran in it
  state      text NOT NULL CHECK (state IN ('making', 'ready', 'going')),
  database   oid,                                      -- known when it is ready
  holder     uuid,
  seen_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now());
CREATE INDEX IF NOT EXISTS stock_of_server ON tenantproxy.stock (server, content, created_at);
REVOKE ALL ON tenantproxy.stock FROM PUBLIC;
