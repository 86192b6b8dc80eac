-- tenantproxy: bound lease. The proof is verified once, when a backend is bound; the binding then lives in that backend's own memory.
-- That memory is currval() of two sequences which only the keeper may touch: no row to lock or bloat, no WAL, no snapshot, no rollback, no other session;
-- DISCARD SEQUENCES and DISCARD ALL empty it. Comes after signed_context.sql (same keeper, key table and proof format), in its transaction. PostgreSQL 15+.
GRANT tenantproxy_keeper TO CURRENT_USER;
SET LOCAL ROLE tenantproxy_keeper;

-- A standby that replays the creation of an unlogged sequence and is promoted before its next restartpoint has it without its row, and each use fails
-- (XX000, bad magic number). The next install makes such a one again.
DO $$
DECLARE
  name  text;
  whole boolean;
BEGIN
  FOREACH name IN ARRAY ARRAY['tenant_binding', 'tenant_mark', 'session_nonce', 'trusted_mark', 'context_salt', 'context_mark'] LOOP
    IF to_regclass('tenantproxy.' || name) IS NOT NULL THEN
      EXECUTE format('SELECT EXISTS (SELECT FROM tenantproxy.%I)', name) INTO whole;
      IF NOT whole THEN
        EXECUTE format('DROP SEQUENCE tenantproxy.%I', name);
      END IF;
    END IF;
  END LOOP;
END $$;
CREATE UNLOGGED SEQUENCE IF NOT EXISTS tenantproxy.tenant_binding;                                -- 31 random bits, 32 bits of unix time: valid until
CREATE UNLOGGED SEQUENCE IF NOT EXISTS tenantproxy.tenant_mark MINVALUE -9223372036854775808 START 1; -- which tenant, as a mark salted with the former
REVOKE ALL ON SEQUENCE tenantproxy.tenant_binding, tenantproxy.tenant_mark FROM PUBLIC;

-- 64 bits; SHA-256 so that names cannot be made to fit, the salt (new and secret in each binding) so that no user can search for a pair that does
CREATE OR REPLACE FUNCTION tenantproxy.mark(binding bigint, tenant text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN hashtextextended(encode(sha256(convert_to(tenant, 'UTF8')), 'hex') COLLATE "C", binding);
REVOKE ALL ON FUNCTION tenantproxy.mark(bigint, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION tenantproxy.bind(tenant text, proof text) RETURNS text    -- the tenant, so that the caller can compare
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  held    text := coalesce(current_setting('app.current_tenant_id', true), '');
  until   bigint := tenantproxy.proof_until(tenant, proof);
  random  text := replace(gen_random_uuid()::text, '-', '');
  binding bigint;
BEGIN
  IF until IS NULL OR substr(proof, 6, 10)::bigint = 0 THEN
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantproxy: the proof of tenancy is not valid on this connection';
  END IF;
  IF held NOT IN ('', tenant) THEN        -- a forgotten reset, not a defence: what else the other tenant left here is unknown
    RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'tenantproxy: this connection is another tenant''s, reset it first';
  END IF;
  IF held = '' THEN                       -- no reset touches the seed of random()
    PERFORM setseed(('x' || right(random, 8))::bit(32)::int / 2147483648.0::float8);
  END IF;
  binding := ('x' || left(random, 8))::bit(32)::bigint % 2147483648 << 32 | least(until / 1000000, 4294967295);
  PERFORM setval('tenantproxy.tenant_binding', binding), setval('tenantproxy.tenant_mark', tenantproxy.mark(binding, tenant)),
          set_config('app.current_tenant_id', tenant, false), set_config('app.tenant_proof', 'bound', false);
  RETURN tenant;
END $f$;
REVOKE ALL ON FUNCTION tenantproxy.bind(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.bind(text, text) TO :"app";

-- app.tenant_proof says how: 'bound' = app.current_tenant_id must be what this backend was bound to; else it is a proof, and checked each time
CREATE OR REPLACE FUNCTION tenantproxy.bound_tenant() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  tenant text := current_setting('app.current_tenant_id', true);
BEGIN
  IF coalesce(current_setting('app.tenant_proof', true), '') = 'bound'    -- few expressions: each is initialized again in every transaction
     AND (currval('tenantproxy.tenant_binding') & 4294967295) > date_part('epoch', transaction_timestamp())   -- 55000 after a lone DISCARD SEQUENCES
     AND currval('tenantproxy.tenant_mark') = tenantproxy.mark(currval('tenantproxy.tenant_binding'), tenant) THEN
    PERFORM FROM tenantproxy.fenced_tenant f WHERE f.tenant_id = tenant;
    IF NOT FOUND THEN
      RETURN tenant;
    END IF;
  ELSIF tenantproxy.proof_until(tenant, current_setting('app.tenant_proof', true)) IS NOT NULL THEN
    RETURN tenant;
  END IF;
  RAISE EXCEPTION USING ERRCODE = '42501',
    MESSAGE = 'tenantproxy: no valid tenant context in this transaction';
END $f$;
REVOKE ALL ON FUNCTION tenantproxy.bound_tenant() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.bound_tenant() TO :"app";

-- Before a backend goes to another tenant. Asked here, so that tenants need not read pg_prepared_statements, where the texts of others' statements stand.
CREATE OR REPLACE FUNCTION tenantproxy.prepared_check(expected bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
  PERFORM FROM pg_prepared_statement() p HAVING count(*) < expected OR bool_or(p.from_sql);
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = '55006',
      MESSAGE = 'tenantproxy: statements of the driver are gone from this session, or some were prepared in SQL';
  END IF;
  RETURN true;
END $f$;
REVOKE ALL ON FUNCTION tenantproxy.prepared_check(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.prepared_check(bigint) TO :"app";
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
