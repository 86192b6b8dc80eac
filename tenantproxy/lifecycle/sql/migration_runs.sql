-- Who migrates the tenants' schemas, and how far it is: one at a time, by a row, for a session's lock is lost in poolers.
-- PostgreSQL 14+. Running it again is the upgrade. It is the installing user's alone.
CREATE TABLE IF NOT EXISTS tenantproxy.migration_runs (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  state      text NOT NULL,                            -- running, done, stopped, lost: its process said nothing more
  holder     uuid NOT NULL,
  seen_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
  started_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  ended_at   timestamptz,
  total      int NOT NULL DEFAULT 0,
  done       int NOT NULL DEFAULT 0,
  failed     int NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS migration_runs_one ON tenantproxy.migration_runs (state) WHERE state = 'running';
REVOKE ALL ON tenantproxy.migration_runs FROM PUBLIC;
