-- Sessions of people, and what was revoked. PostgreSQL 14+. Running it again is the upgrade: each step runs once, in order.
-- Comes after keeper.sql, in one transaction; the keeper owns all of it. The router's role may read what was revoked and
-- call the functions; of the sessions it sees those whose refresh token it was given, and of a user that it names, the ids.
GRANT tenantproxy_keeper TO CURRENT_USER;              -- only needed when not superuser; revoked below
SET LOCAL ROLE tenantproxy_keeper;
CREATE TABLE IF NOT EXISTS tenantproxy.auth_version (
  version    int PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT pg_catalog.now());
REVOKE ALL ON tenantproxy.auth_version FROM PUBLIC;

DO $$
BEGIN
  IF EXISTS (SELECT FROM tenantproxy.auth_version WHERE version > 2) THEN
    RAISE EXCEPTION 'tenantproxy: the sessions were installed by a newer release'
      USING ERRCODE = '55000', HINT = 'install with that release, or a newer one';
  END IF;

  IF NOT EXISTS (SELECT FROM tenantproxy.auth_version WHERE version = 1) THEN
    -- When all tokens of a tenant were last revoked, in Unix seconds, rising. Never deleted: a token carries it.
    CREATE TABLE tenantproxy.tenant_epochs (
      tenant  text COLLATE "C" PRIMARY KEY CHECK (pg_catalog.octet_length(tenant) BETWEEN 1 AND 63),
      epoch   bigint NOT NULL CHECK (epoch > 0),
      changed xid8 NOT NULL);
    CREATE INDEX tenant_epochs_changed ON tenantproxy.tenant_epochs (changed);

    -- Single sessions and tokens, until the last access token that they concern has expired by itself.
    CREATE TABLE tenantproxy.revoked (
      kind    text COLLATE "C" NOT NULL CHECK (kind IN ('session', 'token')),
      id      text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(id) BETWEEN 1 AND 256),
      until   timestamptz NOT NULL,
      changed xid8 NOT NULL,
      PRIMARY KEY (kind, id));
    CREATE INDEX revoked_until ON tenantproxy.revoked (until);
    CREATE INDEX revoked_changed ON tenantproxy.revoked (changed);

    -- One row for each session: a refresh token names its family and proves itself with a secret; both are kept hashed.
    CREATE TABLE tenantproxy.sessions (
      family     bytea PRIMARY KEY CHECK (pg_catalog.octet_length(family) = 32),
      id         text COLLATE "C" NOT NULL UNIQUE CHECK (pg_catalog.octet_length(id) BETWEEN 1 AND 256),
      tenant     text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(tenant) BETWEEN 1 AND 63),
      user_id    text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(user_id) BETWEEN 1 AND 1024),
      epoch      bigint NOT NULL,            -- of the tenant when it began: a session does not pass to another tenant
      claims     text NOT NULL CHECK (pg_catalog.octet_length(claims) <= 8192),
      kid        text NOT NULL,              -- mac: only who has that key could make this row
      mac        bytea NOT NULL,
      current    bytea NOT NULL,             -- hash of the secret that is good now
      previous   bytea,                      -- of the one before it
      sealed     bytea,                      -- the current secret, to be opened with the one before it and the key kid
      rotated_at timestamptz NOT NULL,
      idle_until timestamptz NOT NULL,       -- never later than the next
      expires_at timestamptz NOT NULL);
    CREATE INDEX sessions_of_user ON tenantproxy.sessions (tenant, user_id);
    CREATE INDEX sessions_idle_until ON tenantproxy.sessions (idle_until);
    REVOKE ALL ON tenantproxy.tenant_epochs, tenantproxy.revoked, tenantproxy.sessions FROM PUBLIC;
    INSERT INTO tenantproxy.auth_version (version) VALUES (1);
  END IF;

  IF NOT EXISTS (SELECT FROM tenantproxy.auth_version WHERE version = 2) THEN
    -- Where all sessions of a user were ended: a login that began before that was committed opens none. Kept for longer
    -- than a login and the choice of a tenant can take.
    CREATE TABLE tenantproxy.session_ends (
      tenant  text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(tenant) BETWEEN 1 AND 63),
      user_id text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(user_id) BETWEEN 1 AND 1024),
      changed xid8 NOT NULL,                 -- the transaction that ended them
      until   timestamptz NOT NULL,
      PRIMARY KEY (tenant, user_id));
    CREATE INDEX session_ends_until ON tenantproxy.session_ends (until);
    REVOKE ALL ON tenantproxy.session_ends FROM PUBLIC;
    DROP FUNCTION IF EXISTS tenantproxy.open_session(
      bytea, text, text, text, bigint, text, text, bytea, bytea, float8, float8);
    INSERT INTO tenantproxy.auth_version (version) VALUES (2);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION tenantproxy.revoke(p_kind text, p_id text, p_seconds float8) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  INSERT INTO tenantproxy.revoked AS r (kind, id, until, changed)
  VALUES (p_kind, p_id, clock_timestamp() + make_interval(secs => p_seconds), pg_current_xact_id())
  ON CONFLICT (kind, id) DO UPDATE SET until = greatest(r.until, excluded.until), changed = excluded.changed;
  PERFORM pg_notify('tenantproxy_revocations', p_kind);
END $f$;

-- All tokens and sessions of a tenant; the number that its tokens carry from now on.
CREATE OR REPLACE FUNCTION tenantproxy.revoke_tenant(p_tenant text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  v_epoch bigint;
BEGIN
  INSERT INTO tenantproxy.tenant_epochs AS t (tenant, epoch, changed)
  VALUES (p_tenant, floor(extract(epoch FROM clock_timestamp()))::bigint, pg_current_xact_id())
  ON CONFLICT (tenant) DO UPDATE SET epoch = greatest(t.epoch + 1, excluded.epoch), changed = excluded.changed
  RETURNING epoch INTO v_epoch;
  DELETE FROM tenantproxy.sessions WHERE tenant = p_tenant;
  PERFORM pg_notify('tenantproxy_revocations', 'tenant');
  RETURN v_epoch;
END $f$;

-- On our own table of tenants: a tenant that is deleted, stopped or moved takes its tokens with it.
CREATE OR REPLACE FUNCTION tenantproxy.tenant_left() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM tenantproxy.revoke_tenant(OLD.id);
  RETURN NULL;
END $f$;

-- One at a time for a user: ending all sessions and opening one wait for each other to commit.
CREATE OR REPLACE FUNCTION tenantproxy.lock_sessions_of(p_tenant text, p_user text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  SELECT pg_advisory_xact_lock(hashtextextended(p_tenant || '/' || p_user, 7418529630))
$f$;

-- p_as_of: a snapshot of before the password was read; NULL: nothing is known of it. False: all sessions of the user were
-- ended since then, so that the password may have been the former one.
CREATE OR REPLACE FUNCTION tenantproxy.open_session(
  p_family bytea, p_id text, p_tenant text, p_user text, p_epoch bigint, p_claims text, p_kid text, p_mac bytea,
  p_secret bytea, p_idle float8, p_lifetime float8, p_as_of text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM tenantproxy.lock_sessions_of(p_tenant, p_user);
  IF p_as_of IS NOT NULL AND EXISTS (
    SELECT FROM tenantproxy.session_ends
    WHERE tenant = p_tenant AND user_id = p_user AND until > clock_timestamp()
      AND NOT pg_visible_in_snapshot(changed, p_as_of::pg_snapshot)) THEN
    RETURN false;
  END IF;
  INSERT INTO tenantproxy.sessions
    (family, id, tenant, user_id, epoch, claims, kid, mac, current, rotated_at, idle_until, expires_at)
  VALUES (p_family, p_id, p_tenant, p_user, p_epoch, p_claims, p_kid, p_mac, p_secret, clock_timestamp(),
          clock_timestamp() + make_interval(secs => least(p_idle, p_lifetime)),
          clock_timestamp() + make_interval(secs => p_lifetime));
  RETURN true;
END $f$;

CREATE OR REPLACE FUNCTION tenantproxy.find_session(p_family bytea)
RETURNS TABLE (id text, tenant text, user_id text, epoch bigint, claims text, kid text, mac bytea, expired boolean)
LANGUAGE sql SECURITY DEFINER STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT s.id, s.tenant, s.user_id, s.epoch, s.claims, s.kid, s.mac, s.idle_until <= clock_timestamp()
  FROM tenantproxy.sessions s WHERE s.family = p_family
$f$;

-- What an operator sees of the sessions of one user, the newest first: nothing that proves one.
CREATE OR REPLACE FUNCTION tenantproxy.sessions_of(p_tenant text, p_user text, p_limit int)
RETURNS TABLE (id text, last_used timestamptz, idle_until timestamptz, expires_at timestamptz)
LANGUAGE sql SECURITY DEFINER STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT s.id, s.rotated_at, s.idle_until, s.expires_at FROM tenantproxy.sessions s
  WHERE s.tenant = p_tenant AND s.user_id = p_user AND s.idle_until > clock_timestamp()
  ORDER BY s.rotated_at DESC LIMIT p_limit
$f$;

-- 'rotated': p_next is good now. 'again': another call was first within the grace, with that secret; its token: o_sealed.
-- 'reused': a secret that was good once, or never: the session is over. 'unknown': no such session.
CREATE OR REPLACE FUNCTION tenantproxy.rotate_session(
  p_family bytea, p_secret bytea, p_next bytea, p_sealed bytea, p_kid text, p_mac bytea,
  p_idle float8, p_grace float8, p_seconds float8, OUT o_outcome text, OUT o_sealed bytea, OUT o_kid text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  s tenantproxy.sessions;
BEGIN
  SELECT * INTO s FROM tenantproxy.sessions WHERE family = p_family FOR UPDATE;  -- one at a time
  IF NOT FOUND OR s.idle_until <= clock_timestamp() THEN
    o_outcome := 'unknown';
  ELSIF s.current = p_secret THEN
    UPDATE tenantproxy.sessions
    SET previous = current, current = p_next, sealed = p_sealed, kid = p_kid, mac = p_mac, rotated_at = clock_timestamp(),
        idle_until = least(clock_timestamp() + make_interval(secs => p_idle), expires_at)
    WHERE family = p_family;
    o_outcome := 'rotated';
  ELSIF s.previous = p_secret AND clock_timestamp() < s.rotated_at + make_interval(secs => p_grace) THEN
    o_outcome := 'again';
    o_sealed := s.sealed;
    o_kid := s.kid;
  ELSE
    DELETE FROM tenantproxy.sessions WHERE family = p_family;
    PERFORM tenantproxy.revoke('session', s.id, p_seconds);
    o_outcome := 'reused';
  END IF;
END $f$;

-- Logout, by whatever is not NULL: a family, a session's id, or all of one user. The ids of those that were ended. Who
-- logs in as that user while this runs, or chooses a tenant with a token of before, begins no session.
CREATE OR REPLACE FUNCTION tenantproxy.end_sessions(
  p_family bytea, p_id text, p_tenant text, p_user text, p_seconds float8) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  v_id text;
BEGIN
  IF p_tenant IS NOT NULL AND p_user IS NOT NULL THEN
    PERFORM tenantproxy.lock_sessions_of(p_tenant, p_user);
    INSERT INTO tenantproxy.session_ends (tenant, user_id, changed, until)
    VALUES (p_tenant, p_user, pg_current_xact_id(), clock_timestamp() + interval '1 hour')
    ON CONFLICT (tenant, user_id) DO UPDATE SET changed = excluded.changed, until = excluded.until;
  END IF;
  FOR v_id IN DELETE FROM tenantproxy.sessions
              WHERE family = p_family OR id = p_id OR (tenant = p_tenant AND user_id = p_user) RETURNING id LOOP
    PERFORM tenantproxy.revoke('session', v_id, p_seconds);
    RETURN NEXT v_id;
  END LOOP;
END $f$;

-- Takes away what has ended by itself, at most p_limit of each; never waits for a row.
CREATE OR REPLACE FUNCTION tenantproxy.sweep_auth(p_limit int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  WITH sessions AS (
    DELETE FROM tenantproxy.sessions WHERE family IN (
      SELECT family FROM tenantproxy.sessions WHERE idle_until <= now() LIMIT p_limit FOR UPDATE SKIP LOCKED) RETURNING 1
  ), revoked AS (
    DELETE FROM tenantproxy.revoked WHERE (kind, id) IN (
      SELECT kind, id FROM tenantproxy.revoked WHERE until <= now() LIMIT p_limit FOR UPDATE SKIP LOCKED) RETURNING 1
  ), ends AS (
    DELETE FROM tenantproxy.session_ends WHERE (tenant, user_id) IN (
      SELECT tenant, user_id FROM tenantproxy.session_ends WHERE until <= now() LIMIT p_limit FOR UPDATE SKIP LOCKED)
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM revoked) + (SELECT count(*) FROM ends)
$f$;

REVOKE ALL ON FUNCTION tenantproxy.revoke(text, text, float8), tenantproxy.revoke_tenant(text), tenantproxy.tenant_left(),
  tenantproxy.lock_sessions_of(text, text),
  tenantproxy.open_session(bytea, text, text, text, bigint, text, text, bytea, bytea, float8, float8, text),
  tenantproxy.find_session(bytea),
  tenantproxy.rotate_session(bytea, bytea, bytea, bytea, text, bytea, float8, float8, float8),
  tenantproxy.end_sessions(bytea, text, text, text, float8), tenantproxy.sweep_auth(int),
  tenantproxy.sessions_of(text, text, int) FROM PUBLIC;
GRANT USAGE ON SCHEMA tenantproxy TO :"app";
GRANT SELECT ON tenantproxy.tenant_epochs, tenantproxy.revoked TO :"app";
GRANT EXECUTE ON FUNCTION tenantproxy.revoke(text, text, float8), tenantproxy.revoke_tenant(text),
  tenantproxy.open_session(bytea, text, text, text, bigint, text, text, bytea, bytea, float8, float8, text),
  tenantproxy.find_session(bytea),
  tenantproxy.rotate_session(bytea, bytea, bytea, bytea, text, bytea, float8, float8, float8),
  tenantproxy.end_sessions(bytea, text, text, text, float8), tenantproxy.sweep_auth(int),
  tenantproxy.sessions_of(text, text, int) TO :"app";
GRANT EXECUTE ON FUNCTION tenantproxy.tenant_left() TO SESSION_USER;  -- to make the triggers below
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;

-- Where tenants are registered in our own table: a tenant that is deleted, renamed, moved or stopped takes its tokens with it.
DO $$
BEGIN
  IF pg_catalog.to_regclass('tenantproxy.tenants') IS NOT NULL THEN
    CREATE OR REPLACE TRIGGER tenant_gone AFTER DELETE ON tenantproxy.tenants
      FOR EACH ROW EXECUTE FUNCTION tenantproxy.tenant_left();
    CREATE OR REPLACE TRIGGER tenant_left AFTER UPDATE ON tenantproxy.tenants
      FOR EACH ROW WHEN (
        OLD.id <> NEW.id
        OR (OLD.isolation, OLD.server, OLD.database, OLD.schema, OLD.role)
           IS DISTINCT FROM (NEW.isolation, NEW.server, NEW.database, NEW.schema, NEW.role)
        OR (OLD.status <> NEW.status AND NEW.status IN ('suspended', 'inactive', 'deleting')))
      EXECUTE FUNCTION tenantproxy.tenant_left();
  END IF;
END $$;
