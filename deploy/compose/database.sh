#!/bin/sh
# Run once by the image of PostgreSQL: the role that tenants' SQL runs as, and a table. `tenantproxy install` isolates it.
# The password comes by standard input: no process list and no log has it.
set -eu
{
    printf "\\\\set password '%s'\n" "$(cat "${SECRETS:-/run/secrets}/pg")"
    cat <<'SQL'
SET log_statement = 'none';
CREATE ROLE tenantproxy_app LOGIN NOINHERIT PASSWORD :'password';
CREATE DATABASE main;
\connect main
REVOKE ALL ON DATABASE main FROM PUBLIC;
GRANT CONNECT ON DATABASE main TO tenantproxy_app;
CREATE TABLE projects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    name text NOT NULL
);
INSERT INTO projects (tenant_id, name) VALUES ('acme', 'Rocket skates'), ('globex', 'Hammock district');
SQL
} | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres
