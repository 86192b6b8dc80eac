-- tenantproxy: signed settings. What a request says of itself (a workspace, a role, a user) stands in `app.context` as JSON, and policies and triggers read
-- it with tenantproxy.context('app.workspace'), which raises where it is not what the router signed for this tenant in this backend. As with the tenant,
-- the proof is verified once and what was verified lives in the backend's own memory; on a standby it is checked in each statement. Comes after
-- bound_lease.sql (same keeper, keys and marks), in its transaction. PostgreSQL 15+.
GRANT tenantproxy_keeper TO CURRENT_USER;
SET LOCAL ROLE tenantproxy_keeper;

CREATE UNLOGGED SEQUENCE IF NOT EXISTS tenantproxy.context_salt MINVALUE -9223372036854775808 START 1;   -- new and secret each time
CREATE UNLOGGED SEQUENCE IF NOT EXISTS tenantproxy.context_mark MINVALUE -9223372036854775808 START 1;   -- of the tenant and all of app.context
REVOKE ALL ON SEQUENCE tenantproxy.context_salt, tenantproxy.context_mark FROM PUBLIC;

-- A proof is 120 characters: context1.<kid 1>.<pid 10>.<from_us 16>.<to_us 16>.<mac 64 hex>; longer than a tenant's, so neither passes for the other
-- mac = HMAC-SHA256(key, 'context1.<kid>.<pid>.<from>.<to>.' || database || '|' || tenant || '|' || context)
-- Whether it holds now, for this backend. Only the functions of the keeper call it.
CREATE OR REPLACE FUNCTION tenantproxy.context_proven(tenant text, context text, proof text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
AS $f$
DECLARE
  signed bytea;
  mac    bytea;
BEGIN
  IF tenant <> '' AND length(proof) = 120 AND left(proof, 9) = 'context1.' THEN
    IF substr(proof, 12, 10)::bigint = pg_backend_pid()
       AND round(date_part('epoch', transaction_timestamp()) * 1e6::float8)::bigint
           BETWEEN substr(proof, 23, 16)::bigint AND substr(proof, 40, 16)::bigint THEN
      signed := convert_to(left(proof, 56) || current_database() || '|' || tenant || '|' || context, 'UTF8');
      mac := sha256(decode(right(proof, 64), 'hex'));    -- hashed on both sides: comparing bytes tells nothing
      PERFORM FROM tenantproxy.context_key k             -- the key stays a column: a variable would show in debug_print_plan
        WHERE k.kid = substr(proof, 10, 1)::smallint
          AND k.not_after > transaction_timestamp()
          AND sha256(sha256(k.opad || sha256(k.ipad || signed))) = mac;
      RETURN FOUND;
    END IF;
  END IF;
  RETURN false;
END
$f$;
REVOKE ALL ON FUNCTION tenantproxy.context_proven(text, text, text) FROM PUBLIC;

-- Called at each lease, right behind the bind: what a former user of the tenant had signed is worth nothing afterwards.
CREATE OR REPLACE FUNCTION tenantproxy.sign_context(context text, proof text) RETURNS text   -- the context, so that the caller can compare
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  tenant text := tenantproxy.bound_tenant();
  salt   bigint := ('x' || right(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint;
BEGIN
  IF tenantproxy.context_proven(tenant, context, proof) IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantproxy: the proof of the signed settings is not valid on this connection';
  END IF;
  PERFORM setval('tenantproxy.context_salt', salt), setval('tenantproxy.context_mark', tenantproxy.mark(salt, tenant || '|' || context)),
          set_config('app.context', context, false), set_config('app.context_proof', 'bound', false);
  RETURN context;
END $f$;
REVOKE ALL ON FUNCTION tenantproxy.sign_context(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.sign_context(text, text) TO :"app";

-- One signed setting of this session; NULL: its caller gave none. Put it in a sub-select, so that it is asked once a statement and not once a row.
CREATE OR REPLACE FUNCTION tenantproxy.context(name text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  tenant  text := tenantproxy.bound_tenant();
  context text := current_setting('app.context', true);
  proof   text := coalesce(current_setting('app.context_proof', true), '');
BEGIN
  IF (CASE proof WHEN 'bound' THEN
       currval('tenantproxy.context_mark') = tenantproxy.mark(currval('tenantproxy.context_salt'), tenant || '|' || context)
     ELSE tenantproxy.context_proven(tenant, context, proof) END) THEN
    RETURN context::json ->> name;
  END IF;
  RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantproxy: no valid signed settings in this transaction';
END $f$;
REVOKE ALL ON FUNCTION tenantproxy.context(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.context(text) TO :"app";
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
