-- Who logged in, failed to, was locked out, logged out: written by the router's role, which can neither read nor change it.
-- PostgreSQL 14+. Running it again is the upgrade. Comes after sessions.sql; the keeper owns it. Reading and deleting old
-- rows is for an administrator: GRANT SELECT ON tenantproxy.audit_log TO ...; DELETE FROM tenantproxy.audit_log WHERE at < ...
GRANT tenantproxy_keeper TO CURRENT_USER;              -- only needed when not superuser; revoked below
SET LOCAL ROLE tenantproxy_keeper;
CREATE TABLE IF NOT EXISTS tenantproxy.audit_log (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      timestamptz NOT NULL,
  kind    text NOT NULL,              -- login_succeeded, login_failed, ...: the name of the event
  tenant  text,
  user_id text,
  account text,                       -- a keyed hash of the e-mail address: equal for equal addresses
  address text,                       -- of the client
  detail  jsonb NOT NULL);            -- the event's other fields
CREATE INDEX IF NOT EXISTS audit_log_at ON tenantproxy.audit_log (at);
CREATE INDEX IF NOT EXISTS audit_log_of_user ON tenantproxy.audit_log (tenant, user_id, at);
REVOKE ALL ON tenantproxy.audit_log FROM PUBLIC;

CREATE OR REPLACE FUNCTION tenantproxy.record_audit(p_events jsonb) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  WITH written AS (
    INSERT INTO tenantproxy.audit_log (at, kind, tenant, user_id, account, address, detail)
    SELECT to_timestamp(e.at), e.kind, e.tenant, e.user_id, e.account, e.address, coalesce(e.detail, '{}')
    FROM jsonb_to_recordset(p_events)
      AS e (at float8, kind text, tenant text, user_id text, account text, address text, detail jsonb)
    RETURNING 1)
  SELECT count(*) FROM written
$f$;
REVOKE ALL ON FUNCTION tenantproxy.record_audit(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.record_audit(jsonb) TO :"app", SESSION_USER;  -- who installs makes tenants too
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
