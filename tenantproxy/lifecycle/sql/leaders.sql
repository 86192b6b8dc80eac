-- Which process does work that one at a time is to do? It says so again and again; one that is silent is replaced.
-- PostgreSQL 14+. Running it again is the upgrade. It is the installing user's alone.
CREATE TABLE IF NOT EXISTS tenantproxy.leaders (
  work    text COLLATE "C" PRIMARY KEY,
  holder  uuid NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT pg_catalog.now());
REVOKE ALL ON tenantproxy.leaders FROM PUBLIC;
