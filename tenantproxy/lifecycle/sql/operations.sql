-- Long work that programs asked the admin listener for, how far it is, and what came of it: any process may be asked.
-- PostgreSQL 14+. Running it again is the upgrade. It is the installing user's alone.
CREATE TABLE IF NOT EXISTS tenantproxy.operations (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key        text COLLATE "C" UNIQUE CHECK (pg_catalog.octet_length(key) BETWEEN 1 AND 200),  -- NULL: none was given
  asked      bytea NOT NULL,                           -- a hash of what was asked: no other request has its key
  change     text NOT NULL,                            -- backup, move, erase, ...
  tenant     text COLLATE "C",                         -- NULL: not of one tenant
  state      text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed', 'interrupted', 'cancelled')),
  done       bigint NOT NULL DEFAULT 0,
  total      bigint,                                   -- NULL: not known
  what       text NOT NULL DEFAULT '',                 -- what is being done
  result     jsonb,
  error      jsonb,
  holder     uuid NOT NULL,                            -- the process that works on it, and when it last said so
  seen_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
  started_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  ended_at   timestamptz,
  cancel_at  timestamptz);                             -- when someone asked that it ends
ALTER TABLE tenantproxy.operations ADD COLUMN IF NOT EXISTS cancel_at timestamptz;
DO $$ BEGIN                                            -- of a release without `cancelled`
  IF EXISTS (SELECT FROM pg_constraint WHERE conname = 'operations_state_check'
             AND conrelid = 'tenantproxy.operations'::regclass AND pg_get_constraintdef(oid) NOT LIKE '%cancelled%') THEN
    ALTER TABLE tenantproxy.operations DROP CONSTRAINT operations_state_check, ADD CONSTRAINT operations_state_check
      CHECK (state IN ('running', 'done', 'failed', 'interrupted', 'cancelled'));
  END IF;
END $$;
REVOKE ALL ON tenantproxy.operations FROM PUBLIC;
