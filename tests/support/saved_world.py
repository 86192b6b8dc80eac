"""What is hard to save? Tenants that have all of it: keys in circles, partitions, values that must be escaped."""

from __future__ import annotations

from typing import Final

from tenantproxy.lifecycle import isolate_table
from tenantproxy.lifecycle.migrate.journal import ensure_journal, write_journal
from tenantproxy.lifecycle.migrate.plan import Applied
from tenantproxy.lifecycle.provisioner import grant_access
from tenantproxy.model import Isolation
from tests.support.world import APP_ROLE, World

__all__ = ["APPLIED", "SHARED_TABLES", "furnish_for_backups"]

SHARED_TABLES: Final = ("people", "notes", "events", "left_side", "right_side", "projects")
"""Of row tenants."""

APPLIED: Final = Applied(version=1, name="things", checksum="0")
"""What the journal says of each schema tenant."""

_SHARED: Final = r"""
CREATE TYPE mood AS ENUM ('fine', 'so-so');
CREATE TABLE people (
  tenant_id text NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, boss bigint, name text NOT NULL,
  mood mood, born date, paid numeric(10, 2), tags text[], face bytea, about jsonb, seen timestamptz, empty text,
  loud text GENERATED ALWAYS AS (upper(name)) STORED,
  PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, boss) REFERENCES people);
CREATE TABLE notes (
  tenant_id text NOT NULL, id serial, person bigint NOT NULL, body text,
  PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, person) REFERENCES people);
CREATE TABLE events (tenant_id text NOT NULL, at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
CREATE TABLE left_side (tenant_id text NOT NULL, id int, other int, PRIMARY KEY (tenant_id, id));
CREATE TABLE right_side (tenant_id text NOT NULL, id int, other int, PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, other) REFERENCES left_side);
ALTER TABLE left_side ADD CONSTRAINT to_the_right FOREIGN KEY (tenant_id, other) REFERENCES right_side
  DEFERRABLE INITIALLY IMMEDIATE;
"""
_ROWS: Final = r"""
INSERT INTO people (tenant_id, name, mood, born, paid, tags, face, about, seen, empty)
  SELECT t.id, E'tab\there, \\N, line\nend, ü ' || n, 'so-so', '0044-03-15 BC',
    n / 3.0, ARRAY['a,b', NULL, '"'], '\x00ff5c0a', '{"a": "\\t"}', now(), NULLIF('', n::text)
  FROM unnest('{row1,row2}'::text[]) AS t (id), generate_series(1, 1200) n;
UPDATE people p SET boss = (SELECT max(id) FROM people b WHERE b.tenant_id = p.tenant_id) WHERE id % 5 = 0;
INSERT INTO notes (tenant_id, person, body) SELECT tenant_id, id, name FROM people;
INSERT INTO events SELECT 'row1', '2019-12-30'::date + n, 'e' || n FROM generate_series(0, 3) n;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO left_side VALUES ('row1', 1, 2);
INSERT INTO right_side VALUES ('row1', 2, 1);
COMMIT;
"""
_OWN: Final = r"""
CREATE TYPE {schema}.size AS ENUM ('s', 'm');
CREATE TABLE {schema}.things (id serial PRIMARY KEY, size {schema}.size, body text DEFAULT 'x', part_of int
  REFERENCES {schema}.things, UNIQUE (body, id));
INSERT INTO {schema}.things (size, body) SELECT 'm', 'thing ' || n FROM generate_series(1, 50) n;
CREATE TABLE {schema}.sealed (secret text);
INSERT INTO {schema}.sealed VALUES ('for the operator alone');
CREATE VIEW {schema}.small WITH (security_invoker = true) AS SELECT id FROM {schema}.things WHERE size = 's';
REVOKE ALL ON {schema}.sealed FROM {role};
GRANT SELECT (secret) ON {schema}.sealed TO {role};
GRANT SELECT ON {schema}.things TO an_auditor;
"""


async def furnish_for_backups(world: World) -> None:
    """Row tenants row1 and row2 share the tables; schema and database tenants have their own."""
    async with world.shared.connect() as conn:
        await conn.execute("CREATE ROLE an_auditor")
        await conn.execute(_SHARED)
        await conn.execute(_ROWS)
        for table in SHARED_TABLES[:-1]:
            await isolate_table(conn, table)
        await grant_access(conn, "public", role=APP_ROLE, is_shared=True)
    for tenant in (*world.of(Isolation.SCHEMA), *world.of(Isolation.DATABASE)):
        async with world.database(tenant).connect() as conn:
            schema, role = tenant.placement.schema or "public", world.role_of(tenant)
            await conn.execute(_OWN.format(schema=schema, role=role))
            if tenant.placement.schema is not None:
                await ensure_journal(conn, is_own=False)
                await write_journal(conn, schema, [APPLIED])
