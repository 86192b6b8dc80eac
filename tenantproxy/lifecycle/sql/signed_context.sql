-- tenantproxy signed tenant context. Running it again is the upgrade, and the install in the next database of a server.
-- Comes after keeper.sql and before bound_lease.sql; lifecycle/install.py runs them all in one transaction, since a failure must not
-- leave the installer in the keeper role. It fills in the role that runs tenant SQL (here a variable of psql: --single-transaction
-- -v app=...) and the setting of [row].
-- Install as superuser, or as a database owner with CREATEROLE (16+: the one who created the keeper).
GRANT tenantproxy_keeper TO CURRENT_USER;              -- only needed when not superuser; revoked below
SET LOCAL ROLE tenantproxy_keeper;                     -- from here on anything that the keeper does not own is an error

CREATE TABLE IF NOT EXISTS tenantproxy.context_key (   -- HMAC key, stored as key XOR 0x36.. and key XOR 0x5c..
  kid       smallint PRIMARY KEY CHECK (kid BETWEEN 0 AND 9),
  ipad      bytea NOT NULL CHECK (octet_length(ipad) = 64),
  opad      bytea NOT NULL CHECK (octet_length(opad) = 64),
  not_after timestamptz NOT NULL DEFAULT 'infinity');
CREATE TABLE IF NOT EXISTS tenantproxy.fenced_tenant ( -- suspended / being moved: refused from the next snapshot on
  tenant_id text PRIMARY KEY, reason text NOT NULL, since timestamptz NOT NULL DEFAULT now());
REVOKE ALL ON tenantproxy.context_key, tenantproxy.fenced_tenant FROM PUBLIC;

-- A proof is 114 characters: v1.<kid 1>.<pid 10>.<from_us 16>.<to_us 16>.<mac 64 hex>
-- mac = HMAC-SHA256(key, 'v1.<kid>.<pid>.<from>.<to>.' || database || '|' || tenant); pid 0 = any backend
-- Returns its end (to_us) when it holds now, for this backend, else NULL. Only the functions of the keeper call it.
CREATE OR REPLACE FUNCTION tenantproxy.proof_until(tenant text, proof text) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
AS $f$
DECLARE
  signed bytea;
  mac    bytea;
BEGIN
  IF tenant <> '' AND length(proof) = 114 THEN
    IF substr(proof, 6, 10)::bigint IN (0, pg_backend_pid())
       AND round(date_part('epoch', transaction_timestamp()) * 1e6::float8)::bigint
           BETWEEN substr(proof, 17, 16)::bigint AND substr(proof, 34, 16)::bigint THEN
      signed := convert_to(left(proof, 50) || current_database() || '|' || tenant, 'UTF8');
      mac := sha256(decode(right(proof, 64), 'hex'));    -- hashed on both sides: comparing bytes tells nothing
      PERFORM FROM tenantproxy.context_key k             -- the key stays a column: a variable would show in debug_print_plan
        WHERE k.kid = substr(proof, 4, 1)::smallint
          AND k.not_after > transaction_timestamp()
          AND sha256(sha256(k.opad || sha256(k.ipad || signed))) = mac
          AND NOT EXISTS (SELECT FROM tenantproxy.fenced_tenant f WHERE f.tenant_id = tenant);
      IF FOUND THEN
        RETURN substr(proof, 34, 16)::bigint;
      END IF;
    END IF;
  END IF;
  RETURN NULL;
END
$f$;
REVOKE ALL ON FUNCTION tenantproxy.proof_until(text, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION tenantproxy.current_tenant() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  tenant text := current_setting('app.current_tenant_id', true);
BEGIN
  IF tenantproxy.proof_until(tenant, current_setting('app.tenant_proof', true)) IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '42501',
      MESSAGE = 'tenantproxy: no valid tenant context in this transaction';
  END IF;
  RETURN tenant;
END
$f$;
REVOKE ALL ON FUNCTION tenantproxy.current_tenant() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.current_tenant() TO :"app";

-- what to sign for "exact" mode: the transaction that is running now
CREATE OR REPLACE FUNCTION tenantproxy.challenge(OUT pid int, OUT at_us bigint)
LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $f$ SELECT pg_backend_pid(), round(date_part('epoch', transaction_timestamp()) * 1e6::float8)::bigint $f$;

RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
